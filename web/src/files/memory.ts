/** A file in memory, that may still grow. */

import { RefrainError } from '../errors.js';
import type { Entry } from './folder.js';

export class Memory implements Entry {
  readonly storage = 'memory';
  size = 0;
  private bytes = new Uint8Array(0);

  constructor(private readonly path: string) {}

  static of(path: string, buffer: ArrayBuffer): Memory {
    const memory = new Memory(path);
    memory.bytes = new Uint8Array(buffer);
    memory.size = buffer.byteLength;
    return memory;
  }

  /** So much is expected: saves moving it as it grows. */
  reserve(capacity: number): void {
    if (capacity > this.bytes.length) this.move(capacity);
  }

  append(bytes: Uint8Array): void {
    const size = this.size + bytes.length;
    if (size > this.bytes.length) this.move(Math.max(size, 2 * this.bytes.length, 4096));
    this.bytes.set(bytes, this.size);
    this.size = size;
  }

  read(offset: number, into: Uint8Array): void {
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  /** No more will come: gives back what is too much. */
  finish(): void {
    if (this.bytes.length > this.size) this.move(this.size);
  }

  close(): void {
    this.size = 0;
    this.bytes = new Uint8Array(0);
  }

  private move(capacity: number): void {
    const bytes = this.allocate(capacity);
    bytes.set(this.bytes.subarray(0, this.size));
    this.bytes = bytes;
  }

  private allocate(capacity: number): Uint8Array<ArrayBuffer> {
    try {
      return new Uint8Array(capacity);
    } catch (cause) {
      const hint = 'in a Worker of a browser with OPFS, weights need no memory; else take shards, or a model in fewer bits';
      throw new RefrainError('memory', `${this.path}: expected ${capacity} bytes of memory, found ${String(cause)}`, { hint, cause });
    }
  }
}
