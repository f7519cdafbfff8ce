import { type Files, type ModelSource, openFiles } from './files/files.js';
import type { GpuChoice } from './gpu.js';
import { type EngineHooks, type EngineOptions, Session } from './session.js';
import type { Lost, Progress } from './types.js';
import { engine, startWasm, type WasmSource } from './wasm.js';

/** Where a model comes from and how it is to be had. */
export interface Loading {
  source: ModelSource;
  /** Files that are open already, instead of a source. */
  files?: Files;
  wasm?: WasmSource;
  base?: string | URL;
  hub?: string | URL;
  cache?: 'auto' | 'opfs' | 'none';
  integrity?: Record<string, string>;
  headers?: HeadersInit;
  fetch?: typeof globalThis.fetch;
  signal?: AbortSignal;
  engine: EngineOptions;
  gpu: GpuChoice;
  onProgress?: (progress: Progress) => void;
  onLost?: (lost: Lost) => void;
}

/** How much of a load each phase is thought to be. */
const SHARES = { download: [0, 0.7], verify: [0, 0.7], upload: [0.7, 0.9], compile: [0.9, 1], ready: [1, 1] } as const;

/** Turns what the phases tell into one bar that never goes back. */
function meter(onProgress: ((progress: Progress) => void) | undefined) {
  const begun = performance.now();
  let fraction = 0;
  return (phase: keyof typeof SHARES, loaded: number, total: number, of?: { file: string; fromCache: boolean }) => {
    const last = SHARES[phase][1];
    // Where nothing is downloaded, what comes next begins at 0.
    const first = Math.min(SHARES[phase][0], fraction);
    fraction = Math.max(fraction, first + (last - first) * (total > 0 ? Math.min(1, loaded / total) : 0));
    onProgress?.({ phase, fraction, loaded, total, elapsedMs: performance.now() - begun, ...of } as Progress);
  };
}

/** What becomes of a session that nobody waits for any more: it is disposed of once it is there. */
async function unlessAborted(opening: Promise<Session>, files: Files, signal: AbortSignal | undefined): Promise<Session> {
  if (!signal) return opening;
  let abort!: () => void;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
  });
  try {
    return await Promise.race([opening, aborted]);
  } catch (error) {
    void opening.then(
      (session) => session.dispose(),
      () => files.close(),
    );
    throw error;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** Loads a model into this thread. An abort is heard wherever the thread is given away: while files come and while a GPU compiles. */
export async function loadHere(loading: Loading): Promise<Session> {
  const { source, wasm, base, hub, cache, integrity, headers, fetch, signal, onLost } = loading;
  signal?.throwIfAborted();
  const tell = meter(loading.onProgress);
  await startWasm(wasm);
  signal?.throwIfAborted();
  const files =
    loading.files ??
    (await openFiles(source, {
      base,
      hub,
      cache,
      integrity,
      headers,
      fetch,
      signal,
      sha256: () => new engine.Sha256(),
      onProgress: ({ phase, file, loaded, total, fromCache }) => tell(phase, loaded, total, { file, fromCache }),
    }));
  const hooks: EngineHooks = { onProgress: tell, onLost };
  try {
    const opening = Session.open(files, loading.engine, loading.gpu, hooks);
    const session = await unlessAborted(opening, files, signal);
    tell('ready', 1, 1);
    return session;
  } catch (error) {
    // After an abort they are read until the session is there, and closed with it.
    if (!signal?.aborted) files.close();
    throw error;
  }
}
