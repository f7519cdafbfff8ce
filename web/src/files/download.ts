/** Opens a model behind a URL: from OPFS if it is whole there, else over the network. */

import { RefrainError } from '../errors.js';
import { compareHash } from './hash.js';
import { Client, isAbsent } from './http.js';
import { checkStart, CONFIG, INDEX, OpenModel, OPTIONAL, parseIndex, WEIGHTS, type Entry } from './folder.js';
import { Progress } from './progress.js';
import { fileUrl, type Remote } from './source.js';
import { Store, withLock } from './store.js';
import { transfer } from './transfer.js';
import type { CheckedOptions, Files } from './files.js';

export async function openRemote(remote: Remote, options: CheckedOptions): Promise<Files> {
  // One file's failure ends the transfer of the others, as an abort from outside does.
  const inner = new AbortController();
  const abort = () => inner.abort(options.signal?.reason);
  options.signal?.addEventListener('abort', abort, { once: true });
  const run = async () => {
    const store = await Store.open(remote, options.cache);
    try {
      return (await openCached(remote, store, options)) ?? (await new Download(remote, store, options, inner).run());
    } finally {
      await store.settle();
    }
  };
  try {
    return await (options.cache === 'none' ? run() : withLock(remote.folder, inner.signal, run));
  } finally {
    options.signal?.removeEventListener('abort', abort);
  }
}

async function openCached(remote: Remote, store: Store, options: CheckedOptions): Promise<Files | undefined> {
  const entries = await store.openWhole(options.integrity);
  if (!entries) return undefined;
  const progress = new Progress(options.onProgress);
  for (const [file, { size }] of entries) progress.expect(file, size);
  for (const [file, { size }] of entries) progress.at(file, size, 'download', true);
  return new OpenModel(remote.name, entries, true, store.note);
}

class Download {
  private readonly entries = new Map<string, Entry>();
  private readonly progress: Progress;
  private readonly client: Client;
  /** Whether OPFS has every file. */
  private kept = true;

  constructor(
    private readonly remote: Remote, private readonly store: Store, private readonly options: CheckedOptions, private readonly inner: AbortController,
  ) {
    this.progress = new Progress(options.onProgress);
    // What goes into OPFS need not lie in the browser's own cache as well.
    this.client = new Client(options, store.isInOpfs ? 'no-store' : 'default', inner.signal);
  }

  async run(): Promise<Files> {
    const { remote, store, options, entries } = this;
    for (const file of [CONFIG, ...OPTIONAL, WEIGHTS]) this.progress.expect(file);
    const jobs = [this.get(CONFIG), ...OPTIONAL.map((file) => this.getIfThere(file)), this.getWeights()];
    try {
      await Promise.all(jobs.map((job) => job.catch((error) => this.stop(error))));
      for (const file of Object.keys(options.integrity)) {
        if (entries.has(file)) continue;
        const found = `none among ${[...entries.keys()].join(', ')}`;
        throw new RefrainError('file', `${remote.name}: expected ${file}, which \`integrity\` names, found ${found}`, { details: { file } });
      }
    } catch (error) {
      await Promise.allSettled(jobs);
      for (const entry of entries.values()) entry.close();
      await store.tidy();
      // Others were only stopped by the first that failed; its error is the reason of the abort, as the caller's own reason is.
      throw this.inner.signal.aborted ? this.inner.signal.reason : error;
    }
    this.progress.end(CONFIG, false);
    // Files that an earlier version of the model had are no part of it.
    for (const file of Object.keys(store.manifest.files)) if (!entries.has(file)) await store.remove(file);
    store.save({ complete: this.kept && store.isInOpfs, used: Date.now() });
    return new OpenModel(remote.name, entries, false, store.note);
  }

  private stop(error: unknown): never {
    this.inner.abort(error);
    throw error;
  }

  private async getWeights(): Promise<void> {
    try {
      return await this.get(WEIGHTS);
    } catch (error) {
      if (!isAbsent(error)) throw error;
      // Without an index either, it is the first error that tells what is wrong.
      this.progress.expect(INDEX);
      await this.get(INDEX).catch((second) => { throw isAbsent(second) ? error : second; });
    }
    const { shards, bytes } = parseIndex(fileUrl(this.remote.folder, INDEX), this.text(INDEX));
    // Sizes come with the answers; until then all shards are taken to have the same, as the index tells it.
    for (const shard of shards) this.progress.expect(shard, this.store.manifest.files[shard]?.size ?? Math.floor((bytes ?? 0) / shards.length));
    this.progress.drop(WEIGHTS);
    // One after the other: what was whole stays whole when the next is cut off.
    for (const shard of shards) await this.get(shard);
  }

  private async getIfThere(file: string): Promise<void> {
    try {
      await this.get(file);
    } catch (error) {
      if (!isAbsent(error)) throw error;
      this.progress.drop(file);
    }
  }

  /** Brings a file here, checks it and opens it for reading. */
  private async get(file: string): Promise<void> {
    const { store, options, progress, inner: { signal } } = this;
    const url = fileUrl(this.remote.folder, file);
    const record = { ...store.manifest.files[file] };
    const part = await store.openPart(file, record);
    // What fell back to memory leaves behind what OPFS had, with the record of that.
    const save = async () => {
      if (part.isKept && !(await store.record(file, record))) await part.leaveOpfs();
    };
    // Whether what is there is worth going on from.
    let worth = true;
    try {
      await transfer(this.client, { url, file, record, part, progress, signal, sha256: options.sha256, save });
      worth = false;
      checkStart(url, file, part);
      compareHash(url, options.integrity[file], record.sha256 ?? '');
      worth = true;
    } finally {
      await part.close();
      if (!worth || part.size === 0) await store.remove(file);
    }
    const isKept = part.isKept && (await store.record(file, record));
    this.kept &&= isKept;
    this.entries.set(file, part.memory ?? (await store.openFile(file)));
  }

  private text(file: string): string {
    const entry = this.entries.get(file);
    const bytes = new Uint8Array(entry?.size ?? 0);
    entry?.read(0, bytes);
    return new TextDecoder().decode(bytes);
  }
}
