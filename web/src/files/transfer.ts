/** Brings one file over the network, whole, through whatever happens on the way. */

import { RefrainError } from '../errors.js';
import { hashPart } from './hash.js';
import { abortable, Broken, discard, type Answer, type Client } from './http.js';
import type { Sha256 } from './files.js';
import type { Part } from './part.js';
import type { Progress } from './progress.js';

/** Failures in a row, without a new byte, after which there is no more trying. */
const RETRIES = 4;
/** Milliseconds before the first retry; each next one waits twice as long. */
const BACKOFF = 300;

/** What is known of a file; kept beside it, so that a later load can go on. */
export interface FileRecord {
  /** Of the whole file, as the server told. */
  size?: number;
  /** The version that the bytes are of. */
  validator?: string;
  /** Of the whole file: only known once it is there. */
  sha256?: string;
}

export interface Transfer {
  url: string;
  file: string;
  /** What an earlier load knew; updated while the file comes. */
  record: FileRecord;
  part: Part;
  progress: Progress;
  signal: AbortSignal;
  sha256: () => Sha256;
  /** The record changed. Called, and waited for, before bytes of another version are appended. */
  save: () => Promise<void>;
}

/** Fills the part, and the record with it. Of a part that is whole already only the version is asked for. */
export async function transfer(client: Client, job: Transfer): Promise<void> {
  const { url, file, record, part, progress, signal } = job;
  let hash = job.sha256();
  // The hash covers the part's first bytes up to here.
  let hashed = 0;
  let [failures, furthest] = [0, part.size];
  const startOver = async () => {
    record.size = record.validator = record.sha256 = undefined;
    await part.restart();
  };
  try {
    for (;;) {
      try {
        const had = part.size;
        const answer = await ask(client, job);
        const same = had > 0 && answer.validator !== undefined && answer.validator === record.validator;
        const isWhole = same && answer.status === 200 && had === record.size && (answer.size ?? had) === had;
        if (isWhole && record.sha256 !== undefined) {
          discard(answer.response);
          progress.at(file, had, 'verify', true);
          return;
        }
        if (!isWhole && answer.status !== 200 && !continues(answer, job)) {
          // A range that was not asked for, or of another version: no answer to it can be trusted.
          discard(answer.response);
          await startOver();
          throw new Broken(`an answer to another range (HTTP status ${answer.status})`, answer.status);
        }
        if (!isWhole && answer.status === 200) {
          if (had > 0) await startOver();
          [record.size, record.validator] = [answer.size, answer.validator];
          await job.save();
        }
        if (hashed > part.size) {
          hash.free();
          [hash, hashed] = [job.sha256(), 0];
        }
        progress.expect(file, answer.size ?? 0);
        part.expect(answer.size ?? 0);
        if (hashed < part.size) {
          const onBytes = (end: number) => progress.at(file, end, 'verify', true);
          await hashPart(hash, part, hashed, part.size, signal, onBytes);
          hashed = part.size;
        }
        if (isWhole) discard(answer.response);
        else {
          for await (const bytes of client.body(answer)) {
            await part.append(bytes);
            hash.update(bytes);
            hashed = part.size;
            progress.at(file, part.size, 'download', false);
          }
        }
        record.size = part.size;
        record.sha256 = hash.digest();
        progress.expect(file, part.size);
        progress.at(file, part.size, 'download', false);
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof Broken)) throw error;
        if (part.size > furthest) [furthest, failures] = [part.size, 0];
        failures += 1;
        if (failures > RETRIES) throw givenUp(url, error);
        await pause(error.after === undefined ? BACKOFF * 2 ** (failures - 1) : 1000 * error.after, signal);
      }
    }
  } finally {
    hash.free();
  }
}

/** Asks for the rest of the file if something is there and the server has named its version, else for the whole. */
function ask(client: Client, { url, file, record, part }: Transfer): Promise<Answer> {
  const { validator, size } = record;
  const rest = part.size > 0 && part.size !== size && validator !== undefined;
  return client.get(url, file, rest ? { from: part.size, validator } : undefined);
}

/** Whether an answer goes on where the part ends, in the same version. */
function continues({ status, start, size, validator, conditional }: Answer, { record, part }: Transfer): boolean {
  const sameVersion = validator === record.validator || (validator === undefined && conditional);
  return status === 206 && sameVersion && start === part.size && (record.size ?? size) === size;
}

function givenUp(url: string, { message, status, cause }: Broken): RefrainError {
  const hint = 'try again: what has arrived is kept where there is OPFS';
  return new RefrainError('file', `${url}: expected the whole file, found ${message}`, { hint, details: { url, status }, cause });
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  let timer: ReturnType<typeof setTimeout>;
  const wait = new Promise<void>((resolve) => { timer = setTimeout(resolve, milliseconds); });
  return abortable(wait, signal).finally(() => clearTimeout(timer));
}
