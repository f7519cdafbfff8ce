/** Folders on disk. For Node only: nothing that a bundler for browsers sees may import this. */

import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { RefrainError } from '../errors.js';
import { checkStart, INDEX, listModel, OpenModel, WEIGHTS, type Entry } from './folder.js';
import type { Files } from './files.js';

/** Opens the model in a folder, given as a path or a `file:` URL. Messages call it by its path where it has no name. */
export function openFolder(path: string | URL, name?: string): Files {
  const folder = path instanceof URL || path.startsWith('file:') ? fileURLToPath(path) : path;
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) {
    const found = existsSync(folder) ? 'something else' : 'nothing';
    throw new RefrainError('file', `${folder}: expected a folder, found ${found}`, { hint: 'give the folder that holds config.json' });
  }
  const has = (file: string) => existsSync(join(folder, file));
  const index = has(INDEX) && !has(WEIGHTS) ? readFileSync(join(folder, INDEX), 'utf8') : undefined;
  const entries = new Map<string, Entry>();
  try {
    for (const file of listModel(folder, has, index)) {
      const entry = openFile(join(folder, file));
      entries.set(file, entry);
      checkStart(join(folder, file), file, entry);
    }
  } catch (error) {
    for (const entry of entries.values()) entry.close();
    throw error;
  }
  return new OpenModel(name ?? folder, entries, true);
}

function openFile(path: string): Entry {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch (cause) {
    throw new RefrainError('file', `${path}: expected a file that can be read, found ${String(cause)}`, { cause });
  }
  const read = (offset: number, into: Uint8Array) => {
    for (let done = 0; done < into.length; ) {
      const count = readSync(descriptor, into, done, into.length - done, offset + done);
      if (count === 0) throw new Error(`the end of the file at ${offset + done}`);
      done += count;
    }
  };
  const status = fstatSync(descriptor);
  if (!status.isFile()) {
    closeSync(descriptor);
    throw new RefrainError('file', `${path}: expected a file, found something else`);
  }
  return { size: status.size, storage: 'disk', read, close: () => closeSync(descriptor) };
}
