// Loading, as far as it needs no browser: `node --test tests/files.test.mjs`. OPFS is tested in files-browser.mjs.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { cut, html, like, makeModel, safetensors, serve, sha256, status, tar } from './files-server.mjs';

const SRC = new URL('../src/files/', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'refrain-files-'));
let openFiles, resolveSource, cache, openFolder;
const servers = [];

before(async () => {
  // For a browser: an import of a node module is an error here.
  await build({ entryPoints: [`${SRC}files.ts`], outfile: join(folder, 'files.mjs'), bundle: true, format: 'esm', platform: 'browser', logLevel: 'silent' });
  await build({ entryPoints: [`${SRC}disk.ts`], outfile: join(folder, 'disk.mjs'), bundle: true, format: 'esm', platform: 'node' });
  ({ openFiles, resolveSource, cache } = await import(pathToFileURL(join(folder, 'files.mjs')).href));
  ({ openFolder } = await import(pathToFileURL(join(folder, 'disk.mjs')).href));
});
after(async () => {
  for (const server of servers) await server.close();
  rmSync(folder, { recursive: true });
});

const hash = () => {
  const inner = createHash('sha256');
  return { update: (bytes) => void inner.update(bytes), digest: () => inner.digest('hex'), free: () => {} };
};

async function start(model = makeModel()) {
  const server = await serve(model);
  servers.push(server);
  return server;
}

function bytesOf(files, file) {
  const bytes = new Uint8Array(files.size(file));
  files.read(file, 0, bytes);
  return Buffer.from(bytes);
}

/** Opens a model, checks every byte of it and every report on the way. */
async function load(source, expected, options = {}) {
  const reports = [];
  const onProgress = (report) => {
    const last = reports.at(-1);
    if (last) {
      assert.ok(report.loaded >= last.loaded, `loaded fell: ${JSON.stringify([last, report])}`);
      assert.ok(report.loaded * last.total >= last.loaded * report.total, `the share fell: ${JSON.stringify([last, report])}`);
    }
    assert.ok(report.loaded <= report.total);
    reports.push(report);
  };
  const files = await openFiles(source, { sha256: hash, onProgress, ...options });
  assert.deepEqual(files.names().sort(), Object.keys(expected).sort());
  for (const [file, bytes] of Object.entries(expected)) assert.ok(bytesOf(files, file).equals(bytes), `${file} differs`);
  if (reports.length > 0) assert.equal(reports.at(-1).loaded, reports.at(-1).total);
  return { files, reports };
}

const fails = (promise, code, ...patterns) => assert.rejects(promise, (error) => {
  assert.equal(error.name, 'RefrainError', String(error.stack));
  assert.equal(error.code, code, error.message);
  for (const pattern of patterns) assert.match(`${error.message} | ${error.hint}`, pattern);
  return true;
});
const open = (source, options) => openFiles(source, { sha256: hash, ...options });

describe('names and URLs', { concurrency: 8 }, () => {
  const cases = [
    ['https://example.test/m', 'https://example.test/m/'],
    ['https://example.test/m/', 'https://example.test/m/'],
    ['https://example.test/m//#x', 'https://example.test/m/'],
    ['https://example.test/m/config.json', 'https://example.test/m/'],
    ['https://example.test/m/model.safetensors?v=2', 'https://example.test/m/?v=2'],
    ['https://example.test/m/model.safetensors.index.json', 'https://example.test/m/'],
    ['refrain:follow', 'https://example.test/models/follow/'],
    ['hf:owner/repo', 'https://hub.test/owner/repo/resolve/main/'],
    ['hf:owner/repo@refs/pr/1', 'https://hub.test/owner/repo/resolve/refs%2Fpr%2F1/'],
  ];
  for (const [source, expected] of cases) {
    test(source, () => {
      const options = { base: 'https://example.test/models', hub: 'https://hub.test' };
      assert.equal(resolveSource(source, options).folder.href, expected);
      assert.equal(resolveSource(new URL(source), options).folder.href, expected);
    });
  }
  test('a short name stays the name', () => {
    assert.equal(resolveSource('hf:owner/repo@main', { hub: 'https://hub.test' }).name, 'hf:owner/repo');
    assert.equal(resolveSource('refrain:add', { base: 'https://example.test' }).name, 'refrain:add');
  });
  const wrong = [
    ['', /name or URL/], ['models/x', /absolute URL/], ['refrain:../x', /plain name/], ['refrain:follow', /`base`/], ['hf:owner', /hf:owner\/repo/],
    ['hf:owner/repo@../x', /hf:owner/], ['hf:owner/repo', /`hub`/], ['file:///m', /refrain\/node/], ['C:\\models', /refrain\/node/],
    ['https://me:secret@example.test/m', /without user and password(?!.*secret)/], ['data:text/plain,x', /folder/], ['https://example.test/m.tar.gz', /archive/],
  ];
  for (const [source, pattern] of wrong) test(`refuses ${source || 'nothing'}`, () => fails(open(source), 'argument', pattern));
  test('refuses what is no source or option', async () => {
    await fails(open(7), 'argument');
    await fails(open(null), 'argument');
    await fails(open([{}]), 'argument');
    await fails(open('https://example.test/m', { cache: 'disk' }), 'argument', /'opfs'/);
    await fails(open('https://example.test/m', { integrity: { 'config.json': 'md5-x' } }), 'argument', /64 hex digits/);
  });
});

