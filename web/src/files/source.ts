/** What a model's name or URL means: the URL of a folder. */

import { RefrainError } from '../errors.js';

/** A model behind a URL. */
export interface Remote {
  /** What messages and the list of the cache call it: the short name if it was given by one, else the folder's URL. */
  readonly name: string;
  /** The folder, with a slash at its end. A query stays, and is sent for each file. */
  readonly folder: URL;
}

/** Files that a URL may name instead of the folder that they are in. */
const FILE = /\/[^/]*\.(safetensors|json)$/;

/**
 * The folder that a string or URL means. What is relative is relative to the page, or in a Worker to its script: a page that hands a name to a
 * Worker resolves it first.
 */
export function resolveSource(source: string | URL, { base, hub }: { base?: string | URL; hub?: string | URL } = {}): Remote {
  const text = String(source).trim();
  if (text.startsWith('refrain:')) {
    const name = text.slice('refrain:'.length);
    if (!/^[a-z0-9][a-z0-9._-]*$/i.test(name)) throw bad(text, 'refrain:NAME with a plain name');
    if (base === undefined) throw bad(text, 'where the shipped models are', 'give `base`, the URL of the folder that holds them');
    return { name: text, folder: join(absolute(base), [name]) };
  }
  if (text.startsWith('hf:')) {
    const found = /^hf:([\w-][\w.-]*)\/([\w-][\w.-]*)(?:@([\w.+/-]+))?$/.exec(text);
    const [, owner = '', repo = '', revision = 'main'] = found ?? [];
    if (!found || revision.split('/').some((part) => part === '' || part.startsWith('.'))) {
      throw bad(text, "hf:owner/repo or hf:owner/repo@revision, of letters, digits, '-', '_' and '.'");
    }
    if (hub === undefined) throw bad(text, 'the address of the Hub', 'give `hub`, or the URL of the folder instead of its name');
    const name = `hf:${owner}/${repo}${revision === 'main' ? '' : `@${revision}`}`;
    return { name, folder: join(absolute(hub), [owner, repo, 'resolve', revision]) };
  }
  if (text === '') throw bad(text, 'the name or URL of a model');
  const url = absolute(source);
  if (/\.(tar|tgz|tar\.gz)$/.test(url.pathname)) {
    throw bad(text, 'the URL of a folder', 'for an archive give the body of its response: (await fetch(url)).body');
  }
  if (FILE.test(url.pathname)) url.pathname = url.pathname.slice(0, url.pathname.lastIndexOf('/') + 1);
  const folder = join(url, []);
  return { name: folder.href, folder };
}

/** The URL of a file in the folder. */
export function fileUrl(folder: URL, file: string): string {
  const url = new URL(folder);
  url.pathname += encodeURIComponent(file);
  return url.href;
}

/** The folder `parts` below `url`; with a slash at its end, and without a fragment. */
function join(url: URL, parts: string[]): URL {
  const folder = new URL(url);
  folder.hash = '';
  folder.pathname = [folder.pathname.replace(/\/+$/, ''), ...parts.map(encodeURIComponent), ''].join('/');
  return folder;
}

function absolute(source: string | URL): URL {
  const text = String(source);
  // Drive letters parse as schemes.
  if (/^[a-z]:[\\/]/i.test(text)) throw onDisk(text);
  const page = typeof document === 'undefined' ? globalThis.location?.href : document.baseURI;
  let url: URL;
  try {
    // `blob:` and `data:` can hold a page or Worker, and nothing is relative to them: then `source` must be absolute.
    url = new URL(text, page === undefined || /^(blob|data|about):/.test(page) ? undefined : page);
  } catch {
    const hint = page === undefined ? "there is no page here that it could be relative to; folders are opened by 'refrain/node'" : undefined;
    throw bad(text, 'an absolute URL', hint);
  }
  if (url.username || url.password) {
    url.username = url.password = '';
    throw bad(url.href, 'a URL without user and password', 'send them with `headers`: { Authorization: … }');
  }
  if (url.protocol === 'file:') throw onDisk(text);
  if (url.protocol === 'blob:' || url.protocol === 'data:') {
    throw bad(text.slice(0, 80), 'the URL of a folder', 'for an archive give the Blob itself');
  }
  return url;
}

function onDisk(text: string): RefrainError {
  const hint = "in Node import 'refrain/node'; a page must be served over http, or give the files of a folder picker";
  return bad(text, 'a URL that can be fetched', hint);
}

function bad(found: string, expected: string, hint?: string): RefrainError {
  return new RefrainError('argument', `the model: expected ${expected}, found ${JSON.stringify(found)}`, { hint });
}
