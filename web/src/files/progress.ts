/** Progress over all files of a model, as the callback is promised it: neither bytes nor their share ever fall. */

import type { DownloadProgress } from './files.js';

/** At most so many milliseconds without a report while bytes arrive. */
const INTERVAL = 50;

export class Progress {
  private readonly files = new Map<string, { loaded: number; size: number | undefined }>();
  private loaded = 0;
  private total = 0;
  private last = -Infinity;

  constructor(private readonly report: ((progress: DownloadProgress) => void) | undefined) {}

  /** A file will come. While the size of one is unknown nothing is reported, because a share could not be told. */
  expect(file: string, size?: number): void {
    this.files.set(file, { loaded: this.files.get(file)?.loaded ?? 0, size });
  }

  /** A file will not come after all. */
  drop(file: string): void {
    this.files.delete(file);
  }

  /** So many bytes of a file are there. */
  at(file: string, loaded: number, phase: DownloadProgress['phase'], fromCache: boolean): void {
    const size = Math.max(this.files.get(file)?.size ?? 0, loaded);
    this.files.set(file, { loaded, size });
    const now = performance.now();
    if (loaded === size || now - this.last >= INTERVAL) this.tell(file, phase, fromCache, now);
  }

  /** Everything is there; says so unless it was said. */
  end(file: string, fromCache: boolean): void {
    if (this.loaded === 0 || this.loaded < this.total) this.tell(file, 'download', fromCache, performance.now());
  }

  private tell(file: string, phase: DownloadProgress['phase'], fromCache: boolean, now: number): void {
    let [loaded, total] = [0, 0];
    for (const each of this.files.values()) {
      if (each.size === undefined) return;
      loaded += each.loaded;
      total += each.size;
    }
    // A file that had to be started over counts again only once it is further than it was.
    loaded = Math.max(loaded, this.loaded);
    total = Math.max(total, loaded);
    // A total that turns out larger than thought is made known only as fast as the share allows.
    if (loaded * this.total < this.loaded * total) total = Math.max(loaded, Math.floor((loaded * this.total) / this.loaded));
    [this.loaded, this.total, this.last] = [loaded, total, now];
    this.report?.({ phase, file, loaded, total, fromCache });
  }
}
