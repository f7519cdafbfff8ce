/**
 * A file on its way, and files in OPFS.
 *
 * In a Worker bytes go into OPFS through a synchronous handle, and are read back through one: they are in memory nowhere. On a page's own
 * thread there are no such handles. The bytes are kept in memory then, because reads are synchronous, and a copy goes into OPFS. Where OPFS
 * fails on the way, most often for want of room, what it holds is read back and the rest goes to memory.
 */

import { RefrainError } from '../errors.js';
import { Broken } from './http.js';
import { Memory } from './memory.js';
import type { Entry } from './folder.js';

/** TypeScript knows these in Workers only, and this file is for both. */
interface SyncHandle {
  read(into: Uint8Array, options: { at: number }): number;
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}
interface SyncFile {
  createSyncAccessHandle?(options?: { mode: 'readwrite' | 'read-only' }): Promise<SyncHandle>;
}
declare const FileReaderSync: (new () => { readAsArrayBuffer(blob: Blob): ArrayBuffer }) | undefined;

const PIECE = 1 << 20;

export class Part implements Pick<Entry, 'size' | 'read'> {
  /** Bytes that are there. */
  size = 0;
  /** They are in memory, whether or not OPFS has them too. */
  memory: Memory | undefined;
  private handle: SyncHandle | undefined;
  private copy: FileSystemWritableFileStream | undefined;
  private expected = 0;

  private constructor(
    private readonly path: string, private readonly file: FileSystemFileHandle | undefined, private readonly onFailure: (error: unknown) => void,
  ) {}

  /**
   * `file`: where it goes in OPFS, if it does. `keep`: what is there is of use. `onFailure` hears why OPFS does not hold the file.
   */
  static async open(
    path: string, file: FileSystemFileHandle | undefined, keep: boolean, onFailure: (error: unknown) => void,
  ): Promise<Part> {
    const part = new Part(path, file, onFailure);
    try {
      if (file && hasSyncHandles(file)) {
        part.handle = await file.createSyncAccessHandle();
        part.size = part.handle.getSize();
      } else {
        part.memory = new Memory(path);
        if (file) await part.openCopy(file, part.memory);
      }
    } catch (error) {
      onFailure(error);
      part.memory ??= new Memory(path);
    }
    if (!keep && part.size > 0) await part.restart();
    return part;
  }

  private async openCopy(file: FileSystemFileHandle, memory: Memory): Promise<void> {
    const there = await file.getFile();
    // What is there fits into memory, because the whole must.
    memory.append(new Uint8Array(await there.arrayBuffer()));
    this.size = memory.size;
    if (typeof file.createWritable !== 'function') throw new Error('this browser writes to it only in a Worker');
    this.copy = await file.createWritable({ keepExistingData: true });
    await this.copy.seek(this.size);
  }

  /** Whether OPFS holds what is there. */
  get isKept(): boolean {
    return this.handle !== undefined || this.copy !== undefined;
  }

  /** The whole will have so many bytes. */
  expect(size: number): void {
    this.expected = size;
    this.memory?.reserve(size);
  }

  async append(bytes: Uint8Array): Promise<void> {
    if (this.handle) {
      try {
        // The handle may take less than it is given.
        for (let done = 0; done < bytes.length; ) {
          const count = this.handle.write(done === 0 ? bytes : bytes.subarray(done), { at: this.size + done });
          if (count === 0) throw new Error('nothing was written');
          done += count;
        }
        this.size += bytes.length;
        return;
      } catch (error) {
        this.onFailure(error);
        this.moveToMemory(this.handle);
      }
    }
    this.memory?.append(bytes);
    this.size += bytes.length;
    try {
      await this.copy?.write(bytes as Uint8Array<ArrayBuffer>);
    } catch (error) {
      this.copy = undefined;
      this.onFailure(error);
    }
  }

  read(offset: number, into: Uint8Array): void {
    if (this.handle) readAll(this.handle, offset, into);
    else this.memory?.read(offset, into);
  }