describe('downloads', { concurrency: 8 }, () => {
  test('a model, its progress and its reads', async () => {
    const server = await start();
    const { files, reports } = await load(`${server.url}config.json`, server.files);
    assert.deepEqual([files.name, files.storage, files.fromCache], [server.url, 'memory', false]);
    assert.match(files.note, /OPFS/);
    const total = Object.values(server.files).reduce((sum, { length }) => sum + length, 0);
    assert.ok(reports.every((report) => report.total === total && report.phase === 'download' && !report.fromCache));
    const into = new Uint8Array(5);
    files.read('config.json', 2, into);
    assert.equal(Buffer.from(into).toString(), 'dim":');
    assert.equal(files.size('generation_config.json'), undefined);
    assert.throws(() => files.read('config.json', 8, into), { code: 'file' });
    assert.throws(() => files.read('config.json', -1, into), { code: 'file' });
    assert.throws(() => files.read('nothing', 0, into), { code: 'file' });
    files.close();
    files.close();
    assert.throws(() => files.read('config.json', 0, into), { code: 'file' });
  });
  test('shards', async () => {
    const server = await start(makeModel({ shards: 3 }));
    const { reports } = await load(server.url, server.files);
    assert.ok(reports[0].total >= 290_000, 'the total is told by the index');
    assert.equal(server.requests('model-2-of-3.safetensors').length, 1);
  });
  test('shards that are larger than the index says', async () => {
    const model = makeModel({ shards: 3 });
    const file = 'model.safetensors.index.json';
    const server = await start({ ...model, [file]: Buffer.from(JSON.stringify({ ...JSON.parse(model[file]), metadata: { total_size: 10 } })) });
    server.plan('model-2-of-3.safetensors', like({ pace: [10_000, 30] }));
    const { reports } = await load(server.url, server.files);
    assert.ok(reports.some(({ file, loaded }) => file === 'model-2-of-3.safetensors' && loaded < 190_000), 'no report from within the second shard');
  });
  test('a query goes with every file, headers with every request', async () => {
    const server = await start();
    await load(`${server.url}?v=2`, server.files, { headers: { Authorization: 'Bearer x' } });
    assert.ok(server.log.length >= 4 && server.log.every(({ path, headers }) => path.endsWith('?v=2') && headers.authorization === 'Bearer x'));
  });
  test('optional files may be missing, with a page or 403 in their place', async () => {
    const { 'tokenizer.json': _, ...rest } = makeModel();
    const server = await start(rest);
    server.plan('tokenizer.json', html);
    server.plan('generation_config.json', status(403));
    await load(server.url, rest);
  });
  test('a page in place of model.safetensors leads to the index', async () => {
    const server = await start(makeModel({ shards: 2 }));
    server.plan('model.safetensors', html);
    await load(server.url, server.files);
  });
  test('without any Content-Length', async () => {
    const server = await start();
    server.plan('model.safetensors', ({ response, body }) => { response.writeHead(200); response.write(body.subarray(0, 1000)); response.end(body.subarray(1000)); });
    await load(server.url, server.files);
  });
  test('compressed on the way: Content-Length is another size', async () => {
    const server = await start();
    for (const file of ['config.json', 'model.safetensors']) {
      server.plan(file, ({ response, body }) => {
        const packed = gzipSync(body);
        response.writeHead(200, { 'Content-Encoding': 'gzip', 'Content-Length': packed.length, ETag: '"z"' }).end(packed);
      });
    }
    await load(server.url, server.files);
    assert.equal(server.log.length, 4);
  });
});

