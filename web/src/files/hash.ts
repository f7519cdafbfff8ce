/** SHA-256 as the options spell it, and over what can be read. */

import { RefrainError } from '../errors.js';
import type { Entry } from './folder.js';
import type { Sha256 } from './files.js';

const PIECE = 1 << 20;
/** Pieces between pauses: timers cost milliseconds. */
const PIECES = 16;

/** The option `integrity` with every hash in hex. */
export function checkIntegrity(integrity: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(integrity).map(([file, text]) => [file, toHex(file, text)]));
}

function toHex(file: string, text: string): string {
  if (/^[0-9a-f]{64}$/i.test(text)) return text.toLowerCase();
  // 32 bytes are 43 digits of base64 and a sign.
  if (/^sha256-[0-9a-z+/]{43}=$/i.test(text)) {
    return Array.from(atob(text.slice('sha256-'.length)), (byte) => byte.charCodeAt(0).toString(16).padStart(2, '0')).join('');
  }
  const expected = "'sha256-' and base64, or 64 hex digits";
  throw new RefrainError('argument', `integrity of ${file}: expected ${expected}, found ${JSON.stringify(text)}`);
}

/** Feeds the bytes from `start` to `end` to a hash, with pauses, so that an abort is heard. */
export async function hashPart(
  hash: Sha256, part: Pick<Entry, 'read'>, start: number, end: number, signal: AbortSignal | undefined, onBytes: (end: number) => void,
): Promise<void> {
  const piece = new Uint8Array(Math.min(PIECE, end - start));
  for (let at = start; at < end; at += PIECE) {
    const bytes = piece.subarray(0, Math.min(PIECE, end - at));
    part.read(at, bytes);
    hash.update(bytes);
    onBytes(at + bytes.length);
    if (((at - start) / PIECE) % PIECES === PIECES - 1) await new Promise((resolve) => setTimeout(resolve));
    signal?.throwIfAborted();
  }
}

/** Throws where the hash is not the one asked for. */
export function compareHash(path: string, expected: string | undefined, found: string): void {
  if (expected === undefined || expected === found) return;
  throw new RefrainError('format', `${path}: expected a file with the SHA-256 ${expected}, found one with ${found}`, {
    hint: 'the file has changed, or was changed on its way: load it again, or ask whoever gave the hash for the new one',
    details: { path, expected, found },
  });
}
