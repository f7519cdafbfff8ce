/** The files in a tar: ustar, with the long names of pax and of GNU. */

import { RefrainError } from '../errors.js';

const BLOCK = 512;

/** Bytes one after the other. */
export interface Bytes {
  /** The next `count` bytes; fewer at the end. */
  take(count: number): Promise<Uint8Array>;
  /** The next `count` bytes as a Blob, whole; shorter at the end. */
  blob(count: number): Promise<Blob>;
  skip(count: number): Promise<void>;
}

/** The regular files for which `wanted` says yes, by their paths. */
export async function readTar(name: string, bytes: Bytes, wanted: (path: string) => boolean): Promise<Map<string, Blob>> {
  const files = new Map<string, Blob>();
  const bad = (expected: string, found: string) => {
    const hint = 'pack the folder again: tar -cf model.tar -C FOLDER .';
    return new RefrainError('format', `${name}: expected ${expected}, found ${found}`, { hint });
  };
  // What pax and GNU headers say of the file that follows them.
  let next: { path?: string; size?: number } = {};
  for (let count = 0; ; count += 1) {
    const header = await bytes.take(BLOCK);
    // Two blocks of zeros end it; some writers leave out one or both.
    if (count > 0 && (header.length === 0 || isZero(header))) break;
    if (header.length < BLOCK) throw bad('a tar archive', header.length === 0 ? 'nothing' : `its end after ${header.length} bytes of a header`);
    if (!isSumRight(header)) throw bad(count === 0 ? 'a tar archive' : 'the header of a file', isZero(header) ? 'zeros' : 'other data');
    const size = next.size ?? numeral(header.subarray(124, 136));
    if (!Number.isSafeInteger(size) || size < 0) throw bad('the size of a file', 'none that makes sense');
    const kind = String.fromCharCode(header[156] ?? 0);
    const isExtension = kind === 'x' || kind === 'L';
    const path = next.path ?? pathOf(header);
    const isFile = kind === '0' || kind === '\0' || kind === '7';
    if (isExtension) {
      if (size > 1 << 20) throw bad('a name', `one of ${size} bytes`);
      const text = await bytes.take(size);
      if (text.length < size) throw bad('a name', 'the end of the archive');
      next = kind === 'x' ? { ...next, ...readPax(text) } : { ...next, path: cString(text) };
    } else {
      next = {};
      if (isFile && wanted(path)) {
        const blob = await bytes.blob(size);
        if (blob.size < size) throw bad(`${path} with ${size} bytes`, `the end of the archive after ${blob.size}`);
        files.set(path, blob);
      } else await bytes.skip(size);
    }
    await bytes.skip((BLOCK - (size % BLOCK)) % BLOCK);
  }
  return files;
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** The sum of all bytes of a header, its own field taken as blanks. */
function isSumRight(header: Uint8Array): boolean {
  const sum = header.reduce((sum, byte, i) => sum + (i >= 148 && i < 156 ? 0x20 : byte), 0);
  return sum === numeral(header.subarray(148, 156));
}

/** A number in octal digits, or in binary if its first bit is set. */
function numeral(field: Uint8Array): number {
  if ((field[0] ?? 0) & 0x80) return field.subarray(1).reduce((value, byte) => value * 256 + byte, (field[0] ?? 0) & 0x7f);
  const text = cString(field).trim();
  return text === '' ? 0 : /^[0-7]+$/.test(text) ? parseInt(text, 8) : NaN;
}

function pathOf(header: Uint8Array): string {
  const name = cString(header.subarray(0, 100));
  // GNU has other things where POSIX has the first part of a long path.
  const isPosix = cString(header.subarray(257, 263)) === 'ustar' && header[262] === 0;
  const prefix = isPosix ? cString(header.subarray(345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

function cString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** Records "LENGTH key=value\n", the length in bytes and of the whole record. */
function readPax(bytes: Uint8Array): { path?: string; size?: number } {
  const found: { path?: string; size?: number } = {};
  for (let at = 0; at < bytes.length; ) {
    const length = parseInt(new TextDecoder().decode(bytes.subarray(at, at + 20)), 10);
    if (!(length > 0)) break;
    const [, key, value = ''] = /^\d+ ([^=]*)=([^]*)\n$/.exec(new TextDecoder().decode(bytes.subarray(at, at + length))) ?? [];
    if (key === 'path') found.path = value;
    if (key === 'size') found.size = Number(value);
    at += length;
  }
  return found;
}
