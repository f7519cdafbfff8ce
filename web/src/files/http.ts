/** Requests: one at a time with its errors told apart, and what a response says about the file. */

import { RefrainError } from '../errors.js';
import { HTML, notWhatItSays } from './folder.js';
import type { OpenOptions } from './files.js';

/** Longest `Retry-After` that is waited for, in seconds. */
const LONGEST_WAIT = 20;

/** What may work when it is tried again: a connection that broke, a server that is busy. */
export class Broken extends Error {
  constructor(message: string, readonly status?: number, readonly after?: number, cause?: unknown) {
    super(message, { cause });
  }
}

/** What a response says about the file that it brings. */
export interface Answer {
  response: Response;
  status: 200 | 206 | 416;
  /** The first byte of the body within the file: of a 206 as Content-Range has it. */
  start: number;
  /** Size of the whole file; undefined where the server does not tell. */
  size: number | undefined;
  /** A version of the file that `If-Range` takes: a strong ETag, else Last-Modified. */
  validator: string | undefined;
  /** Whether the server was told to send a range of that version only. It may then leave out the validator. */
  conditional: boolean;
}

/** Where a request goes on, and of which version. */
export interface Resume {
  from: number;
  validator: string;
}

export class Client {
  /** Whether there was an answer yet. Before that a failure is not tried again: nothing says that there is a network at all. */
  private reached = false;
  private readonly fetch: typeof globalThis.fetch;

  constructor(private readonly options: OpenOptions, private readonly caching: RequestCache, private readonly signal: AbortSignal) {
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  }

  /** Asks for a file, or for the rest of it. Throws Broken, or a RefrainError where trying again is no use. */
  async get(url: string, file: string, resume?: Resume): Promise<Answer> {
    const headers = new Headers(this.options.headers);
    if (resume) {
      headers.set('Range', `bytes=${resume.from}-`);
      // Other origins would have to allow If-Range in a preflight, and few do. The answer's validator is compared in any case.
      if (isSameOrigin(url)) headers.set('If-Range', resume.validator);
    }
    const conditional = headers.has('If-Range');
    let response: Response;
    try {
      const request = this.fetch(url, { headers, signal: this.signal, cache: this.caching });
      response = await abortable(request, this.signal);
    } catch (cause) {
      this.signal.throwIfAborted();
      if (this.reached) throw new Broken(reason(cause), undefined, undefined, cause);
      const hint = globalThis.location && isSameOrigin(url)
        ? 'check whether this device is online, then try again'
        : 'check the address and the connection; another origin must allow requests from this page (CORS)';
      throw new RefrainError('file', `${url}: expected an answer, found ${reason(cause)}`, { hint, details: { url }, cause });
    }
    this.reached = true;
    const { status } = response;
    const isHtml = /^\s*(text\/html|application\/xhtml)/i.test(response.headers.get('Content-Type') ?? '');
    if (status === 200 && !isHtml) return { response, status, start: 0, conditional, ...whole(response) };
    if (status === 206 && resume) return { response, status, conditional, ...part(response) };
    if (status === 416 && resume) return { response, status, start: 0, conditional, ...whole(response) };
    discard(response);
    if (status === 429 || status >= 500) {
      const after = retryAfter(response);
      if (after === undefined || after <= LONGEST_WAIT) throw new Broken(`HTTP status ${status}`, status, after);
      const hint = `the server asks to be left alone for ${Math.ceil(after)} seconds: try again then`;
      throw new RefrainError('file', `${url}: expected the file, found HTTP status ${status}`, { hint, details: { url, status } });
    }
    if (status === 200) throw notWhatItSays(url, file, HTML);
    const hint = HINTS[status] ?? 'check the address';
    throw new RefrainError('file', `${url}: expected the file, found HTTP status ${status}`, { hint, details: { url, status } });
  }

  /** The bytes of a body. Throws Broken where they stop before their end. */
  async *body({ response, start, size }: Answer): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    let at = start;
    try {
      while (reader) {
        const { done, value } = await abortable(reader.read(), this.signal);
        if (done) break;
        at += value.length;
        yield value;
      }
    } catch (cause) {
      this.signal.throwIfAborted();
      throw new Broken(`${reason(cause)} after ${at} of ${size ?? 'unknown'} bytes`, undefined, undefined, cause);
    } finally {
      // Whoever stops listening, for whatever reason, also stops the transfer.
      reader?.cancel().catch(() => {});
    }
    // Other origins show a Content-Length but hide the Content-Encoding: more bytes than announced are then what an encoding had packed.
    const packed = response.type === 'cors' && response.status === 200 && size !== undefined && at > size;
    if (size !== undefined && at !== size && !packed) throw new Broken(`the end after ${at} of ${size} bytes`);
  }
}

const HINTS: Record<number, string> = {
  401: 'the server wants to know who asks: give `headers` with an Authorization, and check that it is still valid',
  403: 'the server does not let this file out: check the address, and for a private model give `headers` with an Authorization',
  404: 'check the address: it must lead to the folder that holds config.json, or to a file in it',
};

/** Whether an error says that a file is not there. Some stores say 403 for that, and servers of single-page apps send a page. */
export function isAbsent(error: unknown): boolean {
  if (!RefrainError.is(error)) return false;
  const { status, found } = (error.details ?? {}) as { status?: number; found?: string };
  return (error.code === 'file' && (status === 404 || status === 410 || status === 403)) || (error.code === 'format' && found === HTML.text);
}

/** Stops a body that nobody wants. */
export function discard(response: Response): void {
  response.body?.cancel().catch(() => {});
}

/** A promise that rejects as soon as the signal does, whether what it waits for knows the signal or not. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

function whole(response: Response): Pick<Answer, 'size' | 'validator'> {
  // With a Content-Encoding lengths and ranges are those of what is sent, not of the file.
  if (isEncoded(response)) return { size: undefined, validator: undefined };
  const length = response.headers.get('Content-Length');
  return { size: length !== null && /^\d+$/.test(length) ? Number(length) : undefined, validator: validator(response) };
}

function part(response: Response): Pick<Answer, 'start' | 'size' | 'validator'> {
  const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get('Content-Range') ?? '');
  if (!range || isEncoded(response)) return { start: -1, size: undefined, validator: undefined };
  return { start: Number(range[1]), size: Number(range[3]), validator: validator(response) };
}

function isEncoded({ headers }: Response): boolean {
  return (headers.get('Content-Encoding') ?? 'identity') !== 'identity';
}

function validator({ headers }: Response): string | undefined {
  const tag = headers.get('ETag');
  return tag?.startsWith('"') ? tag : (headers.get('Last-Modified') ?? undefined);
}

/** Seconds; undefined where the server names none. */
function retryAfter(response: Response): number | undefined {
  const text = response.headers.get('Retry-After');
  if (text === null) return undefined;
  const seconds = /^\s*\d+\s*$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}

function isSameOrigin(url: string): boolean {
  const origin = globalThis.location?.origin;
  return origin === undefined || new URL(url).origin === origin;
}

/** What a failed fetch says; Node says it in the cause. */
function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message} (${error.cause.message || error.cause.name})` : error.message;
}
