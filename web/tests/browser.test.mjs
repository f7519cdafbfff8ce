// The packed package in headless Chromium, as a page without any bundler gets it: models, steps, aborts, lost devices, caches, errors.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { distance, golden, goldenCase, launch, makeProject, native, serve, shard } from './project.mjs';

const PROMPT = 'c >c a >b b >c e >e ?a';
/** A chain that takes more loops than one. */
const LONG = 'a >b b >c c >d d >e e >e ?a';

let server, browser, page, project;

before(async () => {
  ({ project } = makeProject());
  server = await serve({ app: project, golden });
  browser = await launch();
  page = await browser.newPage();
  page.on('console', (message) => message.type() === 'error' && console.log(`page: ${message.text()}`));
  await page.goto(`${server.address}/`);
  // What the tests run in the page finds the package, and how buffers on the GPU are counted, here.
  await page.addScriptTag({
    type: 'module',
    content: `
      globalThis.refrain = await import('/app/node_modules/refrain/dist/index.js');
      globalThis.live = new Set();
      const { createBuffer } = GPUDevice.prototype;
      GPUDevice.prototype.createBuffer = function (descriptor) {
        const buffer = createBuffer.call(this, descriptor);
        live.add(buffer);
        (this.buffers ??= []).push(buffer);
        this.lost.then(() => this.buffers.forEach((one) => live.delete(one)));
        return buffer;
      };
      const { destroy } = GPUBuffer.prototype;
      GPUBuffer.prototype.destroy = function () { live.delete(this); return destroy.call(this); };
      const { requestDevice } = GPUAdapter.prototype;
      GPUAdapter.prototype.requestDevice = async function (descriptor) { return (globalThis.device = await requestDevice.call(this, descriptor)); };
      globalThis.plain = (error) => ({ name: error?.name, code: error?.code, message: error?.message, hint: error?.hint });
      globalThis.caught = async (promise) => { try { await promise; return null; } catch (error) { return plain(error); } };
      globalThis.ready = true;`,
  });
  await page.waitForFunction('globalThis.ready');
});

after(async () => {
  await browser?.close();
  await server?.close();
});

/** The four ways to run: where, and on what. */
const WAYS = ['webgpu', 'cpu'].flatMap((backend) => [true, false].map((worker) => ({ backend, worker })));
const named = ({ backend, worker }) => `${backend}, ${worker ? 'in a Worker' : 'inline'}`;

describe('numbers', () => {
  for (const way of WAYS) {
    test(`logits are those of the PyTorch package: ${named(way)}`, async () => {
      for (const name of ['gqa_tiny', 'mla_tiny']) {
        const { tokens, logits, loops, loopsUsed } = goldenCase(name);
        const found = await page.evaluate(async ([name, tokens, loops, way]) => {
          const model = await refrain.load(`/golden/${name}/`, { ...way, cache: 'none' });
          const { logits, loops: used } = await model.forward(tokens, { loops });
          const { backend } = model.info;
          await model.dispose();
          return { logits: [...logits], used: [...used], backend };
        }, [name, tokens, loops, way]);
        assert.equal(found.backend, way.backend);
        const apart = distance(logits, found.logits);
        assert.ok(apart < 5e-4, `${name}: ${apart}`);
        assert.deepEqual(found.used, loopsUsed);
      }
    });

    test(`answers are those of the program: ${named(way)}`, async () => {
      const expected = native(['-m', 'follow', '-p', PROMPT]);
      const free = native(['-m', 'follow', '-p', PROMPT, '--no-in-place', '-n', '12']);
      const found = await page.evaluate(async ([prompt, way]) => {
        const model = await refrain.load('refrain:follow', way);
        const steps = [];
        for await (const step of model.generate(prompt)) steps.push(step);
        const output = await model.generate(prompt, { maxTokens: 12 }).result;
        let text = '';
        for await (const piece of model.generate(prompt, { maxTokens: 12 }).text) text += piece;
        const sampled = [];
        for (let i = 0; i < 2; i += 1) sampled.push((await model.generate(prompt, { maxTokens: 12, temperature: 1, seed: 7 }).result).text);
        await model.dispose();
        return { steps, output, text, sampled };
      }, [PROMPT, way]);
      assert.deepEqual(found.steps.map(({ next }) => next.text), expected.predictions);
      assert.deepEqual(found.steps.map(({ loops }) => loops), expected.steps.map(({ loops }) => loops));
      assert.equal(found.output.text, free.text);
      assert.equal(found.text, free.text);
      assert.equal(found.output.reason, 'length');
      assert.equal(found.sampled[0], found.sampled[1]);
    });
  }

  test('a trace tells of every loop, a sweep of every depth, a score of every token', async () => {
    const { step, sweep, score } = await page.evaluate(async (prompt) => {
      const model = await refrain.load('refrain:follow', { backend: 'cpu' });
      const { steps } = await model.generate(prompt, { trace: { experts: true, lens: 3 } }).result;
      const sweep = [];
      for await (const { depth, correct, result } of model.sweep(prompt, { depths: [1, 8], expect: 'e' })) sweep.push({ depth, correct, loops: result.steps.at(-1).loops });
      const score = await model.score(prompt);
      await model.dispose();
      return { step: steps.at(-1), sweep, score };
    }, LONG);
    assert.ok(step.loops > 2);
    for (const list of [step.trace.haltProbabilities, step.trace.weights, step.trace.deltaNorm, step.trace.experts, step.trace.lens]) {
      assert.equal(list.length, step.loops);
    }
    assert.equal(step.trace.lens[0].ids.length, 3);
    // The last token is the deepest, and took everybody along.
    assert.deepEqual(step.reached, Array(step.loops).fill(step.index + 1));
    assert.ok(Math.abs(step.trace.weights.reduce((sum, x) => sum + x) - 1) < 1e-3);
    assert.deepEqual(sweep, [{ depth: 1, correct: false, loops: 1 }, { depth: 8, correct: true, loops: step.loops }]);
    assert.equal(score[0].logprob, null);
    assert.ok(score.slice(1).every(({ logprob }) => logprob <= 0));
  });
});