describe('what breaks on the way', { concurrency: 8 }, () => {
  const weights = 'model.safetensors';
  /** The requests for the weights when the first replies are these; the model must be right in the end. */
  const requests = async (...replies) => {
    const server = await start();
    server.plan(weights, ...replies);
    await load(server.url, server.files);
    return server.requests(weights);
  };
  test('goes on where a connection broke, for the same version only', async () => {
    const [first, second, third, ...more] = await requests(cut(100_000), cut(50_000));
    assert.equal(first.headers.range, undefined);
    assert.equal(second.headers.range, 'bytes=100000-');
    assert.equal(third.headers.range, 'bytes=150000-');
    assert.match(second.headers['if-range'], /^"/);
    assert.equal(more.length, 0);
  });
  test('takes Last-Modified where the ETag is weak', async () => {
    const version = { 'Last-Modified': 'Sat, 01 Jan 2022 00:00:00 GMT', ETag: 'W/"x"' };
    const [, second] = await requests(cut(100_000, { version }), like({ version }));
    assert.equal(second.headers['if-range'], version['Last-Modified']);
    assert.equal(second.headers.range, 'bytes=100000-');
  });
  test('accepts a 206 that leaves out Last-Modified, since the request was conditional', async () => {
    const version = { 'Last-Modified': 'Sat, 01 Jan 2022 00:00:00 GMT' };
    const bare = ({ response, body }) => {
      response.writeHead(206, { 'Content-Range': `bytes 100000-${body.length - 1}/${body.length}` });
      response.end(body.subarray(100_000));
    };
    assert.equal((await requests(cut(100_000, { version }), bare)).length, 2);
  });
  test('starts over without a validator', async () => {
    const [, second] = await requests(cut(100_000, { version: {} }));
    assert.equal(second.headers.range, undefined);
  });
  test('starts over when the file has changed', async () => {
    const server = await start();
    server.plan(weights, (call) => { cut(100_000)(call); server.files[weights] = safetensors(200_000); });
    await load(server.url, server.files);
    assert.deepEqual(server.requests(weights).map(({ headers }) => headers.range), [undefined, 'bytes=100000-']);
  });
  test('starts over when the server ignores ranges', async () => {
    assert.equal((await requests(cut(100_000), like({ ranges: false }))).length, 2);
  });
  for (const [what, headers] of [
    ['another start', (size) => ({ 'Content-Range': `bytes 0-${size - 1}/${size}` })],
    ['another size', (size) => ({ 'Content-Range': `bytes 100000-${size}/${size + 1}` })],
    ['no Content-Range', () => ({})],
    ['another version', (size) => ({ 'Content-Range': `bytes 100000-${size - 1}/${size}`, ETag: '"other"' })],
  ]) {
    test(`starts over at a 206 with ${what}`, async () => {
      const wrong = ({ response, body, etag }) => {
        response.writeHead(206, { ETag: etag, ...headers(body.length) }).end(Buffer.alloc(body.length - 100_000));
      };
      const asked = await requests(cut(100_000), wrong);
      assert.deepEqual(asked.map(({ headers: { range } }) => range), [undefined, 'bytes=100000-', undefined]);
    });
  }
  test('starts over at a 416', async () => {
    const asked = await requests(cut(100_000), status(416));
    assert.deepEqual(asked.map(({ headers: { range } }) => range), [undefined, 'bytes=100000-', undefined]);
  });
  test('a 206 of a part of the rest is continued', async () => {
    const piece = ({ response, body, etag }) => {
      response.writeHead(206, { ETag: etag, 'Content-Range': `bytes 100000-149999/${body.length}`, 'Content-Length': 50_000 });
      response.end(body.subarray(100_000, 150_000));
    };
    const asked = await requests(cut(100_000), piece);
    assert.deepEqual(asked.map(({ headers: { range } }) => range), [undefined, 'bytes=100000-', 'bytes=150000-']);
  });
  for (const [what, change] of [['shorter', -1], ['longer', 1]]) {
    test(`a body ${what} than Content-Length`, async () => {
      const model = makeModel();
      let times = 0;
      const fetch = async (url, { headers }) => {
        const body = model[new URL(url).pathname.slice(3)];
        if (!body) return new Response('', { status: 404 });
        const lies = url.endsWith(weights) && (times += 1) === 1;
        if (times > 1) assert.equal(headers.get('range'), null);
        return new Response(body, { headers: { 'Content-Length': String(body.length - (lies ? change : 0)) } });
      };
      await load('https://example.test/m/', model, { fetch });
      assert.equal(times, 2);
    });
  }
  test('tries again when the server is busy, after the time that it names', async () => {
    const server = await start();
    server.plan(weights, status(503, { 'Retry-After': '1' }), status(429));
    const start_ = Date.now();
    await load(server.url, server.files);
    assert.ok(Date.now() - start_ >= 1500, 'one second, and the second wait');
    assert.equal(server.requests(weights).length, 3);
  });
  test('does not wait for hours', async () => {
    const server = await start();
    server.plan(weights, status(429, { 'Retry-After': '3600' }));
    await fails(open(server.url), 'file', /429/, /3600 seconds/);
    assert.equal(server.requests(weights).length, 1);
  });
  test('gives up in the end', async () => {
    const server = await start();
    server.plan(weights, ...Array(9).fill(status(500)));
    server.plan('config.json', ...Array(9).fill(cut(3)));
    await assert.rejects(open(server.url), (error) => {
      assert.equal(error.code, 'file');
      assert.deepEqual(error.details, { url: `${server.url}${weights}`, status: 500 });
      return true;
    });
    assert.equal(server.requests(weights).length, 5);
  });
});

describe('aborting', { concurrency: 8 }, () => {
  test('rejects with the reason as it is, at once, and stops every transfer', async () => {
    const server = await start(makeModel({ bytes: 3_000_000 }));
    server.plan('model.safetensors', like({ pace: [10_000, 10] }));
    const controller = new AbortController();
    const reason = { mine: true };
    let when;
    const onProgress = ({ loaded }) => { if (loaded > 50_000 && !when) { when = Date.now(); controller.abort(reason); } };
    await assert.rejects(open(server.url, { signal: controller.signal, onProgress }), (error) => error === reason);
    assert.ok(Date.now() - when < 1000);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const { sent } = server.requests('model.safetensors')[0];
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(server.requests('model.safetensors')[0].sent, sent, 'the transfer goes on');
  });
  test('is heard where fetch does not listen, and in the pause before a retry', async () => {
    const signal = AbortSignal.timeout(100);
    await assert.rejects(open('https://example.test/m/', { signal, fetch: () => new Promise(() => {}) }), (error) => error === signal.reason);
    const server = await start();
    server.plan('config.json', status(503, { 'Retry-After': '15' }));
    const later = AbortSignal.timeout(200);
    await assert.rejects(open(server.url, { signal: later }), (error) => error === later.reason);
  });
  test('before it begins', async () => {
    const signal = AbortSignal.abort('no');
    await assert.rejects(open('https://example.test/m', { signal, fetch: () => assert.fail('fetched') }), (error) => error === 'no');
  });
});

describe('files that are not what their names say', { concurrency: 8 }, () => {
  const cases = [
    ['an HTML page', 'config.json', html, 'format', /HTML page/],
    ['an HTML page without its type', 'config.json', status(200, {}, ' <!DOCTYPE html>'), 'format', /HTML page/],
    ['a Git LFS pointer', 'model.safetensors', status(200, {}, 'version https://git-lfs.test/spec/v1\noid sha256:0\n'), 'format', /Git LFS/, /git lfs pull/],
    ['a zip', 'model.safetensors', status(200, {}, 'PK\x03\x04..........'), 'format', /zip/, /convert/],
    ['an empty file', 'model.safetensors', status(200, { 'Content-Length': 0 }, ''), 'format', /empty file/],
    ['gzip', 'config.json', status(200, {}, gzipSync('{}')), 'format', /gzip/],
    ['something else', 'model.safetensors', status(200, {}, 'x'.repeat(100)), 'format', /100 bytes/],
    ['a missing config', 'config.json', status(404), 'file', /404/, /config\.json/],
    ['a private one', 'config.json', status(401), 'file', /401/, /Authorization/],
    ['missing weights', 'model.safetensors', status(404), 'file', /model\.safetensors/, /404/],
  ];
  for (const [what, file, reply, code, ...patterns] of cases) {
    test(what, async () => {
      const server = await start();
      server.plan(file, reply);
      await fails(open(server.url), code, ...patterns);
      assert.equal(server.requests(file).length, 1, 'was tried again');
    });
  }
  test('a server that is not there', async () => {
    const server = await serve({});
    await server.close();
    await fails(open(server.url), 'file', /ECONNREFUSED/, /127|localhost/, /connection/);
  });
  const entry = (name) => JSON.stringify({ weight_map: { w: name } });
  for (const index of ['{', '[]', '{}', '{"weight_map": {}}', entry('../x.safetensors'), entry('/x.safetensors'), entry('a\\x.safetensors'), entry('x.bin'), entry('c:x.safetensors'), entry('.x.safetensors'), entry(7)]) {
    test(`the index ${index}`, async () => {
      const { 'model.safetensors': _, ...rest } = makeModel();
      const server = await start({ ...rest, 'model.safetensors.index.json': Buffer.from(index) });
      await fails(open(server.url), 'format', /index\.json: expected/);
    });
  }
  test('an index that names a shard that is not there', async () => {
    const { 'model-2-of-2.safetensors': _, ...rest } = makeModel({ shards: 2 });
    const server = await start(rest);
    await fails(open(server.url), 'file', /model-2-of-2\.safetensors/, /404/);
  });
});

describe('integrity', { concurrency: 8 }, () => {
  test('in hex and in base64', async () => {
    const server = await start();
    const integrity = {
      'config.json': sha256(server.files['config.json']).toUpperCase(),
      'model.safetensors': `sha256-${createHash('sha256').update(server.files['model.safetensors']).digest('base64')}`,
    };
    server.plan('model.safetensors', cut(100_000));
    await load(server.url, server.files, { integrity });
  });
  test('a file that is another one', async () => {
    const server = await start();
    const found = sha256(server.files['model.safetensors']);
    await fails(open(server.url, { integrity: { 'model.safetensors': '0'.repeat(64) } }), 'format', /0{64}/, new RegExp(found));
  });
  test('a file that is not there', async () => {
    const server = await start();
    await fails(open(server.url, { integrity: { 'generation_config.json': '0'.repeat(64) } }), 'file', /generation_config\.json/);
  });
  test('of files that are here', async () => {
    const model = makeModel();
    const files = Object.entries(model).map(([name, bytes]) => new File([bytes], name));
    await load(files, model, { integrity: { 'config.json': sha256(model['config.json']) } });
    await fails(open(files, { integrity: { 'config.json': '1'.repeat(64) } }), 'format', /1{64}/);
    await fails(open(files, { integrity: { 'other.json': '1'.repeat(64) } }), 'file', /other\.json/);
  });
});

describe('archives', { concurrency: 8 }, () => {
  const model = makeModel({ bytes: 50_000 });
  const inside = (prefix, files = model) => Object.fromEntries(Object.entries(files).map(([file, bytes]) => [`${prefix}${file}`, bytes]));
  const stream = (bytes, piece = 700) => new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += piece) controller.enqueue(new Uint8Array(bytes.subarray(at, at + piece)));
      controller.close();
    },
  });
  const archives = {
    plain: tar(model), 'in a folder': tar({ 'm/': 0, ...inside('./m/') }), 'with other files': tar({ 'README.md': Buffer.from('#'), ...model, 'old/config.json': Buffer.from('{}') }),
    'long names (pax)': tar(inside(`${'d'.repeat(120)}/`)), 'long names (GNU)': tar(inside(`${'d'.repeat(120)}/`), { long: 'gnu' }),
    shards: tar(makeModel({ shards: 2 })),
  };
  for (const [what, bytes] of Object.entries(archives)) {
    test(what, async () => {
      const expected = what === 'shards' ? undefined : model;
      for (const source of [new Blob([bytes]), new Blob([gzipSync(bytes)]), stream(bytes), stream(gzipSync(bytes)), stream(bytes, 1 << 20)]) {
        if (expected) await load(source, expected);
        else assert.equal((await open(source)).names().length, 5);
      }
    });
  }
  const bad = {
    empty: Buffer.alloc(0), 'something else': Buffer.from('x'.repeat(2000)), zeros: Buffer.alloc(2048), 'cut off': tar(model).subarray(0, 10_000),
    'damaged gzip': gzipSync(tar(model)).subarray(0, 10_000), 'a broken header': (() => { const bytes = tar(model); bytes[5] ^= 1; return bytes; })(),
  };
  for (const [what, bytes] of Object.entries(bad)) {
    test(what, async () => {
      await fails(open(new Blob([bytes])), 'format', /expected/);
      await fails(open(stream(bytes)), 'format', /expected/);
    });
  }
  test('without config.json or weights', async () => {
    await fails(open(new Blob([tar({ 'a.txt': Buffer.from('x') })])), 'file', /config\.json/);
    await fails(open(new Blob([tar({ 'config.json': Buffer.from('{}') })])), 'file', /model\.safetensors/);
  });
  test('a stream that breaks, and one that is aborted', async () => {
    const broken = new ReadableStream({ start: (controller) => { controller.enqueue(new Uint8Array(tar(model).subarray(0, 600))); controller.error(new Error('gone')); } });
    await fails(open(broken), 'file', /gone/);
    let cancelled = false;
    const endless = new ReadableStream({ pull: () => new Promise(() => {}), cancel: () => { cancelled = true; } });
    const signal = AbortSignal.timeout(50);
    await assert.rejects(open(endless, { signal }), (error) => error === signal.reason);
    assert.ok(cancelled);
  });
});

