/**
 * Loading: where a model's files come from, and the synchronous reads that the engine makes of them.
 *
 * A model is a folder: `config.json`, `model.safetensors` (or the shards that `model.safetensors.index.json` lists) and, where they are,
 * `generation_config.json` and `tokenizer.json`. The engine reads weights piece by piece, so they never lie in wasm memory as a whole: in a
 * Worker they stay in OPFS (the browser's private file system), elsewhere in one `ArrayBuffer` per file.
 *
 * A model that is whole in OPFS is opened without any request, also offline. It is therefore not noticed that a server has a newer one:
 * `cache.delete(model)` or `cache: 'none'` fetches anew. What was cut off, by an error, an abort or a closed tab, goes on where it stopped if
 * the server names a version of the file (ETag, Last-Modified) and that is still the same.
 */

import { RefrainError } from '../errors.js';
import { openRemote } from './download.js';
import { checkIntegrity } from './hash.js';
import { openArchive, openPicked } from './local.js';
import { resolveSource } from './source.js';

export { cache, type CachedModel } from './cache.js';
export { resolveSource } from './source.js';

/** The files of one model, open for reading. */
export interface Files {
  /** What messages call the model. */
  readonly name: string;
  /** Where the weights lie. */
  readonly storage: 'opfs' | 'memory' | 'disk';
  /** Why they do not lie in OPFS, for people. */
  readonly note?: string;
  /** Whether nothing was fetched. */
  readonly fromCache: boolean;
  names(): string[];
  /** In bytes; undefined where there is no such file. */
  size(file: string): number | undefined;
  /** Fills `into` with the bytes from `offset` on, or throws a RefrainError('file'). */
  read(file: string, offset: number, into: Uint8Array): void;
  /** Releases handles, file descriptors and memory. */
  close(): void;
}

/**
 * A string is `refrain:NAME` (a model beside the package), `hf:owner/repo[@revision]`, or the URL of a folder or of a file in it. A Blob or
 * stream holds a tar of the folder, gzip'd or not. Files are what a folder picker gave.
 */
export type ModelSource = string | URL | Blob | Iterable<File> | ReadableStream<Uint8Array>;

/** Bytes over all files. Neither `loaded` nor `loaded / total` ever falls; where a server tells no length, `total` grows with `loaded`. */
export interface DownloadProgress {
  /** 'verify': what an earlier load left is read back, for its hash. */
  phase: 'download' | 'verify';
  file: string;
  loaded: number;
  total: number;
  /** Whether this file comes from the cache. */
  fromCache: boolean;
}

/** A SHA-256 that is fed piece by piece. */
export interface Sha256 {
  update(bytes: Uint8Array): void;
  /** 64 hex digits. */
  digest(): string;
  free(): void;
}

export interface OpenOptions {
  /** Aborting rejects with `signal.reason`; what has arrived stays in OPFS, and the next load goes on from there. */
  signal?: AbortSignal;
  onProgress?: (progress: DownloadProgress) => void;
  /**
   * Where downloads go. 'auto': OPFS if there is one, else memory; 'opfs': an error if there is none; 'none': memory, and OPFS is not looked
   * at. Files and blobs are read where they are, whatever is said here.
   */
  cache?: 'auto' | 'opfs' | 'none';
  /** What the files must hash to: file name → 'sha256-' and base64, or 64 hex digits. A file named here must be there. */
  integrity?: Record<string, string>;
  /** Instead of the global one. */
  fetch?: typeof globalThis.fetch;
  /** Sent with every request, wherever the source leads: give credentials only with a source that you know. */
  headers?: HeadersInit;
  /** What `refrain:NAME` is relative to. */
  base?: string | URL;
  /** The address of the Hub that `hf:owner/repo` is on. */
  hub?: string | URL;
  /** Makes a hash; of the wasm, or of node:crypto in tests. */
  sha256: () => Sha256;
}

/**
 * Opens a model, and downloads it first if need be.
 *
 * Throws a RefrainError: 'argument' for an unusable source or option, 'file' for what is missing or cannot be reached, 'format' for what is not
 * what its name says; or the signal's reason, as it is.
 */
export async function openFiles(source: ModelSource, options: OpenOptions): Promise<Files> {
  options.signal?.throwIfAborted();
  const integrity = checkIntegrity(options.integrity ?? {});
  if (!['auto', 'opfs', 'none', undefined].includes(options.cache)) {
    throw new RefrainError('argument', `cache: expected 'auto', 'opfs' or 'none', found ${JSON.stringify(options.cache)}`);
  }
  const checked = { ...options, integrity };
  if (typeof source === 'string' || source instanceof URL) return openRemote(resolveSource(source, options), checked);
  if (source instanceof Blob || source instanceof ReadableStream) return openArchive(source, checked);
  if (typeof source === 'object' && source !== null && Symbol.iterator in source) return openPicked(source, checked);
  throw new RefrainError('argument', `the model: expected a name, a URL, a Blob, a ReadableStream or Files, found ${String(source)}`);
}

/** The options after they were checked: hashes are hex. */
export type CheckedOptions = OpenOptions & { integrity: Record<string, string> };