  /** Forgets what is there, also in OPFS: bytes of one version must not be found beside the validator of another. */
  async restart(): Promise<void> {
    this.size = 0;
    if (this.memory) this.memory.size = 0;
    try {
      this.handle?.truncate(0);
      if (this.copy) {
        // Only closing makes it so.
        await this.copy.truncate(0);
        await this.copy.close();
        this.copy = await this.file?.createWritable();
      }
    } catch (error) {
      this.handle?.close();
      this.handle = this.copy = undefined;
      this.memory ??= new Memory(this.path);
      this.onFailure(error);
    }
  }

  /** Makes OPFS keep what is there; a copy that is not closed is lost. */
  async close(): Promise<void> {
    this.memory?.finish();
    try {
      this.handle?.flush();
      await this.copy?.close();
    } catch (error) {
      this.copy = undefined;
      this.onFailure(error);
    }
    this.handle?.close();
  }

  /** From here on nothing goes into OPFS. */
  async leaveOpfs(): Promise<void> {
    const { handle, copy } = this;
    this.copy = undefined;
    if (handle) this.moveToMemory(handle);
    await copy?.abort().catch(() => {});
  }

  private moveToMemory(handle: SyncHandle): void {
    const memory = new Memory(this.path);
    this.memory = memory;
    this.handle = undefined;
    try {
      memory.reserve(Math.max(this.size, this.expected));
      const piece = new Uint8Array(PIECE);
      while (memory.size < this.size) {
        const bytes = piece.subarray(0, Math.min(PIECE, this.size - memory.size));
        readAll(handle, memory.size, bytes);
        memory.append(bytes);
      }
      // What was written of the piece that failed belongs to no known size.
      handle.truncate(this.size);
    } catch (cause) {
      this.size = memory.size = 0;
      if (RefrainError.is(cause)) throw cause;
      throw new Broken('OPFS, which does not give back what it took', undefined, undefined, cause);
    } finally {
      handle.close();
    }
  }
}

function hasSyncHandles(file: FileSystemFileHandle): file is FileSystemFileHandle & Required<SyncFile> {
  return typeof (file as SyncFile).createSyncAccessHandle === 'function';
}

function readAll(handle: SyncHandle, offset: number, into: Uint8Array): void {
  for (let done = 0; done < into.length; ) {
    const count = handle.read(done === 0 ? into : into.subarray(done), { at: offset + done });
    if (count === 0) throw new Error(`the end of the file at ${offset + done}`);
    done += count;
  }
}

/** A file in OPFS for reading: where it is if this is a Worker, else a copy in memory. */
export async function openStored(path: string, file: FileSystemFileHandle): Promise<Entry> {
  if (hasSyncHandles(file)) {
    try {
      // Read-only handles do not exclude each other; browsers that know only the other kind ignore the option.
      const handle = await file.createSyncAccessHandle({ mode: 'read-only' });
      const size = handle.getSize();
      return { size, storage: 'opfs', read: (offset, into) => readAll(handle, offset, into), close: () => handle.close() };
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== 'NoModificationAllowedError') throw error;
    }
  }
  return openBlob(path, await file.getFile(), 'opfs');
}

/** A Blob for reading: where it is if this is a Worker, else a copy in memory. */
export async function openBlob(path: string, blob: Blob, storage: Entry['storage']): Promise<Entry> {
  const gone = (cause: unknown) => {
    const hint = 'the file was changed, moved or deleted since it was chosen: choose it again';
    return new RefrainError('file', `${path}: expected a file that can be read, found ${String(cause)}`, { hint, cause });
  };
  if (typeof FileReaderSync === 'undefined') {
    return Memory.of(path, await blob.arrayBuffer().catch((cause: unknown) => { throw gone(cause); }));
  }
  const reader = new FileReaderSync();
  const read = (offset: number, into: Uint8Array) => {
    try {
      into.set(new Uint8Array(reader.readAsArrayBuffer(blob.slice(offset, offset + into.length))));
    } catch (cause) {
      throw gone(cause);
    }
  };
  return { size: blob.size, storage, read, close: () => {} };
}