describe('picked files', { concurrency: 8 }, () => {
  const model = makeModel({ bytes: 1000 });
  const pick = (files) => Object.entries(files).map(([path, bytes]) => {
    const file = new File([bytes], path.slice(path.lastIndexOf('/') + 1));
    return Object.defineProperty(file, 'webkitRelativePath', { value: path.includes('/') ? path : '' });
  });
  test('those beside config.json count', async () => {
    const inside = Object.fromEntries(Object.entries(model).map(([file, bytes]) => [`models/a/${file}`, bytes]));
    const others = { 'models/tokenizer.json': Buffer.from('{"other": 1}'), 'models/a/b/config.json': Buffer.from('{"b": 1}') };
    const { files } = await load(pick({ ...inside, ...others }), model);
    assert.deepEqual([files.name, files.storage], ['models', 'memory']);
  });
  test('something is missing', async () => {
    const { 'model.safetensors': _, ...rest } = model;
    await fails(open(pick(rest)), 'file', /model\.safetensors/);
    await fails(open([]), 'file', /config\.json/);
  });
});

describe('folders on disk', { concurrency: 8 }, () => {
  const write = (name, model) => {
    const path = join(folder, name);
    mkdirSync(path);
    for (const [file, bytes] of Object.entries(model)) writeFileSync(join(path, file), bytes);
    return path;
  };
  for (const shards of [0, 2]) {
    test(`${shards} shards`, () => {
      const model = makeModel({ bytes: 5000, shards });
      const path = write(`disk${shards}`, { ...model, 'README.md': '#' });
      for (const source of [path, pathToFileURL(path), pathToFileURL(path).href]) {
        const files = openFolder(source);
        assert.equal(files.storage, 'disk');
        assert.deepEqual(files.names().sort(), Object.keys(model).sort());
        for (const file of files.names()) assert.ok(bytesOf(files, file).equals(readFileSync(join(path, file))));
        files.close();
        assert.throws(() => files.read('config.json', 0, new Uint8Array(1)), { code: 'file' });
      }
    });
  }
  test('what is wrong with them', () => {
    const { 'model-1-of-2.safetensors': _, ...lost } = makeModel({ shards: 2 });
    const cases = [
      [join(folder, 'nowhere'), 'file'], [join(folder, 'files.mjs'), 'file'], [write('no-config', { 'a.txt': 'x' }), 'file'], [write('lost', lost), 'file'],
      [write('zip', { 'config.json': '{}', 'model.safetensors': 'PK\x03\x04 and more' }), 'format'],
    ];
    for (const [path, code] of cases) assert.throws(() => openFolder(path), { name: 'RefrainError', code }, path);
  });
});

test('without OPFS: the cache is empty, and asking for it is an error', async () => {
  assert.deepEqual(await cache.list(), []);
  assert.equal(await cache.delete('https://example.test/m/'), false);
  await cache.clear();
  await fails(open('https://example.test/m', { cache: 'opfs' }), 'file', /OPFS/);
});
