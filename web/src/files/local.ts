/** Models that are here already: the files of a folder picker, and archives. */

import { RefrainError } from '../errors.js';
import { compareHash, hashPart } from './hash.js';
import { abortable } from './http.js';
import { CONFIG, INDEX, listModel, OpenModel, OPTIONAL, WEIGHTS, checkStart, type Entry } from './folder.js';
import { openBlob } from './part.js';
import { Progress } from './progress.js';
import { readTar, type Bytes } from './tar.js';
import type { CheckedOptions, Files } from './files.js';

/** A model of files that somebody picked. */
export async function openPicked(source: Iterable<File>, options: CheckedOptions): Promise<Files> {
  const files = new Map<string, Blob>();
  for (const file of source) {
    if (!(file instanceof Blob) || typeof file.name !== 'string') {
      throw new RefrainError('argument', `the model: expected Files, found ${String(file)} among them`);
    }
    files.set(file.webkitRelativePath || file.name, file);
  }
  const [first = ''] = files.keys();
  const name = first.includes('/') ? first.slice(0, first.indexOf('/')) : 'the files';
  return openBlobs(name, files, 'disk', options);
}

/** A model in a tar, gzip'd or not. A plain tar in a Blob is read where it is, if this is a Worker. */
export async function openArchive(source: Blob | ReadableStream<Uint8Array>, options: CheckedOptions): Promise<Files> {
  const signal = options.signal ?? new AbortController().signal;
  const name = source instanceof Blob && 'name' in source && typeof source.name === 'string' ? source.name : 'the archive';
  const wanted = (path: string) => isOfAModel(lastOf(path));
  if (source instanceof Blob) {
    if (!isGzip(new Uint8Array(await source.slice(0, 2).arrayBuffer()))) {
      return openBlobs(name, await readTar(name, new BlobBytes(source, signal), wanted), 'disk', options);
    }
  }
  const progress = new Progress(options.onProgress);
  progress.expect(name, source instanceof Blob ? source.size : 0);
  const onBytes = (loaded: number) => progress.at(name, loaded, 'download', false);
  const stream = source instanceof Blob ? source.stream() : source;
  const bytes = new StreamBytes(name, stream, signal, onBytes);
  try {
    await bytes.unpack();
    return await openBlobs(name, await readTar(name, bytes, wanted), 'memory', options);
  } finally {
    bytes.cancel();
  }
}

async function openBlobs(name: string, paths: Map<string, Blob>, storage: Entry['storage'], options: CheckedOptions): Promise<Files> {
  const files = besideConfig(paths);
  const index = files.has(WEIGHTS) ? undefined : await files.get(INDEX)?.text();
  const entries = new Map<string, Entry>();
  for (const file of listModel(name, (each) => files.has(each), index)) {
    const path = `${name}/${file}`;
    const entry = await openBlob(path, files.get(file) ?? new Blob(), storage);
    checkStart(path, file, entry);
    entries.set(file, entry);
    options.signal?.throwIfAborted();
  }
  await compareHashes(name, entries, options);
  const inMemory = [...entries.values()].some((entry) => entry.storage === 'memory');
  const why = storage === 'memory' ? 'the archive came as a stream' : 'outside of a Worker files cannot be read synchronously';
  return new OpenModel(name, entries, true, inMemory ? `weights are in memory: ${why}` : undefined);
}

async function compareHashes(name: string, entries: Map<string, Entry>, { integrity, sha256, signal, onProgress }: CheckedOptions): Promise<void> {
  const progress = new Progress(onProgress);
  for (const file of Object.keys(integrity)) progress.expect(file, entries.get(file)?.size ?? 0);
  for (const [file, expected] of Object.entries(integrity)) {
    const entry = entries.get(file);
    const path = `${name}/${file}`;
    if (!entry) throw new RefrainError('file', `${path}: expected a file, because \`integrity\` names it, found none`, { details: { file } });
    const hash = sha256();
    try {
      await hashPart(hash, entry, 0, entry.size, signal, (end) => progress.at(file, end, 'verify', true));
      compareHash(path, expected, hash.digest());
    } finally {
      hash.free();
    }
  }
}

function lastOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function isOfAModel(file: string): boolean {
  return file === CONFIG || file === INDEX || OPTIONAL.includes(file) || file.endsWith('.safetensors');
}

