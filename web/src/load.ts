import type { ModelSource } from './files/files.js';
import { RefrainError } from './errors.js';
import { checkGpu, checkInline } from './gpu.js';
import { checkNumbers, Model } from './model.js';
import { Remote } from './remote.js';
import type { LoadOptions, Lost } from './types.js';
import type { WasmSource } from './wasm.js';

/** What differs between the entries of the package. */
export interface Entry {
  /** The engine's WebAssembly; the file beside the script where there is none. */
  wasm?: WasmSource;
  /** Starts the worker's script. */
  worker: () => Worker;
  /** What `refrain:NAME` is relative to. */
  models: () => string;
}

/** Loads a model, in a Worker of its own or here. */
export async function loadWith(entry: Entry, source: ModelSource, options: LoadOptions): Promise<Model> {
  const { signal, onProgress, worker, cache, integrity, fetch, headers, powerPreference, backend, dtype, contextLength, maxLoops, gpu, device } = options;
  signal?.throwIfAborted();
  checkNumbers({ ...options });
  checkGpu(options);
  const engine = { backend, dtype, contextLength, maxLoops };
  const base = options.base === undefined ? entry.models() : new URL(options.base, globalThis.location?.href).href;
  const hub = options.hub === undefined ? undefined : new URL(options.hub, globalThis.location?.href).href;
  let model: Model | undefined;
  const onLost = (lost: Lost) => model?.lose(lost);
  // Pages must not wait for a model; a Worker of the caller's own may.
  if (worker ?? typeof document !== 'undefined') {
    checkInline(options);
    const wasm = entry.wasm instanceof Response ? await entry.wasm.clone().arrayBuffer() : entry.wasm;
    const load = {
      source: fullAddress(source),
      wasm: wasm instanceof URL ? wasm.href : wasm,
      base,
      hub,
      cache,
      integrity,
      headers: headers === undefined ? undefined : [...new Headers(headers)],
      powerPreference,
      engine,
    };
    model = new Model(await Remote.load(startWorker(entry), load, signal, { onProgress: guarded(onProgress), onLost }));
  } else {
    // Only who runs a model here needs all that: a page with a Worker never fetches it.
    const { loadHere } = await import('./local.js');
    const choice = { gpu, device, powerPreference };
    model = new Model(
      await loadHere({ source, wasm: entry.wasm, base, hub, cache, integrity, headers, fetch, signal, engine, gpu: choice, onProgress: guarded(onProgress), onLost }),
    );
  }
  return model;
}

/** What a callback throws is the page's own affair: it must not end a load, and not go unseen. */
export function guarded<T>(callback: ((value: T) => void) | undefined): ((value: T) => void) | undefined {
  if (!callback) return undefined;
  return (value) => {
    try {
      callback(value);
    } catch (error) {
      if (typeof reportError === 'function') reportError(error);
      else console.error(error);
    }
  };
}

function startWorker(entry: Entry): Worker {
  try {
    return entry.worker();
  } catch (cause) {
    throw new RefrainError('usage', `no Worker can be started here: ${cause instanceof Error ? cause.message : String(cause)}`, {
      hint: "load with worker: false, or let the page's Content-Security-Policy allow it (worker-src; for refrain/inline also blob:)",
      cause,
    });
  }
}

/** A worker's script may lie elsewhere: what is relative to the page must not become relative to it. */
function fullAddress(source: ModelSource): ModelSource {
  if (source instanceof URL) return source.href;
  if (typeof source === 'string') return /^[a-z][a-z0-9+.-]*:/i.test(source) ? source : new URL(source, globalThis.location?.href).href;
  if (source instanceof Blob || source instanceof ReadableStream) return source;
  if (typeof source === 'object' && source !== null && Symbol.iterator in source) return [...source];
  throw new RefrainError('argument', `the model: expected a name, a URL, a Blob, a ReadableStream or Files, found ${String(source)}`, {
    hint: 'of a Response give its body',
  });
}
