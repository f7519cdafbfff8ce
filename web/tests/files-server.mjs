// A model to load, and a server for it that can misbehave. For files.test.mjs and files-browser.mjs.

import { createHash, randomBytes } from 'node:crypto';
import http from 'node:http';

export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** Safetensors with one tensor of `bytes` random bytes. */
export function safetensors(bytes, name = 'w') {
  const header = Buffer.from(JSON.stringify({ [name]: { dtype: 'U8', shape: [bytes], data_offsets: [0, bytes] } }));
  const length = Buffer.alloc(8);
  length.writeUInt32LE(header.length);
  return Buffer.concat([length, header, randomBytes(bytes)]);
}

/** The files of a model; with `shards` the weights lie in so many files. */
export function makeModel({ bytes = 300_000, shards = 0 } = {}) {
  const files = { 'config.json': Buffer.from('{"dim": 4}'), 'tokenizer.json': Buffer.from('{"model": {}}') };
  if (shards === 0) return { ...files, 'model.safetensors': safetensors(bytes) };
  const weight_map = {};
  for (let i = 1; i <= shards; i += 1) {
    weight_map[`w${i}`] = `model-${i}-of-${shards}.safetensors`;
    files[weight_map[`w${i}`]] = safetensors(bytes / shards, `w${i}`);
  }
  return { ...files, 'model.safetensors.index.json': Buffer.from(JSON.stringify({ metadata: { total_size: bytes }, weight_map })) };
}

/**
 * Serves `files` below /m/, with ETags and ranges, to pages of any origin; `expose` are the headers that these may see, and `pages` are
 * pages of its own (path → [type, text]). `plan(file, ...replies)` gives the next requests for a file other replies; a reply is
 * a function of { request, response, body, etag }, or null for the usual one. `log` has every request.
 */
export async function serve(files, { pages = {}, expose = 'ETag, Content-Range' } = {}) {
  const plans = new Map();
  const log = [];
  const server = http.createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    const file = decodeURIComponent(pathname.slice(pathname.lastIndexOf('/') + 1));
    const entry = { file, path: request.url, headers: request.headers, sent: 0 };
    if (pages[request.url]) return void response.writeHead(200, { 'Content-Type': pages[request.url][0] }).end(pages[request.url][1]);
    log.push(entry);
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Expose-Headers', expose);
    response.on('error', () => {});
    const write = response.write.bind(response);
    response.write = (bytes, ...more) => { entry.sent += bytes.length; return write(bytes, ...more); };
    const body = files[file];
    const etag = body && `"${sha256(body).slice(0, 16)}"`;
    const reply = plans.get(file)?.shift();
    if (reply) return void reply({ request, response, body, etag });
    usual({ request, response, body, etag });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  return {
    url: `http://localhost:${port}/m/`, files, log,
    plan: (file, ...replies) => plans.set(file, replies),
    requests: (file) => log.filter((entry) => entry.file === file),
    /** Also cuts what is under way. */
    close: () => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }),
    /** The same address again. */
    reopen: () => new Promise((resolve) => server.listen(port, '127.0.0.1', resolve)),
  };
}

/** What a good server answers. `options`: { version: headers, ranges: false, pace: [bytes, milliseconds], atOnce: bytes before that }. */
export function usual({ request, response, body, etag }, { ranges = true, pace, atOnce = 0, version = { ETag: etag } } = {}) {
  if (!body) return void response.writeHead(404, { 'Content-Type': 'text/plain' }).end('no such file');
  const asked = ranges && /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
  const stale = request.headers['if-range'] !== undefined && request.headers['if-range'] !== Object.values(version)[0];
  const from = asked && !stale ? Number(asked[1]) : 0;
  if (asked && from >= body.length) return void response.writeHead(416, { 'Content-Range': `bytes */${body.length}` }).end();
  const headers = { 'Content-Length': body.length - from, 'Content-Type': 'application/octet-stream', ...version };
  if (asked && !stale) response.writeHead(206, { ...headers, 'Content-Range': `bytes ${from}-${body.length - 1}/${body.length}` });
  else response.writeHead(200, headers);
  if (!pace) {
    response.write(body.subarray(from));
    return void response.end();
  }
  let at = from;
  const next = () => {
    if (response.destroyed) return;
    if (at >= body.length) return void response.end();
    const end = at < from + atOnce ? from + atOnce : at + pace[0];
    response.write(body.subarray(at, end));
    at = end;
    setTimeout(next, pace[1]);
  };
  next();
}

/** Breaks the connection after `count` bytes of the body. */
export const cut = (count, options) => (call) => {
  const { response } = call;
  usual({ ...call, response: {
    writeHead: (...args) => response.writeHead(...args),
    write: (bytes) => response.write(bytes.subarray(0, count), () => setTimeout(() => response.destroy(), 20)),
    end: () => {},
  } }, options);
};

export const like = (options) => (call) => usual(call, options);
export const status = (code, headers = {}, text = 'no') => ({ response }) => void response.writeHead(code, headers).end(text);
export const html = ({ response }) => void response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>app</title>');

/** A tar of `files` (path → bytes). `long` says how paths of more than 100 characters are written. */
export function tar(files, { long = 'pax' } = {}) {
  const blocks = [];
  const add = (path, bytes, kind = '0', posix = true) => {
    const header = Buffer.alloc(512);
    header.write(path.slice(0, 100));
    header.write('0000644\0', 100);
    header.write(`${bytes.length.toString(8).padStart(11, '0')}\0`, 124);
    header.write('        ', 148);
    header.write(kind, 156);
    header.write(posix ? 'ustar\x0000' : 'ustar  \0', 257);
    const sum = header.reduce((a, b) => a + b, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    blocks.push(header, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512));
  };
  for (const [path, bytes] of Object.entries(files)) {
    if (path.endsWith('/')) { add(path, Buffer.alloc(0), '5'); continue; }
    if (path.length > 100 && long === 'pax') {
      const record = ` path=${path}\n`;
      let length = record.length + 3;
      if (`${length}`.length !== 3) length = record.length + `${length}`.length;
      add('PaxHeader', Buffer.from(`${length}${record}`), 'x');
    }
    if (path.length > 100 && long === 'gnu') add('././@LongLink', Buffer.from(`${path}\0`), 'L', false);
    add(path, bytes);
  }
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}
