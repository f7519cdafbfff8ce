/**
 * Runs recurrent-depth (looped) transformers in the browser, on WebGPU or on the CPU.
 * @module
 */
import type { ModelSource } from './files/files.js';
import { loadWith } from './load.js';
import type { Model } from './model.js';
import type { LoadOptions } from './types.js';
import type { WasmSource } from './wasm.js';

/** A variable: a bundler would take a folder's address for that of a file. */
const here = import.meta.url;
let wasm: WasmSource | undefined;

/** Says where the engine's WebAssembly is, before the first load. Optional: by default it is the `refrain_bg.wasm` beside this script. */
export async function init(options: { wasm?: WasmSource } = {}): Promise<void> {
  wasm = options.wasm;
}

/**
 * Loads a model: `refrain:follow` (shipped with the package), `hf:owner/repo`, the address of a folder with `config.json` and
 * `model.safetensors`, the files of a folder, or a tar of one.
 */
export function load(model: ModelSource, options: LoadOptions = {}): Promise<Model> {
  return loadWith(
    {
      wasm,
      worker: () => new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'refrain' }),
      models: () => new URL('../models/', here).href,
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
export type { WasmSource } from './wasm.js';
