// Loading into OPFS, in a real browser: in a Worker and on a page's own thread. `run(browser)` takes a browser of playwright-core; as a
// program, this starts Chromium itself (CHROMIUM names it, else /usr/bin/chromium).

import assert from 'node:assert/strict';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { cut, like, makeModel, safetensors, serve, sha256, status, tar, usual } from './files-server.mjs';

const SRC = new URL('../src/files/', import.meta.url).pathname;
const WEIGHTS = 'model.safetensors';
/** Much of a file, and then next to nothing: it will be stopped on the way. */
const stuck = (atOnce) => like({ atOnce, pace: [1000, 60] });
/** Slow enough for something else to happen meanwhile. */
const SLOW = { pace: [50_000, 50] };

/**
 * Runs in the page and in the Worker: keeps models open between calls. Results are plain data. The hash is a small one of our own, because
 * the browser's own takes no pieces.
 */
const AGENT = `
import { openFiles, cache } from './files.js';
const open = new Map();
const controllers = new Map();
const K = [], H = [];
const frac = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0;
for (let n = 2; K.length < 64; n += 1) {
  let prime = true;
  for (let d = 2; d * d <= n; d += 1) if (n % d === 0) prime = false;
  if (prime) { if (H.length < 8) H.push(frac(n ** (1 / 2))); K.push(frac(n ** (1 / 3))); }
}
class Sha256 {
  state = [...H]; length = 0; rest = new Uint8Array(64); filled = 0; w = new Int32Array(64);
  block(bytes, at) {
    const { w, state } = this;
    const rotate = (x, n) => (x >>> n) | (x << (32 - n));
    for (let i = 0; i < 16; i += 1, at += 4) w[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    for (let i = 16; i < 64; i += 1) {
      const [x, y] = [w[i - 15], w[i - 2]];
      w[i] = (w[i - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3)) + w[i - 7] + (rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10))) | 0;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i += 1) {
      const t = (h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const u = ((rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t) | 0, c, b, a, (t + u) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => { state[i] = (state[i] + x) | 0; });
  }
  update(bytes) {
    this.length += bytes.length;
    for (let at = 0; at < bytes.length;) {
      if (this.filled === 0 && bytes.length - at >= 64) { this.block(bytes, at); at += 64; continue; }
      const count = Math.min(64 - this.filled, bytes.length - at);
      this.rest.set(bytes.subarray(at, at + count), this.filled);
      at += count; this.filled += count;
      if (this.filled === 64) { this.block(this.rest, 0); this.filled = 0; }
    }
  }
  digest() {
    const bits = this.length * 8;
    const end = new Uint8Array(((this.filled < 56 ? 64 : 128) - this.filled));
    end[0] = 0x80;
    const view = new DataView(end.buffer);
    view.setUint32(end.length - 8, Math.floor(bits / 2 ** 32)); view.setUint32(end.length - 4, bits >>> 0);
    this.update(end);
    return this.state.map((x) => (x >>> 0).toString(16).padStart(8, '0')).join('');
  }
  free() {}
}
const sha256 = () => new Sha256();
const plain = (error) => ({ error: error instanceof Error ? { name: error.name, code: error.code, message: error.message, hint: error.hint } : error });
globalThis.agent = {
  // Opens a model under a name of its own, aborts it after so many bytes, and tells what became of it.
  async open({ key, source, abortAt, ...options }) {
    const reports = [];
    const controller = new AbortController();
    controllers.set(key, controller);
    const onProgress = (report) => {
      reports.push(report);
      if (report.loaded >= abortAt) controller.abort('enough');
    };
    try {
      const files = await openFiles(source, { ...options, sha256, signal: controller.signal, onProgress });
      open.set(key, files);
      const hashes = {};
      for (const file of files.names()) {
        const hash = sha256();
        const piece = new Uint8Array(100_000);
        for (let at = 0; at < files.size(file); at += piece.length) {
          const part = piece.subarray(0, Math.min(piece.length, files.size(file) - at));
          files.read(file, at, part);
          hash.update(part);
        }
        hashes[file] = hash.digest();
      }
      const falls = reports.some((now, i) => i > 0 && (now.loaded < reports[i - 1].loaded || now.loaded / now.total < reports[i - 1].loaded / reports[i - 1].total));
      return { name: files.name, storage: files.storage, note: files.note, fromCache: files.fromCache, hashes, falls, phases: [...new Set(reports.map(({ phase }) => phase))], last: reports.at(-1) };
    } catch (error) { return plain(error); }
  },
  // A tar or picked files, put together here.
  async local({ key, bytes, name, as }) {
    const data = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0));
    return agent.open({ key, source: as === 'blob' ? new Blob([data]) : as === 'stream' ? new Blob([data]).stream() : [new File([data], name)] });
  },
  read({ key, file }) { try { open.get(key).read(file, 0, new Uint8Array(1)); return {}; } catch (error) { return plain(error); } },
  close({ key }) { open.get(key).close(); open.delete(key); return {}; },
  async cache({ method, args }) { try { return { value: await cache[method](...args) }; } catch (error) { return plain(error); } },
  // Makes writes to OPFS fail after so many bytes; undefined: no more.
  breakWrites({ after }) {
    let left = after ?? Infinity;
    const failure = (data) => ((left -= data.byteLength ?? data.length) < 0 ? new DOMException('no room', 'QuotaExceededError') : undefined);
    const streams = FileSystemWritableFileStream.prototype;
    streams.usual ??= streams.write;
    streams.write = function (data) { const error = failure(data); return error ? Promise.reject(error) : this.usual(data); };
    if (typeof FileSystemSyncAccessHandle === 'undefined') return {};
    const handles = FileSystemSyncAccessHandle.prototype;
    handles.usual ??= handles.write;
    handles.write = function (data, options) { const error = failure(data); if (error) throw error; return this.usual(data, options); };
    return {};
  },
  hideOpfs() { Object.defineProperty(StorageManager.prototype, 'getDirectory', { value: undefined, configurable: true }); return {}; },
  hideLocks() { Object.defineProperty(navigator, 'locks', { value: undefined, configurable: true }); return {}; },
};
`;
const WORKER = `import './agent.js';
onmessage = async ({ data: { id, method, argument } }) => postMessage({ id, result: await agent[method](argument) });
postMessage('ready');`;
const PAGE = `<!doctype html><link rel="icon" href="data:,"><script type="module">
import './agent.js';
window.workers = [];
window.start = () => new Promise((resolve) => {
  const worker = new Worker('./worker.js', { type: 'module' });
  const calls = new Map();
  worker.call = (method, argument) => new Promise((done) => { calls.set(calls.size, done); worker.postMessage({ id: calls.size - 1, method, argument }); });
  worker.onmessage = ({ data }) => { if (data === 'ready') resolve(workers.push(worker) - 1); else calls.get(data.id)(data.result); };
});
window.ready = true;
</script>`;

