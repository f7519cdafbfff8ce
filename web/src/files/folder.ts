/** What a model folder holds, whether files are what their names say, and reads of them once they are open. */

import { RefrainError } from '../errors.js';
import type { Files } from './files.js';

export const CONFIG = 'config.json';
export const OPTIONAL: readonly string[] = ['generation_config.json', 'tokenizer.json'];
export const WEIGHTS = 'model.safetensors';
export const INDEX = 'model.safetensors.index.json';

/** One file that can be read synchronously. */
export interface Entry {
  readonly size: number;
  readonly storage: Files['storage'];
  read(offset: number, into: Uint8Array): void;
  close(): void;
}

/** Which files make the model, of those that `has` knows; `index` is the text of the index of shards, if there is one. */
export function listModel(name: string, has: (file: string) => boolean, index: string | undefined): string[] {
  if (!has(CONFIG)) throw missing(name, CONFIG, 'give the folder that holds config.json');
  let weights = [WEIGHTS];
  if (!has(WEIGHTS) && index !== undefined) weights = parseIndex(`${name}/${INDEX}`, index).shards;
  const lost = weights.find((file) => !has(file));
  if (lost === WEIGHTS) throw missing(name, `${WEIGHTS} or ${INDEX}`, 'weights are needed beside config.json, as safetensors');
  if (lost !== undefined) throw missing(name, lost, `${INDEX} names it: add the file, or save the model again`);
  return [CONFIG, ...OPTIONAL.filter(has), ...(weights[0] === WEIGHTS ? [] : [INDEX]), ...weights];
}

function missing(name: string, file: string, hint: string): RefrainError {
  return new RefrainError('file', `${name}: expected ${file}, found no such file`, { hint, details: { file } });
}

/** The shards that an index lists, and the bytes of tensors that it says they hold. */
export function parseIndex(path: string, text: string): { shards: string[]; bytes?: number } {
  const format = (expected: string, found: string) => {
    const hint = 'save the model again, or fetch the index anew';
    return new RefrainError('format', `${path}: expected ${expected}, found ${found}`, { hint, details: { path } });
  };
  let index: unknown;
  try {
    index = JSON.parse(text);
  } catch (error) {
    throw format('an index of shards in JSON', error instanceof Error ? error.message : String(error));
  }
  const map = isObject(index) ? index.weight_map : undefined;
  if (!isObject(map)) throw format("an object with 'weight_map'", 'none');
  const shards = [...new Set(Object.values(map))];
  if (shards.length === 0) throw format('an index of shards', 'an empty weight_map');
  for (const shard of shards) {
    // A plain name: an index must not lead out of the model's folder.
    if (typeof shard !== 'string' || !/^[^./\\:\0][^/\\:\0]*\.safetensors$/.test(shard)) {
      throw format('plain file names that end in .safetensors', JSON.stringify(shard).slice(0, 80));
    }
  }
  const bytes = isObject(index) && isObject(index.metadata) ? index.metadata.total_size : undefined;
  const known = typeof bytes === 'number' && Number.isFinite(bytes) && bytes > 0;
  return { shards: (shards as string[]).sort(), bytes: known ? bytes : undefined };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Checks by its first bytes that a file is what its name says. What is inside is the engine's to check. */
export function checkStart(path: string, file: string, entry: Pick<Entry, 'size' | 'read'>): void {
  const head = new Uint8Array(Math.min(512, entry.size));
  entry.read(0, head);
  const text = new TextDecoder().decode(head);
  const weights = file.endsWith('.safetensors');
  const length = head.length < 9 ? 0 : new DataView(head.buffer).getUint32(0, true) + 2 ** 32 * new DataView(head.buffer).getUint32(4, true);
  const good = weights ? length > 1 && length <= entry.size - 8 && head[8] === 0x7b : /^\ufeff?\s*\{/.test(text);
  if (good) return;
  throw notWhatItSays(path, file, describe(head, text, weights ? `${entry.size} bytes that do not begin with a header` : undefined));
}

/** The error for a file that is something else. */
export function notWhatItSays(path: string, file: string, found: Found): RefrainError {
  const expected = file.endsWith('.safetensors') ? 'safetensors' : 'a JSON object';
  const { text, hint } = found;
  return new RefrainError('format', `${path}: expected ${expected}, found ${text}`, { hint, details: { path, found: text } });
}

interface Found {
  text: string;
  hint: string;
}

/** What servers send for pages that they do not have, with the status 200. */
export const HTML: Found = {
  text: 'an HTML page',
  hint: 'the URL leads to a page about the file or to an error page: give the URL that downloads the file itself, or the folder of it',
};

function describe(head: Uint8Array, text: string, other = JSON.stringify(text.slice(0, 40))): Found {
  const starts = (...bytes: number[]) => bytes.every((byte, i) => head[i] === byte);
  if (head.length === 0) return { text: 'an empty file', hint: 'copy or download the file again' };
  if (/^\ufeff?\s*<(!doctype|html|head|\?xml|!--)/i.test(text)) return HTML;
  if (/^version \S*git-lfs/.test(text)) return { text: 'a Git LFS pointer', hint: 'fetch the file that it stands for: git lfs pull' };
  if (starts(0x50, 0x4b, 3, 4)) return { text: 'a zip archive', hint: 'unpack it; `refrain convert` makes a folder of a PyTorch checkpoint' };
  if (starts(0x1f, 0x8b)) return { text: 'gzip data', hint: 'unpack it, or let the server say Content-Encoding: gzip' };
  return { text: other, hint: 'save the file again, or give the one that its name says' };
}

/** The files of a model, open. */
export class OpenModel implements Files {
  readonly storage: Files['storage'];
  private closed = false;

  constructor(
    readonly name: string, private readonly entries: Map<string, Entry>, readonly fromCache: boolean, readonly note?: string,
  ) {
    const weights = [...entries].filter(([file]) => file.endsWith('.safetensors')).map(([, entry]) => entry.storage);
    // With one shard in memory the model needs memory.
    this.storage = weights.includes('memory') ? 'memory' : (weights[0] ?? 'memory');
  }

  names(): string[] {
    return [...this.entries.keys()];
  }

  size(file: string): number | undefined {
    return this.entries.get(file)?.size;
  }

  read(file: string, offset: number, into: Uint8Array): void {
    const entry = this.entries.get(file);
    const path = `${this.name}/${file}`;
    if (!entry || this.closed) throw new RefrainError('file', `${path}: expected an open file, found ${entry ? 'a closed one' : 'none'}`);
    if (!(offset >= 0 && offset + into.length <= entry.size)) {
      throw new RefrainError('file', `${path}: expected ${into.length} bytes from ${offset} on, found the end at ${entry.size}`);
    }
    try {
      entry.read(offset, into);
    } catch (cause) {
      if (RefrainError.is(cause)) throw cause;
      const hint = 'the file was changed or deleted while it was in use: open the model again';
      throw new RefrainError('file', `${path}: expected ${into.length} bytes from ${offset} on, found ${String(cause)}`, { hint, cause });
    }
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const entry of this.entries.values()) entry.close();
    // Names and sizes go with the entries: nothing may keep the memory of the weights alive.
    this.entries.clear();
  }
}
