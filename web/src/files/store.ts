/**
 * Where one model's files are kept: a folder in OPFS with a manifest, or nowhere.
 *
 * The folder's name is the SHA-256 of the model's URL. The manifest says of each file its size, version and, once it is whole, its hash; a
 * file's bytes are of the version that the manifest names, always: it is written before the first of them, and they are deleted before it.
 */

import { RefrainError } from '../errors.js';
import { openStored, Part } from './part.js';
import type { Entry } from './folder.js';
import type { OpenOptions } from './files.js';
import type { Remote } from './source.js';
import type { FileRecord } from './transfer.js';

/** The folder in OPFS that holds the folders of the models. */
const ROOT = 'refrain-models';
/** No file of a model can have this name. */
export const MANIFEST = 'manifest.json';

export interface Manifest {
  /** Of this format. Another one is taken for an empty folder. */
  version: 1;
  model: string;
  url: string;
  /** When it was opened last, in milliseconds. */
  used: number;
  /** Everything that the model has is here. */
  complete: boolean;
  files: Record<string, FileRecord>;
}

export class Store {
  /** Why weights do not lie in OPFS, if they do not. */
  note: string | undefined;
  private writing: Promise<boolean> = Promise.resolve(true);

  private constructor(private readonly remote: Remote, private readonly folder: FileSystemDirectoryHandle | undefined, readonly manifest: Manifest) {}

  /** The store of a model, and what it holds from earlier. */
  static async open(remote: Remote, cache: OpenOptions['cache']): Promise<Store> {
    const empty: Manifest = { version: 1, model: remote.name, url: remote.folder.href, used: 0, complete: false, files: {} };
    if (cache === 'none') return new Store(remote, undefined, empty);
    try {
      const folder = await (await openRoot()).getDirectoryHandle(await folderName(remote.folder), { create: true });
      const manifest = await readManifest(folder);
      const store = new Store(remote, folder, { ...(manifest ?? empty), model: remote.name });
      if (!manifest) {
        // Others must be able to see what this folder is from now on.
        await store.save({});
      }
      if (!isWorker()) store.note = 'weights are in memory: outside of a Worker OPFS cannot be read synchronously';
      return store;
    } catch (cause) {
      const found = describe(cause);
      if (cache === 'opfs') {
        const hint = "OPFS needs a secure page (https or localhost) and no private window; cache: 'auto' takes memory instead";
        throw new RefrainError('file', `${remote.name}: expected OPFS to keep it in, found ${found}`, { hint, cause });
      }
      const store = new Store(remote, undefined, empty);
      store.note = `weights are in memory: OPFS cannot be used (${found})`;
      return store;
    }
  }

  get isInOpfs(): boolean {
    return this.folder !== undefined;
  }

  /** The files of a model that is whole here; undefined where it is not, or where a file is not as it was or not as `integrity` wants it. */
  async openWhole(integrity: Record<string, string>): Promise<Map<string, Entry> | undefined> {
    const { manifest } = this;
    if (!manifest.complete) return undefined;
    const entries = new Map<string, Entry>();
    let whole = Object.keys(integrity).every((file) => file in manifest.files);
    for (const [file, { size, sha256 }] of Object.entries(manifest.files)) {
      const entry = await this.openFile(file).catch(() => undefined);
      if (entry) entries.set(file, entry);
      const good = entry?.size === size && sha256 !== undefined && (integrity[file] ?? sha256) === sha256;
      // Without its record it is fetched from its first byte on.
      if (!good) delete manifest.files[file];
      whole &&= good;
    }
    if (whole) this.save({ used: Date.now() });
    else for (const entry of entries.values()) entry.close();
    return whole ? entries : undefined;
  }

  /** A file that is whole here, for reading. */
  async openFile(file: string): Promise<Entry> {
    if (!this.folder) throw new Error('no OPFS');
    return openStored(`${this.remote.name}/${file}`, await this.folder.getFileHandle(file));
  }