/** Files by their last names: those in the folder of the config.json that lies highest, or all where there is none. */
function besideConfig(paths: Map<string, Blob>): Map<string, Blob> {
  const all = [...paths];
  const depth = (path: string) => path.split('/').length;
  const [config] = all.filter(([path]) => lastOf(path) === CONFIG).sort(([a], [b]) => depth(a) - depth(b));
  const folder = config?.[0].slice(0, -CONFIG.length);
  const beside = all.filter(([path]) => folder === undefined || (path.startsWith(folder) && !path.slice(folder.length).includes('/')));
  return new Map(beside.map(([path, blob]) => [lastOf(path), blob]));
}

function isGzip(bytes: Uint8Array): boolean {
  return bytes[0] === 0x1f && bytes[1] === 0x8b;
}

/** The bytes of a Blob: files in it are parts of it, and nothing is copied. */
class BlobBytes implements Bytes {
  private at = 0;

  constructor(private readonly source: Blob, private readonly signal: AbortSignal) {}

  async take(count: number): Promise<Uint8Array> {
    this.signal.throwIfAborted();
    return new Uint8Array(await (await this.blob(count)).arrayBuffer());
  }

  async blob(count: number): Promise<Blob> {
    this.at += count;
    return this.source.slice(this.at - count, this.at);
  }

  async skip(count: number): Promise<void> {
    this.at += count;
  }
}

/** The bytes of a stream. Files become Blobs, which browsers may put on disk. */
class StreamBytes implements Bytes {
  private reader: ReadableStreamDefaultReader<Uint8Array>;
  private rest: Uint8Array = new Uint8Array(0);
  private loaded = 0;
  private isUnpacked = false;

  constructor(
    private readonly name: string, stream: ReadableStream<Uint8Array>, private readonly signal: AbortSignal,
    private readonly onBytes: (loaded: number) => void,
  ) {
    this.reader = stream.getReader();
  }

  /** If it is gzip, goes on with what is packed in it. */
  async unpack(): Promise<void> {
    const head = await this.take(2);
    const whole = this.rest.length > 0 || head.length < 2 ? join([head, this.rest]) : head;
    this.rest = whole;
    if (!isGzip(head)) return;
    const packed = this.reader;
    let first: Uint8Array | undefined = whole;
    const pull = async (controller: ReadableStreamDefaultController<BufferSource>) => {
      const { done, value } = first ? { done: false, value: first } : await packed.read();
      if (value && !first) this.count(value);
      first = undefined;
      if (done) controller.close();
      else if (value) controller.enqueue(value as Uint8Array<ArrayBuffer>);
    };
    const source = new ReadableStream<BufferSource>({ pull, cancel: (why) => packed.cancel(why) });
    this.reader = source.pipeThrough(new DecompressionStream('gzip')).getReader();
    [this.rest, this.isUnpacked] = [new Uint8Array(0), true];
  }

  async take(count: number): Promise<Uint8Array> {
    return join(await this.pieces(count));
  }

  async blob(count: number): Promise<Blob> {
    return new Blob((await this.pieces(count)) as Uint8Array<ArrayBuffer>[]);
  }

  async skip(count: number): Promise<void> {
    for await (const _ of this.stream(count));
  }

  cancel(): void {
    this.reader.cancel().catch(() => {});
  }

  private async pieces(count: number): Promise<Uint8Array[]> {
    const pieces = [];
    for await (const piece of this.stream(count)) pieces.push(piece);
    return pieces;
  }

  private async *stream(count: number): AsyncGenerator<Uint8Array> {
    for (let missing = count; missing > 0; ) {
      if (this.rest.length === 0) {
        const value = await this.next();
        if (!value) return;
        this.rest = value;
      }
      const piece = this.rest.subarray(0, missing);
      this.rest = this.rest.subarray(piece.length);
      missing -= piece.length;
      yield piece;
    }
  }

  private async next(): Promise<Uint8Array | undefined> {
    try {
      const { value } = await abortable(this.reader.read(), this.signal);
      if (value && !this.isUnpacked) this.count(value);
      return value;
    } catch (cause) {
      this.signal.throwIfAborted();
      const [code, expected] = this.isUnpacked ? (['format', 'whole gzip data'] as const) : (['file', 'a stream to its end'] as const);
      const hint = 'read the archive anew';
      throw new RefrainError(code, `${this.name}: expected ${expected}, found ${cause instanceof Error ? cause.message : String(cause)}`, { hint, cause });
    }
  }

  private count(bytes: Uint8Array): void {
    this.loaded += bytes.length;
    this.onBytes(this.loaded);
  }
}

function join(pieces: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