/** Runs all of it; throws at the first fault. `report` hears of each part that went well. */
export async function run(browser, report = () => {}) {
  const { outputFiles } = await build({ entryPoints: [`${SRC}files.ts`], bundle: true, write: false, format: 'esm', platform: 'browser' });
  const script = (text) => ['text/javascript', text];
  const pages = { '/': ['text/html', PAGE], '/agent.js': script(AGENT), '/worker.js': script(WORKER), '/files.js': script(outputFiles[0].text) };
  const app = await serve({}, { pages });
  const parts = ['worker', 'page'].flatMap((kind) => Object.entries(PARTS).map(([what, part]) => ({ kind, what, part })));
  // They wait more than they work: some at a time.
  const lane = async () => {
    for (let next = parts.shift(); next; next = parts.shift()) {
      const { kind, what, part } = next;
      // A context of its own has an OPFS of its own.
      const context = await browser.newContext();
      const servers = [];
      const started = Date.now();
      try {
        await part(makeTools(context, kind, app.url, pages, servers));
        report(`${kind}: ${what} (${Date.now() - started} ms)`);
      } catch (cause) {
        parts.length = 0;
        throw new Error(`${kind}: ${what}`, { cause });
      } finally {
        for (const server of servers) await server.close();
        await context.close();
      }
    }
  };
  try {
    const lanes = await Promise.allSettled([lane(), lane(), lane(), lane()]);
    for (const { reason } of lanes) if (reason) throw reason;
  } finally {
    await app.close();
  }
}