  /** A file that is not whole yet, or not known to be of the server's version. */
  async openPart(file: string, record: FileRecord): Promise<Part> {
    let handle: FileSystemFileHandle | undefined;
    try {
      handle = await this.folder?.getFileHandle(file, { create: true });
    } catch (error) {
      this.fail(error);
    }
    return Part.open(`${this.remote.name}/${file}`, handle, record.validator !== undefined, (error) => this.fail(error));
  }

  /** Writes down what is known of a file now; false where that fails. */
  record(file: string, record: FileRecord): Promise<boolean> {
    this.manifest.files[file] = { ...record };
    return this.save({ complete: false });
  }

  /** Deletes a file, and what is known of it. */
  async remove(file: string): Promise<void> {
    try {
      await this.folder?.removeEntry(file);
    } catch (error) {
      // Without its record it is of no use to anyone.
      if (!(error instanceof DOMException && error.name === 'NotFoundError')) this.fail(error);
    }
    delete this.manifest.files[file];
    this.save({ complete: false });
  }

  /** Writes the manifest, after all that were to be written before; false where that fails. */
  save(change: Partial<Manifest>): Promise<boolean> {
    Object.assign(this.manifest, change);
    const text = JSON.stringify(this.manifest);
    const { folder } = this;
    if (folder) {
      this.writing = this.writing.then(() => writeText(folder, text)).then(() => true, (error) => { this.fail(error); return false; });
    }
    return this.writing;
  }

  /** Deletes the folder if there is nothing in it to go on from. */
  async tidy(): Promise<void> {
    await this.settle();
    if (!this.folder || Object.keys(this.manifest.files).length > 0) return;
    await (await openRoot()).removeEntry(this.folder.name, { recursive: true }).catch((error) => this.fail(error));
  }

  /** Waits until everything is written. */
  async settle(): Promise<void> {
    await this.writing;
  }

  private fail(error: unknown): void {
    const found = error instanceof DOMException && error.name === 'NoModificationAllowedError' ? 'another tab or Worker has it open' : describe(error);
    this.note = `OPFS does not hold the whole model (${found})`;
  }
}

/** The folder that holds the folders of the models. Throws where there is no OPFS. */
export async function openRoot(): Promise<FileSystemDirectoryHandle> {
  const storage = typeof navigator === 'undefined' ? undefined : navigator.storage;
  if (typeof storage?.getDirectory !== 'function') throw new Error('there is none here');
  return (await storage.getDirectory()).getDirectoryHandle(ROOT, { create: true });
}

/** The manifest in a folder; undefined where there is none, or none that can be read. */
export async function readManifest(folder: FileSystemDirectoryHandle): Promise<Manifest | undefined> {
  try {
    const file = await (await folder.getFileHandle(MANIFEST)).getFile();
    const manifest = JSON.parse(await file.text()) as Manifest;
    return manifest.version === 1 ? manifest : undefined;
  } catch {
    return undefined;
  }
}

/** Runs alone among all tabs and Workers that use a model, where there are Web Locks. Else handles exclude each other, which is safe, but costs memory. */
export async function withLock<T>(folder: URL, signal: AbortSignal, action: () => Promise<T>): Promise<T> {
  const locks = typeof navigator === 'undefined' ? undefined : navigator.locks;
  if (!locks) return action();
  try {
    return await locks.request(lockName(folder.href), { signal }, action);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}

export function lockName(url: string): string {
  return `refrain:${url}`;
}

/** Whether OPFS can be read synchronously here. */
function isWorker(): boolean {
  return typeof FileSystemFileHandle !== 'undefined' && 'createSyncAccessHandle' in FileSystemFileHandle.prototype;
}

/** Any URL as the name of a folder. */
async function folderName(url: URL): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(url.href));
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

async function writeText(folder: FileSystemDirectoryHandle, text: string): Promise<void> {
  const file = await folder.getFileHandle(MANIFEST, { create: true });
  // Some browsers have this on pages only in their newest versions, and not in Workers.
  if (typeof file.createWritable === 'function') {
    const stream = await file.createWritable();
    await stream.write(text);
    await stream.close();
    return;
  }
  const part = await Part.open(MANIFEST, file, false, () => {});
  await part.append(new TextEncoder().encode(text));
  const { isKept } = part;
  await part.close();
  if (!isKept) throw new Error('the manifest could not be written');
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}