describe('a generation ends when it should', () => {
  for (const way of WAYS) {
    test(`break, stop and abort, and then another: ${named(way)}`, async () => {
      const found = await page.evaluate(async ([prompt, way]) => {
        const model = await refrain.load('refrain:follow', way);
        const options = { maxTokens: 100, loops: 32, exit: 'fixed' };
        const seen = [];
        for await (const { index } of model.generate(prompt, options)) {
          seen.push(index);
          if (seen.length === 2) break;
        }
        const stopped = model.generate(prompt, options);
        await stopped[Symbol.asyncIterator]().next();
        const { reason, tokens } = await stopped.stop();
        // In the middle of decoding.
        const controller = new AbortController();
        const aborted = model.generate(prompt, { ...options, signal: controller.signal });
        let decoded = 0;
        const decode = await caught((async () => {
          for await (const _ of aborted) if ((decoded += 1) === 3) controller.abort(new TypeError('enough'));
        })());
        // While the prompt runs: 100 tokens, 32 loops each.
        const early = new AbortController();
        const prefill = caught(model.generate(Array(100).fill(0), { exit: 'fixed', inPlace: true, signal: early.signal }).result);
        setTimeout(() => early.abort(), 20);
        const begun = performance.now();
        const prefilled = await prefill;
        const before = await caught(model.generate(prompt, { signal: AbortSignal.abort() }).result);
        const last = await model.generate(prompt).result;
        const waited = performance.now() - begun;
        await model.dispose();
        return { seen, reason, tokens: tokens.length, decode, decoded, prefilled, before, last: last.text, waited };
      }, [PROMPT, way]);
      assert.equal(found.seen.length, 2);
      assert.equal(found.reason, 'stopped');
      assert.ok(found.tokens >= 1 && found.tokens < 100);
      assert.deepEqual([found.decode.name, found.decode.message, found.decoded], ['TypeError', 'enough', 3]);
      assert.equal(found.prefilled.name, 'AbortError');
      assert.equal(found.before.name, 'AbortError');
      assert.equal(found.last, 'c');
    });
  }

  test('inline on the CPU the page keeps its turn: a timeout is heard', async () => {
    const { error, ticks } = await page.evaluate(async (prompt) => {
      const model = await refrain.load('refrain:follow', { backend: 'cpu', worker: false });
      let ticks = 0;
      const timer = setInterval(() => (ticks += 1), 4);
      const error = await caught((async () => {
        const signal = AbortSignal.timeout(60);
        for (;;) await model.generate(prompt, { maxTokens: 60, loops: 32, exit: 'fixed', signal }).result;
      })());
      clearInterval(timer);
      await model.dispose();
      return { error, ticks };
    }, PROMPT);
    assert.equal(error.name, 'TimeoutError');
    assert.ok(ticks >= 3, `${ticks} ticks of a timer`);
  });

  test('what ended a generation is told', async () => {
    const found = await page.evaluate(async (prompt) => {
      const model = await refrain.load('refrain:follow', { backend: 'cpu' });
      const reasons = [];
      const { text } = await model.generate(prompt, { maxTokens: 1 }).result;
      for (const options of [{ maxTokens: 1 }, { maxTokens: 1, stop: text.trim() }, { maxTokens: 0 }, {}, { inPlace: false }]) {
        reasons.push((await model.generate(prompt, options).result).reason);
      }
      let streamed = '';
      for await (const piece of model.generate(prompt).text) streamed += piece;
      const generation = model.generate(prompt);
      await model.dispose();
      return { reasons, streamed, after: (await caught(generation.result))?.code ?? null };
    }, PROMPT);
    assert.deepEqual(found, { reasons: ['length', 'stop', 'length', 'in-place', 'length'], streamed: 'c', after: found.after });
    assert.ok([null, 'usage'].includes(found.after));
  });

  test('two at once wait for each other, and one that nobody reads keeps nobody', async () => {
    const found = await page.evaluate(async (prompt) => {
      const model = await refrain.load('refrain:follow', { backend: 'cpu' });
      const both = await Promise.all([model.generate(prompt).result, model.generate(prompt).result]);
      const left = model.generate(prompt, { maxTokens: 5 })[Symbol.asyncIterator]();
      await left.next();
      const after = await model.generate(prompt).result;
      await model.dispose();
      return [...both, after].map(({ text }) => text);
    }, PROMPT);
    assert.deepEqual(found, ['c', 'c', 'c']);
  });
});

