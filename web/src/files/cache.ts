/** What is in the cache, and how to get rid of it. */

import { RefrainError } from '../errors.js';
import { resolveSource } from './source.js';
import { lockName, MANIFEST, openRoot, readManifest } from './store.js';

export interface CachedModel {
  /** As it was opened: `refrain:NAME`, `hf:owner/repo[@revision]`, or the URL of its folder. */
  model: string;
  bytes: number;
  files: number;
  /** Whether it opens without a request. */
  complete: boolean;
  /** When it was opened last, or last worked on. */
  used: Date;
}

interface Found extends CachedModel {
  url: string;
  parent: FileSystemDirectoryHandle;
  folder: FileSystemDirectoryHandle;
}

/** The models in OPFS. Without OPFS there are none. */
export const cache = {
  /** The models, the one used last first. */
  async list(): Promise<CachedModel[]> {
    const models = await scan();
    return models.map(({ model, bytes, files, complete, used }) => ({ model, bytes, files, complete, used }));
  },

  /** Deletes a model, by the name that it was opened by or the URL of its folder; false if there is no such model. */
  async delete(model: string): Promise<boolean> {
    const url = toUrl(model);
    const found = (await scan()).filter((each) => each.model === model || each.url === url);
    for (const each of found) await remove(each);
    return found.length > 0;
  },

  /** Deletes all models. */
  async clear(): Promise<void> {
    for (const each of await scan()) await remove(each);
  },

  /** What this origin takes of the room that the browser gives it, in bytes; undefined where the browser does not tell. */
  async estimate(): Promise<{ usage: number; quota: number } | undefined> {
    const storage = typeof navigator === 'undefined' ? undefined : navigator.storage;
    const { usage, quota } = (await storage?.estimate?.()) ?? {};
    return usage === undefined || quota === undefined ? undefined : { usage, quota };
  },
};

function toUrl(model: string): string | undefined {
  try {
    return resolveSource(model).folder.href;
  } catch {
    // Short names have no URL here; they are compared as they are.
    return undefined;
  }
}

async function scan(): Promise<Found[]> {
  const parent = await openRoot().catch(() => undefined);
  const models: Found[] = [];
  for await (const folder of parent?.values() ?? []) {
    if (!isFolder(folder) || !parent) continue;
    const manifest = await readManifest(folder);
    let [bytes, files] = [0, 0];
    for await (const file of folder.values()) {
      // Browsers may show the copies that they write to as well.
      if (isFolder(file) || !(file.name in (manifest?.files ?? {}))) continue;
      bytes += await (file as FileSystemFileHandle).getFile().then(({ size }) => size, () => 0);
      files += 1;
    }
    const { model = folder.name, url = '', complete = false, used = 0 } = manifest ?? {};
    models.push({ model, url, bytes, files, complete, used: new Date(used), parent, folder });
  }
  return models.sort((a, b) => b.used.getTime() - a.used.getTime());
}

function isFolder(handle: FileSystemHandle): handle is FileSystemDirectoryHandle {
  return handle.kind === 'directory';
}

/** Deletes a model unless it is being loaded, or is open and its files are locked. */
async function remove({ model, url, parent, folder }: Found): Promise<void> {
  const action = async () => {
    // The manifest goes last: what cannot be deleted is still listed, and what was is fetched again.
    for await (const { name } of folder.values()) if (name !== MANIFEST) await folder.removeEntry(name);
    await parent.removeEntry(folder.name, { recursive: true });
  };
  const isBusy = (error: unknown) => error instanceof DOMException && error.name === 'NoModificationAllowedError';
  const busy = (what: string, cause?: unknown) => {
    const hint = 'close it, in all tabs, and delete it then';
    return new RefrainError('file', `${model}: expected a model that is not in use, found one that ${what}`, { hint, cause });
  };
  const attempt = async () => {
    try {
      if (!navigator.locks) return await action();
      await navigator.locks.request(lockName(url), { ifAvailable: true }, async (lock) => {
        if (!lock) throw busy('is being loaded');
        await action();
      });
    } catch (error) {
      if (isBusy(error)) throw busy('is open', error);
      throw error;
    }
  };
  // The locks of a Worker that was just ended go a little later than itself.
  for (let wait = 20; ; wait *= 2) {
    try {
      return await attempt();
    } catch (error) {
      if (wait > 80 || !RefrainError.is(error, 'file')) throw error;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}
