import init, * as engine from './refrain.js';
import { RefrainError } from './errors.js';

/** Where the engine's WebAssembly comes from: its address, its bytes, or what was compiled of it. */
export type WasmSource = string | URL | Response | BufferSource | WebAssembly.Module;

let started: Promise<void> | undefined;

/** Starts the engine once; later calls wait for the first. Without a source it is the `refrain_bg.wasm` beside this file. */
export function startWasm(wasm?: WasmSource): Promise<void> {
  started ??= start(wasm).catch((error) => {
    started = undefined; // the next call may do better
    throw error;
  });
  return started;
}

async function start(wasm?: WasmSource): Promise<void> {
  try {
    await init(wasm === undefined ? undefined : { module_or_path: await checked(wasm) });
  } catch (cause) {
    if (RefrainError.is(cause)) throw cause;
    throw new RefrainError('file', `cannot start the engine: ${cause instanceof Error ? cause.message : String(cause)}`, {
      hint: hintFor(cause),
      cause,
    });
  }
}

function hintFor(cause: unknown): string {
  if (/content.security.policy/i.test(String(cause))) return "let the page's Content-Security-Policy allow 'wasm-unsafe-eval' in script-src";
  if ((globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node) return "in Node import 'refrain/node'";
  return 'serve refrain_bg.wasm beside the script, name its address in init({wasm}), or use refrain/inline, which carries it; in the development server of Vite set optimizeDeps.exclude to ["refrain"]';
}

/** An address is fetched here: what the server sent instead deserves its own message. */
async function checked(wasm: WasmSource): Promise<Response | BufferSource | WebAssembly.Module> {
  if (typeof wasm !== 'string' && !(wasm instanceof URL)) return wasm;
  const response = await fetch(wasm);
  const type = response.headers.get('content-type') ?? '';
  if (!response.ok || type.includes('text/html')) {
    const found = response.ok ? 'an HTML page' : `status ${response.status}`;
    throw new RefrainError(response.ok ? 'format' : 'file', `${response.url || wasm}: expected the engine's WebAssembly, found ${found}`, {
      hint: 'name the address of refrain_bg.wasm in init({wasm})',
    });
  }
  return response;
}

/** An error of the engine: it throws plain objects with the crate's codes. */
export function fromWasm(error: unknown): unknown {
  if (typeof error === 'object' && error !== null && 'code' in error && 'message' in error) {
    const { code, message, hint, details } = error as { code: never; message: string; hint?: string | null; details?: unknown };
    return new RefrainError(code, message, { hint: hint ?? undefined, details: details ?? undefined });
  }
  if (error instanceof WebAssembly.RuntimeError) {
    const full = /memory|allocat/i.test(error.message);
    return new RefrainError(full ? 'memory' : 'usage', `the engine stopped: ${error.message}`, {
      hint: 'load the model again, in a smaller dtype or with a shorter contextLength if memory ran out',
      cause: error,
    });
  }
  return error;
}

export { engine };
