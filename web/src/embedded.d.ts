/** Written by the build: the engine's WebAssembly in base64, and the text of the worker's script. */
export const wasm: string;
export const worker: string;
