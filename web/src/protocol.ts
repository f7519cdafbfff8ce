import type { ErrorData } from './errors.js';
import type { ModelSource } from './files/files.js';
import type { EngineOptions, Request } from './session.js';
import type { Forward, Info, Lost, Progress, Step } from './types.js';
import type { WasmSource } from './wasm.js';

/** What a worker needs to load a model: all of it can be cloned. */
export interface Load {
  source: ModelSource;
  wasm?: Exclude<WasmSource, Response>;
  base?: string;
  hub?: string;
  cache?: 'auto' | 'opfs' | 'none';
  integrity?: Record<string, string>;
  headers?: [string, string][];
  powerPreference?: 'low-power' | 'high-performance';
  engine: EngineOptions;
}

/** Calls that have one answer. */
export interface Calls {
  load: (load: Load) => Info;
  generate: (request: Request) => void;
  forward: (tokens: number[], request: Request) => Forward;
  encode: (text: string) => Uint32Array;
  decode: (tokens: number[]) => string;
  dispose: () => void;
}

/** To the worker: a call, its end before its time, or a wish for the next step of a generation. */
export type ToWorker =
  | { [Name in keyof Calls]: { id: number; call: Name; args: Parameters<Calls[Name]> } }[keyof Calls]
  | { id: number; cancel: true }
  | { id: number; more: boolean };

/** From the worker. */
export type FromWorker =
  | { id: number; value: ReturnType<Calls[keyof Calls]>; info?: Info }
  | { id: number; error: ErrorData }
  | { id: number; step: Step }
  | { progress: Progress }
  | { lost: Lost };