function makeTools(context, kind, address, pages, servers) {
  /** A page, or a Worker in one, that opens models. */
  const agent = async (url = address) => {
    const page = await context.newPage();
    await page.goto(new URL('/', url).href);
    await page.waitForFunction('window.ready');
    const number = kind === 'worker' ? await page.evaluate('start()') : undefined;
    const call = (method, argument = {}) => page.evaluate(
      ([number, method, argument]) => (number === undefined ? window.agent[method](argument) : window.workers[number].call(method, argument)),
      [number, method, argument],
    );
    return { call, page, open: (source, options = {}) => call('open', { key: 'model', source, ...options }) };
  };
  /** A server of another origin than the pages, unless they are opened from it. */
  const start = async (model = makeModel({ bytes: 3_000_000 }), options = {}) => {
    const server = await serve(model, { pages, ...options });
    servers.push(server);
    return server;
  };
  const hashes = (model) => Object.fromEntries(Object.entries(model).map(([file, bytes]) => [file, sha256(bytes)]));
  /** A model that opened well. */
  const isGood = (result, model, expected = {}) => {
    assert.equal(result.error, undefined, JSON.stringify(result.error));
    assert.deepEqual(result.hashes, hashes(model));
    assert.equal(result.falls, false, 'progress fell');
    assert.equal(result.last.loaded, result.last.total);
    for (const [field, value] of Object.entries(expected)) assert.equal(result[field], value, `${field}: ${JSON.stringify(result)}`);
  };
  return { kind, agent, start, isGood, storage: kind === 'worker' ? 'opfs' : 'memory' };
}

