/**
 * The same in one file: it carries the WebAssembly and the worker's script, for bundlers and servers that know of neither.
 * @module
 */
import * as embedded from './embedded.js';
import type { ModelSource } from './files/files.js';
import { loadWith } from './load.js';
import type { Model } from './model.js';
import type { LoadOptions } from './types.js';

let wasm: Uint8Array<ArrayBuffer> | undefined;

/** There is nothing to say: this entry carries its WebAssembly. */
export async function init(): Promise<void> {}

/** Loads a model as the package's main entry does. `refrain:NAME` is relative to `models/` beside the page, where `base` says nothing else. */
export function load(model: ModelSource, options: LoadOptions = {}): Promise<Model> {
  wasm ??= Uint8Array.from(atob(embedded.wasm), (character) => character.charCodeAt(0));
  return loadWith(
    {
      wasm,
      worker: () => {
        const address = URL.createObjectURL(new Blob([embedded.worker], { type: 'text/javascript' }));
        const worker = new Worker(address, { type: 'module', name: 'refrain' });
        // The script is fetched soon, and nobody says when: a minute is more than enough.
        setTimeout(() => URL.revokeObjectURL(address), 60_000);
        return worker;
      },
      models: () => new URL('models/', globalThis.location?.href).href,
    },
    model,
    options,
  );
}

export { RefrainError, type Code } from './errors.js';
export { cache, type ModelSource } from './files/files.js';
export { type Generation } from './generation.js';
export { probe, type Probe } from './gpu.js';
export { type Model, type Prompt, type Sweep, type SweepOptions } from './model.js';
export type * from './types.js';