describe('the device', () => {
  test('dispose frees all of its memory', async () => {
    const found = await page.evaluate(async (prompt) => {
      const before = live.size;
      const model = await refrain.load('refrain:follow', { backend: 'webgpu', worker: false });
      await model.generate(prompt).result;
      const during = live.size;
      await model.dispose();
      const own = await (await navigator.gpu.requestAdapter()).requestDevice();
      const guest = await refrain.load('refrain:follow', { device: own, worker: false });
      const { text } = await guest.generate(prompt).result;
      const busy = live.size;
      await guest.dispose();
      const alive = await Promise.race([own.lost.then(() => false), new Promise((resolve) => setTimeout(resolve, 100, true))]);
      return { before, during, busy, after: live.size, text, alive };
    }, PROMPT);
    assert.ok(found.during > 20 && found.busy > 20, `${found.during} and ${found.busy} buffers`);
    assert.equal(found.after, found.before);
    assert.equal(found.text, 'c');
    assert.ok(found.alive, "the caller's own device was destroyed");
  });

  test('a lost device is replaced: in the middle of a generation, and between two', async () => {
    server.log.length = 0;
    const found = await page.evaluate(async (prompt) => {
      const model = await refrain.load('refrain:follow', { backend: 'webgpu', worker: false });
      const options = { maxTokens: 16, temperature: 1, seed: 3 };
      const { text } = await model.generate(prompt, options).result;
      const fetched = performance.getEntriesByType('resource').length;
      const lost = model.lost;
      const steps = [];
      for await (const step of model.generate(prompt, options)) {
        steps.push(step);
        if (steps.length === 4) device.destroy();
      }
      const { reason } = await lost;
      const again = model.lost;
      device.destroy();
      await again;
      const after = await model.generate(prompt, options).result;
      const refetched = performance.getEntriesByType('resource').length - fetched;
      await model.dispose();
      return { text, through: steps.map((step) => step.text).join(''), indices: steps.map(({ index }) => index), after: after.text, reason, refetched };
    }, PROMPT);
    assert.equal(found.through, found.text);
    assert.equal(found.after, found.text);
    assert.equal(found.reason, 'destroyed');
    assert.equal(found.refetched, 0);
    assert.deepEqual(found.indices, found.indices.map((_, i) => found.indices[0] + i));
  });

  // Every pass is handed to the device by a submit of its own. What is lost is computed again on the next device, with the same seed.
  for (const [name, prompt] of [['follow', 'a >b b >c ?a'], ['cups', '@1 12 23']]) {
    test(`a device that is lost at any pass of a generation is replaced: ${name}`, async (context) => {
      const found = await page.evaluate(async ([name, prompt]) => {
        const model = await refrain.load(`refrain:${name}`, { backend: 'webgpu', worker: false });
        const options = { maxTokens: 2, loops: 2, temperature: 1.5, seed: 3, echo: true };
        const { submit } = GPUQueue.prototype;
        let submits = 0, at = Infinity, reason;
        GPUQueue.prototype.submit = function (commands) {
          submit.call(this, commands);
          if (submits++ !== at) return;
          at = Infinity;
          model.lost.then((lost) => (reason = lost.reason));
          device.destroy();
        };
        const run = async () => {
          [submits, reason] = [0, 'never lost'];
          const steps = [];
          for await (const { index, token, text, loops } of model.generate(prompt, options)) steps.push([index, token, text, loops].join(' '));
          return steps;
        };
        try {
          const undisturbed = await run();
          const count = submits;
          const others = [];
          for (let k = 0; k < count; k += 1) {
            at = k;
            const steps = await run();
            if (reason !== 'destroyed' || steps.join() !== undisturbed.join()) others.push([k, reason, steps]);
          }
          return { undisturbed, count, others };
        } finally {
          GPUQueue.prototype.submit = submit;
          await model.dispose();
        }
      }, [name, prompt]);
      assert.deepEqual(found.others, []);
      assert.ok(found.undisturbed.length > 4 && found.count >= 6, `${found.count} submits: the prompt and two tokens have two passes each`);
      context.diagnostic(`lost at each of ${found.count} submits of ${found.undisturbed.length} steps`);
    });
  }

  test('what the page does with WebGPU while a model is loaded is no affair of the model', async () => {
    const found = await page.evaluate(async () => {
      const before = navigator.gpu;
      const loading = refrain.load('refrain:follow', { backend: 'webgpu', worker: false });
      // Whenever the page looks, it finds its own.
      let strange = 0;
      const timer = setInterval(() => (strange += navigator.gpu !== before), 1);
      const own = await (await navigator.gpu.requestAdapter()).requestDevice();
      const model = await loading;
      clearInterval(timer);
      await model.dispose();
      const alive = await Promise.race([own.lost.then(() => false), new Promise((resolve) => setTimeout(resolve, 100, true))]);
      own.destroy();
      const codes = [];
      for (const options of [{ device: {} }, { gpu: {} }]) codes.push((await caught(refrain.load('refrain:follow', { worker: false, ...options }))).code);
      const after = await refrain.load('refrain:follow', { backend: 'cpu', worker: false });
      await after.dispose();
      return { strange, alive, codes };
    });
    assert.deepEqual(found, { strange: 0, alive: true, codes: ['argument', 'argument'] });
  });

  test('a device that is lost whenever it is there ends in an error', async () => {
    const error = await page.evaluate(async (prompt) => {
      const model = await refrain.load('refrain:follow', { backend: 'webgpu', worker: false });
      const { requestDevice } = GPUAdapter.prototype;
      GPUAdapter.prototype.requestDevice = async function (descriptor) {
        const made = await requestDevice.call(this, descriptor);
        setTimeout(() => made.destroy(), 300);
        return made;
      };
      device.destroy();
      const error = await caught(model.generate(prompt, { loops: 32, exit: 'fixed', maxTokens: 60 }).result);
      GPUAdapter.prototype.requestDevice = requestDevice;
      await model.dispose();
      return error;
    }, PROMPT);
    assert.equal(error.code, 'device_lost', error.message);
  });

  test('a device of the caller’s own that is lost is an error', async () => {
    const error = await page.evaluate(async (prompt) => {
      const own = await (await navigator.gpu.requestAdapter()).requestDevice();
      const model = await refrain.load('refrain:follow', { device: own, worker: false });
      own.destroy();
      await own.lost;
      const error = await caught(model.generate(prompt).result);
      await model.dispose();
      return error;
    }, PROMPT);
    assert.equal(error.code, 'device_lost');
  });

  test('probe tells what there is', async () => {
    const found = await page.evaluate(() => refrain.probe());
    assert.equal(found.ok, true);
    assert.equal(found.simulated, true);
    assert.ok(found.maxBindingBytes >= 128 << 20);
    assert.ok(found.storage.quota > 0);
    const refused = await page.evaluate(() => refrain.probe({ requestAdapter: () => Promise.reject(new Error('not today')) }));
    assert.deepEqual([refused.ok, refused.reason], [false, 'the browser refused one: not today']);
    const silent = await page.evaluate(() => refrain.probe({ requestAdapter: () => new Promise(() => {}) }));
    assert.match(silent.reason, /did not answer/);
  });
});