const PARTS = {
  async 'downloads, then opens offline without a request'({ kind, agent, start, isGood, storage }) {
    const server = await start();
    const one = await agent();
    isGood(await one.open(server.url), server.files, { fromCache: false, storage });
    await one.call('close', { key: 'model' });
    await server.close();
    const before = server.log.length;
    const result = await one.open(server.url);
    isGood(result, server.files, { fromCache: true, storage });
    assert.equal(result.last.fromCache, true);
    assert.equal(kind === 'worker', result.note === undefined, result.note);
    // In another tab at the same time, while the first has it open.
    isGood(await (await agent()).open(server.url, { cache: 'opfs' }), server.files, { fromCache: true, storage });
    assert.equal(server.log.length, before);
    await server.reopen();
    isGood(await one.open(server.url, { cache: 'none', key: 'other' }), server.files, { fromCache: false, storage: 'memory' });
  },
  async 'goes on after an abort, also in a tab opened later'({ agent, start, isGood, storage }) {
    const server = await start();
    const one = await agent();
    server.plan(WEIGHTS, stuck(1_200_000));
    assert.deepEqual(await one.open(server.url, { abortAt: 1_000_000 }), { error: 'enough' });
    await one.page.close();
    const two = await agent();
    const [partial] = (await two.call('cache', { method: 'list', args: [] })).value;
    assert.equal(partial.complete, false);
    assert.ok(partial.bytes >= 1_000_000 && partial.bytes < 2_000_000, `${partial.bytes} bytes were kept`);
    // After the others: nothing is reported before all sizes are known. The second answer breaks before its first byte.
    server.plan(WEIGHTS, (call) => setTimeout(cut(0), 300, call));
    const result = await two.open(server.url, { integrity: { [WEIGHTS]: sha256(server.files[WEIGHTS]) } });
    isGood(result, server.files, { storage, fromCache: false });
    assert.deepEqual(result.phases.sort(), ['download', 'verify']);
    const [, second] = server.requests(WEIGHTS);
    const from = Number(/^bytes=(\d+)-$/.exec(second.headers.range)[1]);
    assert.ok(from >= 1_000_000, second.headers.range);
    assert.equal(server.requests(WEIGHTS)[2].sent, server.files[WEIGHTS].length - from);
    await two.call('close', { key: 'model' });
    await server.close();
    isGood(await two.open(server.url), server.files, { fromCache: true });
  },
  async 'goes on after its tab was closed, in a Worker where that was'({ kind, agent, start, isGood }) {
    const server = await start();
    const [one, two] = [await agent(), await agent()];
    server.plan(WEIGHTS, stuck(1_200_000));
    one.open(server.url).catch(() => {});
    const list = async () => (await two.call('cache', { method: 'list', args: [] })).value;
    const enough = async () => (kind === 'worker' ? (await list())[0]?.bytes >= 1_000_000 : server.requests(WEIGHTS)[0]?.sent >= 1_200_000);
    while (!(await enough())) await new Promise((resolve) => setTimeout(resolve, 50));
    await one.page.close();
    isGood(await two.open(server.url, { integrity: { [WEIGHTS]: sha256(server.files[WEIGHTS]) } }), server.files);
    const { range } = server.requests(WEIGHTS)[1].headers;
    if (kind === 'worker') assert.match(range, /^bytes=1\d{6}-$/);
    else assert.equal(range, undefined);
  },
  async 'goes on after an abort on the server of the page'({ agent, start, isGood }) {
    const server = await start();
    const one = await agent(server.url);
    server.plan(WEIGHTS, stuck(1_200_000));
    await one.open('./m/', { abortAt: 1_000_000 });
    isGood(await one.open('./m/config.json'), server.files);
    const [, { headers }] = server.requests(WEIGHTS);
    assert.match(headers.range, /^bytes=[1-9]/);
    assert.match(headers['if-range'], /^"/);
  },
  async 'starts over after an abort where another origin hides versions'({ agent, start, isGood }) {
    const server = await start(undefined, { expose: '' });
    const one = await agent();
    server.plan(WEIGHTS, stuck(1_200_000));
    await one.open(server.url, { abortAt: 1_000_000 });
    isGood(await one.open(server.url), server.files);
    assert.equal(server.requests(WEIGHTS)[1].headers.range, undefined);
  },
  async 'another origin hides that it compresses'({ agent, start, isGood }) {
    const server = await start(makeModel({ bytes: 1000 }));
    server.files[WEIGHTS] = Buffer.concat([server.files[WEIGHTS], Buffer.alloc(100_000)]);
    server.plan(WEIGHTS, ({ response, body }) => {
      const packed = gzipSync(body);
      response.writeHead(200, { 'Content-Encoding': 'gzip', 'Content-Length': packed.length, 'Content-Type': 'text/plain' }).end(packed);
    });
    isGood(await (await agent()).open(server.url), server.files);
    assert.equal(server.requests(WEIGHTS).length, 1);
  },
  async 'starts over after an abort when the file has changed'({ agent, start, isGood }) {
    const server = await start();
    const one = await agent();
    server.plan(WEIGHTS, stuck(1_200_000));
    await one.open(server.url, { abortAt: 1_000_000 });
    server.files[WEIGHTS] = safetensors(2_000_000);
    isGood(await one.open(server.url), server.files);
    // And again, stopped in the new version: nothing of the first may come back.
    server.files[WEIGHTS] = safetensors(2_500_000);
    await one.call('close', { key: 'model' });
    assert.equal((await one.call('cache', { method: 'delete', args: [server.url] })).value, true);
    server.plan(WEIGHTS, stuck(600_000));
    await one.open(server.url, { abortAt: 500_000 });
    isGood(await one.open(server.url), server.files);
  },
  async 'shards: those that are whole are not fetched again'({ agent, start, isGood, storage }) {
    const server = await start(makeModel({ bytes: 3_000_000, shards: 3 }));
    const one = await agent();
    server.plan('model-2-of-3.safetensors', stuck(500_000));
    await one.open(server.url, { abortAt: 1_400_000 });
    isGood(await one.open(server.url), server.files, { storage });
    const [, second] = server.requests('model-1-of-3.safetensors');
    assert.ok(second.sent <= server.files['model-1-of-3.safetensors'].length);
    assert.match(server.requests('model-2-of-3.safetensors')[1].headers.range, /^bytes=[1-9]/);
  },
  async 'two at once fetch it once'({ agent, start, isGood }) {
    const server = await start();
    server.plan(WEIGHTS, like(SLOW));
    const [one, two] = [await agent(), await agent()];
    const results = await Promise.all([one.open(server.url), two.open(server.url)]);
    for (const result of results) isGood(result, server.files);
    assert.deepEqual(results.map(({ fromCache }) => fromCache).sort(), [false, true]);
    assert.equal(server.requests(WEIGHTS).length, 1);
  },
  async 'two at once without Web Locks do not harm each other'({ kind, agent, start, isGood }) {
    const server = await start();
    server.plan(WEIGHTS, like(SLOW), like(SLOW));
    const [one, two] = [await agent(), await agent()];
    await one.call('hideLocks');
    await two.call('hideLocks');
    const results = await Promise.all([one.open(server.url), two.open(server.url)]);
    for (const result of results) isGood(result, server.files);
    if (kind === 'worker') {
      assert.deepEqual(results.map(({ storage }) => storage).sort(), ['memory', 'opfs']);
      assert.match(results.find(({ storage }) => storage === 'memory').note, /another tab or Worker/);
    }
    for (const each of [one, two]) await each.call('close', { key: 'model' });
    isGood(await one.open(server.url), server.files);
  },
  async 'without room: memory, with nothing fetched twice, and kept for later'({ kind, agent, start, isGood, storage }) {
    const server = await start();
    const one = await agent();
    // In small pieces, so that OPFS has some before it refuses one.
    server.plan(WEIGHTS, like({ pace: [50_000, 25] }));
    await one.call('breakWrites', { after: 1_000_000 });
    const result = await one.open(server.url);
    isGood(result, server.files, { storage: 'memory', fromCache: false });
    assert.match(result.note, /QuotaExceededError/);
    assert.equal(server.requests(WEIGHTS).length, 1);
    await one.call('close', { key: 'model' });
    await one.call('breakWrites', {});
    isGood(await one.open(server.url), server.files, { storage, fromCache: false });
    // On a page a copy that fails is lost.
    assert.match(server.requests(WEIGHTS)[1].headers.range ?? 'none', kind === 'worker' ? /^bytes=[5-9]\d{5}-$/ : /none/);
    await one.call('close', { key: 'model' });
    isGood(await one.open(server.url), server.files, { storage, fromCache: true });
  },
  async 'without any room from the start, and without OPFS'({ agent, start, isGood }) {
    const server = await start();
    const one = await agent();
    await one.call('breakWrites', { after: 0 });
    isGood(await one.open(server.url), server.files, { storage: 'memory' });
    await one.call('hideOpfs');
    const result = await one.open(server.url);
    isGood(result, server.files, { storage: 'memory', fromCache: false });
    assert.match(result.note, /OPFS cannot be used/);
    const { error } = await one.open(server.url, { cache: 'opfs' });
    assert.equal(error.code, 'file');
    assert.deepEqual((await one.call('cache', { method: 'list', args: [] })).value, []);
  },
  async 'a wrong hash deletes the file; a new hash fetches the new file'({ agent, start, isGood }) {
    const server = await start();
    const one = await agent();
    const { error } = await one.open(server.url, { integrity: { [WEIGHTS]: '0'.repeat(64) } });
    assert.equal(error.code, 'format');
    const [left] = (await one.call('cache', { method: 'list', args: [] })).value;
    assert.ok(left.bytes < 1000, `${left.bytes} bytes are left`);
    isGood(await one.open(server.url), server.files);
    await one.call('close', { key: 'model' });
    server.files[WEIGHTS] = safetensors(1_000_000);
    isGood(await one.open(server.url, { integrity: { [WEIGHTS]: sha256(server.files[WEIGHTS]) } }), server.files, { fromCache: false });
    const same = await one.open(server.url, { integrity: { [WEIGHTS]: sha256(server.files[WEIGHTS]) } });
    isGood(same, server.files, { fromCache: true });
  },
  async 'errors leave nothing behind'({ agent, start }) {
    const server = await start();
    const one = await agent();
    server.plan(WEIGHTS, status(200, {}, 'PK\x03\x04 a zip'));
    assert.match((await one.open(server.url)).error.message, /zip/);
    const { error } = await one.open('/nothing/here/');
    assert.deepEqual([error.code, /404/.test(error.message)], ['file', true]);
    const models = (await one.call('cache', { method: 'list', args: [] })).value;
    assert.ok(models.length <= 1, 'a model that is not there is listed');
    assert.ok(models.every(({ bytes, complete }) => bytes < 1000 && !complete), JSON.stringify(models));
  },
  async 'lists, deletes and clears'({ kind, agent, start, isGood }) {
    const [server, other] = [await start(), await start(makeModel({ bytes: 1000 }))];
    const [one, two] = [await agent(), await agent()];
    isGood(await one.open(server.url, { key: 'a' }), server.files);
    isGood(await one.open('hf:owner/repo', { key: 'b', hub: other.url }), other.files);
    const list = async () => (await one.call('cache', { method: 'list', args: [] })).value;
    const sum = Object.values(server.files).reduce((total, { length }) => total + length, 0);
    const [first, second] = await list();
    assert.deepEqual([first.model, first.files, first.complete], ['hf:owner/repo', 3, true]);
    assert.deepEqual([second.model, second.bytes, second.complete], [server.url, sum, true]);
    assert.ok(Math.abs(Date.now() - new Date(first.used)) < 60_000);
    const { usage, quota } = (await one.call('cache', { method: 'estimate', args: [] })).value;
    assert.ok(usage >= sum && quota > usage);
    if (kind === 'worker') {
      const { error } = await two.call('cache', { method: 'delete', args: [server.url] });
      assert.deepEqual([error?.code, /is open/.test(error?.message)], ['file', true], 'deleted while open');
      await one.call('close', { key: 'a' });
    }
    assert.equal((await two.call('cache', { method: 'delete', args: [`${server.url}config.json`] })).value, true);
    assert.equal((await two.call('cache', { method: 'delete', args: [server.url] })).value, false);
    assert.deepEqual((await list()).map(({ model }) => model), ['hf:owner/repo']);
    const before = server.log.length;
    isGood(await one.open(server.url, { key: 'a' }), server.files, { fromCache: false });
    assert.ok(server.log.length > before);
    for (const key of ['a', 'b']) await one.call('close', { key });
    await one.call('cache', { method: 'clear', args: [] });
    assert.deepEqual(await list(), []);
  },
  async 'a model that is being loaded is not deleted'({ agent, start, isGood }) {
    const server = await start();
    server.plan(WEIGHTS, like(SLOW));
    const [one, two] = [await agent(), await agent()];
    const loading = one.open(server.url);
    while (server.requests(WEIGHTS).length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    const deleted = await two.call('cache', { method: 'delete', args: [server.url] });
    isGood(await loading, server.files);
    assert.deepEqual([deleted.error?.code, /being loaded/.test(deleted.error?.message)], ['file', true]);
  },
  async 'files that were damaged in OPFS are fetched again'({ agent, start, isGood }) {
    const server = await start();
    const one = await agent();
    isGood(await one.open(server.url), server.files);
    await one.call('close', { key: 'model' });
    await one.page.evaluate(async () => {
      const root = await (await navigator.storage.getDirectory()).getDirectoryHandle('refrain-models');
      for await (const folder of root.values()) {
        const stream = await (await folder.getFileHandle('model.safetensors')).createWritable({ keepExistingData: true });
        await stream.truncate(5000);
        await stream.close();
      }
    });
    isGood(await one.open(server.url), server.files, { fromCache: false });
  },
  async 'archives and picked files'({ kind, agent, isGood }) {
    const model = makeModel({ bytes: 500_000 });
    const one = await agent();
    const bytes = tar(model).toString('base64');
    isGood({ ...(await one.call('local', { key: 'a', as: 'blob', bytes })), last: {} }, model, { storage: kind === 'worker' ? 'disk' : 'memory' });
    isGood({ ...(await one.call('local', { key: 'b', as: 'stream', bytes })), last: {} }, model, { storage: 'memory' });
    assert.equal((await one.call('local', { key: 'c', as: 'files', bytes, name: 'config.json' })).error.code, 'file');
  },
};

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { chromium } = await import('playwright-core');
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  const browser = await chromium.launch({ executablePath, args: ['--headless=new', '--no-sandbox', '--disable-background-networking'] });
  try {
    await run(browser, console.log);
  } finally {
    await browser.close();
  }
}
