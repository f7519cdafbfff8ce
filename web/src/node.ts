/**
 * The same for Node: on WebGPU where the package `webgpu` is installed, else on the CPU. Models may be folders on disk.
 * @module
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { RefrainError } from './errors.js';
import { openFolder } from './files/disk.js';
import type { Files, ModelSource } from './files/files.js';
import { loadHere } from './local.js';
import { checkGpu } from './gpu.js';
import { guarded } from './load.js';
import { checkNumbers, Model } from './model.js';
import type { LoadOptions, Lost, WebGpu } from './types.js';
import type { WasmSource } from './wasm.js';

let wasm: WasmSource | undefined;

/** Says where the engine's WebAssembly is, before the first load. Optional: by default it is the package's own. */
export async function init(options: { wasm?: WasmSource } = {}): Promise<void> {
  wasm = options.wasm;
}

/** Loads a model: `refrain:follow`, the path of a folder, or what the main entry takes. It runs in this thread; `worker` has no meaning here. */
export async function load(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
  const { signal, onProgress, cache, integrity, fetch, headers, powerPreference, backend, dtype, contextLength, maxLoops, device } = options;
  if (options.worker) throw new RefrainError('argument', 'worker: expected false in Node, found true', { hint: 'call load in a worker thread of your own' });
  signal?.throwIfAborted();
  checkNumbers({ ...options });
  checkGpu(options);
  const files = folderOf(source, options.base);
  const gpu = backend === 'cpu' || device ? undefined : (options.gpu ?? (await dawn(backend === 'webgpu')));
  let model: Model | undefined;
  const session = await loadHere({
    source,
    files,
    base: options.base,
    hub: options.hub,
    wasm: wasm ?? (await readFile(new URL('./refrain_bg.wasm', import.meta.url))),
    cache: cache ?? 'none',
    integrity,
    headers,
    fetch,
    signal,
    engine: { backend: gpu || device ? backend : 'cpu', dtype, contextLength, maxLoops },
    gpu: { gpu, device, powerPreference },
    onProgress: guarded(onProgress),
    onLost: (lost: Lost) => model?.lose(lost),
  });
  if (!gpu && !device && backend !== 'cpu') {
    session.info = { ...session.info, backendNote: 'the package webgpu is not installed: the model runs on the CPU' };
  }
  model = new Model(session);
  return model;
}

/** The files of a folder on disk, if that is what was named. */
function folderOf(source: ModelSource, base: string | URL | undefined): Files | undefined {
  if (typeof source !== 'string' && !(source instanceof URL)) return undefined;
  const name = String(source);
  if (name.startsWith('refrain:')) {
    const model = name.slice('refrain:'.length);
    if (!/^[a-z0-9][a-z0-9._-]*$/i.test(model)) {
      throw new RefrainError('argument', `the model: expected refrain:NAME, found ${name}`, { hint: 'the shipped ones are follow, cups and add' });
    }
    const models = new URL(base ?? '../models/', import.meta.url);
    return models.protocol === 'file:' ? openFolder(fileURLToPath(new URL(`${model}/`, models)), name) : undefined;
  }
  if (name.startsWith('file:')) return openFolder(fileURLToPath(name));
  return /^[a-z][a-z0-9+.-]+:/i.test(name) ? undefined : openFolder(name);
}

/** WebGPU by the package `webgpu`, if it is installed. */
async function dawn(asked: boolean): Promise<WebGpu | undefined> {
  const name = 'webgpu'; // optional: no bundler is to look for it
  try {
    const { create, globals } = (await import(name)) as { create: (flags: string[]) => WebGpu; globals: Record<string, unknown> };
    // Classes of errors, which the engine compares with. What is there already stays.
    for (const [key, value] of Object.entries(globals)) if (!(key in globalThis)) Object.defineProperty(globalThis, key, { value, configurable: true });
    return create([]);
  } catch (cause) {
    if (!asked) return undefined;
    throw new RefrainError('no_adapter', `no WebGPU in Node: ${cause instanceof Error ? cause.message : String(cause)}`, { hint: 'npm install webgpu, or take backend: cpu', cause });
  }
}

export { RefrainError, type Code } from './errors.js';
export { type ModelSource } from './files/files.js';
export { type Generation } from './generation.js';
export { type Model, type Prompt, type Sweep, type SweepOptions } from './model.js';
export type * from './types.js';