describe('loading', () => {
  test('progress never falls and ends at 1; the page never waits for more than 50 ms', async () => {
    const found = await page.evaluate(async (prompt) => {
      await refrain.cache.clear();
      const fractions = [], phases = new Set();
      let longest = 0, last = performance.now();
      const timer = setInterval(() => {
        const now = performance.now();
        longest = Math.max(longest, now - last);
        last = now;
      }, 4);
      const onProgress = ({ fraction, phase }) => {
        fractions.push(fraction);
        phases.add(phase);
      };
      const model = await refrain.load('refrain:follow', { backend: 'cpu', onProgress });
      await model.generate(prompt, { maxTokens: 20 }).result;
      clearInterval(timer);
      await model.dispose();
      return { fractions, phases: [...phases], longest };
    }, PROMPT);
    assert.ok(found.fractions.every((fraction, i) => i === 0 || fraction >= found.fractions[i - 1]));
    assert.equal(found.fractions.at(-1), 1);
    for (const phase of ['download', 'upload', 'ready']) assert.ok(found.phases.includes(phase), phase);
    // A busy machine holds up any page now and then: the bound is the promise's, with room for that.
    assert.ok(found.longest < 250, `${found.longest} ms`);
  });

  test('a model in OPFS needs no network', async () => {
    const found = await page.evaluate(async (prompt) => {
      await refrain.cache.clear();
      const first = await refrain.load('refrain:follow', { backend: 'cpu' });
      const { storage } = first.info;
      await first.dispose();
      return { storage };
    }, PROMPT);
    assert.equal(found.storage, 'opfs');
    for (const file of ['config.json', 'generation_config.json', 'tokenizer.json', 'model.safetensors', 'model.safetensors.index.json']) {
      server.replies.set(`/app/node_modules/refrain/models/follow/${file}`, (_, response) => response.destroy());
    }
    try {
      const again = await page.evaluate(async (prompt) => {
        const model = await refrain.load('refrain:follow', { backend: 'cpu' });
        const { text } = await model.generate(prompt).result;
        const { fromCache, storage } = model.info;
        await model.dispose();
        const list = await refrain.cache.list();
        return { text, fromCache, storage, list: list.map(({ complete }) => complete) };
      }, PROMPT);
      assert.deepEqual(again, { text: 'c', fromCache: true, storage: 'opfs', list: [true] });
    } finally {
      server.replies.clear();
    }
  });

  test('shards, picked files and an archive give the same numbers as the folder', async () => {
    const { tokens, logits, loops } = goldenCase('mla_tiny');
    shard(join(golden, 'mla_tiny'), join(project, 'shards'));
    const found = await page.evaluate(async ([tokens, loops]) => {
      const files = await Promise.all(['config.json', 'model.safetensors'].map(async (name) => {
        const response = await fetch(`/golden/mla_tiny/${name}`);
        return new File([await response.arrayBuffer()], name);
      }));
      // A tar: a header of 512 bytes with name, size and checksum, the file, zeros up to the next multiple of 512.
      const blocks = [];
      for (const file of files) {
        const header = new Uint8Array(512);
        const write = (text, at) => header.set(new TextEncoder().encode(text), at);
        write(`model/${file.name}`, 0);
        write(file.size.toString(8).padStart(11, '0'), 124);
        write('0', 156);
        write('ustar\u000000', 257);
        write(' '.repeat(8), 148);
        write(header.reduce((sum, byte) => sum + byte).toString(8).padStart(6, '0') + '\u0000 ', 148);
        blocks.push(header, file, new Uint8Array(-file.size & 511));
      }
      const archive = new Blob([...blocks, new Uint8Array(1024)]);
      const packed = archive.stream().pipeThrough(new CompressionStream('gzip'));
      const results = [];
      for (const source of ['/app/shards/', files, archive, packed]) {
        const model = await refrain.load(source, { backend: 'cpu', cache: 'none' });
        results.push([...(await model.forward(tokens, { loops })).logits]);
        await model.dispose();
      }
      return results;
    }, [tokens, loops]);
    for (const result of found) assert.ok(distance(logits, result) < 5e-4);
  });

  for (const worker of [true, false]) {
    test(`an abort ends a download: ${worker ? 'in a Worker' : 'inline'}`, async () => {
      const path = '/golden/gqa_tiny/model.safetensors';
      server.replies.set(path, (_, response) => {
        response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': 1e6 });
        response.write(Buffer.alloc(1000));
      });
      try {
        const error = await page.evaluate(async (worker) => {
          const controller = new AbortController();
          setTimeout(() => controller.abort(), 400);
          return caught(refrain.load('/golden/gqa_tiny/', { worker, cache: 'none', signal: controller.signal }));
        }, worker);
        assert.equal(error?.name, 'AbortError');
      } finally {
        server.replies.clear();
      }
    });

    test(`every mistake has its code: ${worker ? 'in a Worker' : 'inline'}`, async () => {
      const weights = '/golden/gqa_tiny/model.safetensors';
      const send = (type, body) => (_, response) => response.writeHead(200, { 'Content-Type': type }).end(body);
      const hash = createHash('sha256').update(readFileSync(join(golden, 'gqa_tiny', 'model.safetensors'))).digest('hex');
      const attempt = (model, options = {}) =>
        page.evaluate(([model, options]) => caught(refrain.load(model, { backend: 'cpu', cache: 'none', ...options }).then((model) => model.dispose())), [
          model,
          { worker, ...options },
        ]);
      assert.equal((await attempt('/golden/nothing/')).code, 'file');
      assert.match((await attempt('/golden/nothing/')).message, /404/);
      server.replies.set(weights, send('text/html', '<!DOCTYPE html><title>sign in</title>'));
      const html = await attempt('/golden/gqa_tiny/');
      assert.equal(html.code, 'format');
      assert.match(html.message, /HTML/);
      server.replies.set(weights, send('application/octet-stream', Buffer.alloc(5000, 7)));
      assert.equal((await attempt('/golden/gqa_tiny/')).code, 'format');
      server.replies.clear();
      const mismatch = await attempt('/golden/gqa_tiny/', { integrity: { 'model.safetensors': '0'.repeat(64) } });
      assert.equal(mismatch.code, 'format');
      assert.match(mismatch.message, new RegExp(hash));
      assert.equal(await attempt('/golden/gqa_tiny/', { integrity: { 'model.safetensors': hash } }), null);
      assert.equal((await attempt('/golden/gqa_tiny/', { dtype: 'q7' })).code, 'argument');
      assert.equal((await attempt('/golden/gqa_tiny/', { contextLength: 1e6 })).code, 'context');
    });
  }

  test('mistakes in a prompt have the codes of the crate', async () => {
    const found = await page.evaluate(async (prompt) => {
      const model = await refrain.load('refrain:follow', { backend: 'cpu' });
      const codes = [];
      for (const run of [
        () => model.generate('hello').result,
        () => model.generate('').result,
        () => model.generate([999]).result,
        () => model.generate(prompt, { loops: 99 }).result,
        () => model.generate(prompt, { maxTokens: 1e6 }).result,
        async () => model.generate(prompt, { temperature: -1 }).result,
        async () => model.generate(prompt, { loops: NaN }).result,
        async () => model.generate(prompt, { maxTokens: 1.5 }).result,
        async () => model.generate([-1]).result,
        async () => model.generate(null).result,
        async () => model.generate(prompt, { stop: 5 }).result,
      ]) codes.push((await caught(run())).code);
      await model.dispose();
      codes.push((await caught(model.generate(prompt).result)).code);
      const inline = await caught(refrain.load('refrain:follow', { fetch: () => {} }));
      return [...codes, inline.code];
    }, PROMPT);
    assert.deepEqual(found, ['unknown_word', 'empty_prompt', 'token', 'loops', 'context', 'argument', 'argument', 'argument', 'argument', 'argument', 'argument', 'usage', 'argument']);
  });

  test('the WebAssembly that is not there is told of', async () => {
    const error = await page.evaluate(async () => {
      await refrain.init({ wasm: '/nothing.wasm' });
      const error = await caught(refrain.load('refrain:follow'));
      await refrain.init();
      return error;
    });
    assert.equal(error.code, 'file');
    assert.match(error.message, /nothing\.wasm.*404/);
  });
});
