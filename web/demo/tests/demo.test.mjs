// The built page in a browser: what it shows is what the engine did, and it keeps its promises.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { climb, done, native, preset, run, said, site, tokens, until } from './page.mjs';

const here = site();
const { withPage } = here;

for (const [model, index, answer] of [
  ['follow', 2, 'm z'],
  ['cups', 1, 'cup 2'],
  ['add', 1, '1000'],
]) {
  test(`${model}: a preset is solved, with the loops of the native engine`, () =>
    withPage({}, async (page) => {
      await page.click(`.models >> text=${model}`);
      await preset(page, index);
      await run(page);
      assert.match(await said(page), new RegExp(`^${answer} ✓ right`));
      const shown = await tokens(page);
      const { steps } = native(['-m', model, '-p', await page.inputValue('textarea')]);
      assert.deepEqual(
        shown.map((each) => each.loops),
        steps.map((step) => step.loops),
      );
      assert.deepEqual(
        shown.map((each) => each.says),
        steps.map((step) => step.next.text.trim()),
      );
      assert.match(shown.at(-1).name, /^'.+', \d+ loops?, halted, predicts ✓.+, right$/);
    }));
}

test('the ladder fails at few loops and succeeds at more, and hides neither', () =>
  withPage({}, async (page) => {
    await preset(page, 2);
    await climb(page);
    const right = await page.$$eval('[data-depth]', (rows) => rows.map((row) => `${row.dataset.depth} ${row.dataset.right}`));
    assert.deepEqual(right, ['1 false', '2 false', '4 false', '8 false', '12 true', '16 true', '24 true', '32 true']);
  }));

test('what the model gets wrong is said to be wrong', () =>
  withPage({}, async (page) => {
    await preset(page, 4);
    await run(page);
    assert.match(await said(page), /✗ wrong/);
    assert.equal(await page.textContent('.expected'), 'The right answer: u u u');
  }));

test('compare marks the first token at which two depths part', () =>
  withPage({}, async (page) => {
    await page.click('.models >> text=cups');
    await preset(page, 1);
    await page.click('#compare button');
    await until(page, () => /part at token 4/.test(document.querySelector('#compare [role=status]').textContent));
    assert.equal(await page.$$eval('.mini .differs', (all) => all.length), 2);
  }));

test('keyboard alone: run, walk the tokens, pin one, walk its loops', () =>
  withPage({}, async (page) => {
    await page.focus('textarea');
    await page.keyboard.press('Control+Enter');
    await done(page);
    await page.focus('.token[tabindex="0"]');
    await page.keyboard.press('Home');
    assert.equal(await page.evaluate(() => document.activeElement.dataset.index), '0');
    await page.keyboard.press('End');
    await page.keyboard.press('ArrowLeft');
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('Enter');
    assert.equal(await page.textContent('#inspector h2'), 'Inside “?a”: 5 loops');
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('ArrowUp');
    await until(page, () => /d 1\.00/.test(document.querySelector('#inspector .chart:nth-child(2) .number').textContent));
    assert.equal(await page.$$eval('.token[tabindex="0"]', (all) => all.length), 1);
    await page.click('#inspector >> text=Table');
    const rows = await page.$$eval('#inspector tbody tr', (all) => all.map((row) => row.textContent));
    assert.equal(rows.length, 5);
  }));

test('a click on the map pins the token and the loop', () =>
  withPage({}, async (page) => {
    await run(page);
    await page.click('.map canvas', { position: { x: 34 + 44 * 10.5, y: 4 + 36 * 1.5 } });
    await until(page, () => /^Token 11 “\?a”, loop 2/.test(document.querySelector('.readout').textContent));
    assert.match(await page.textContent('.stairs'), /caught up, 40 rows of work beside the 15 loops/);
  }));

test('a link restores the state, and fetches no weights by itself', () =>
  withPage({}, async (page) => {
    await page.click('.models >> text=cups');
    await preset(page, 0);
    await page.click('#prompt >> text=Cap');
    await page.check('#prompt input[aria-label^="2 loops"]', { force: true });
    await page.click('.sampling summary');
    await page.fill('.fields label:nth-child(2) input', '7');
    await run(page);
    await page.click('.token >> nth=1');
    await until(page, () => location.hash.includes('at=1.'));
    const link = page.url();
    assert.match(link, /#m=refrain%3Acups&p=%401\+12\+23\+34&d=cap2&s=7&t=0&at=1\.2&v=1$/);
    const before = (await tokens(page)).map((each) => each.name);
    here.server.bytes.clear();
    await withPage({ address: link }, async (other) => {
      await other.waitForTimeout(500);
      assert.deepEqual(
        [...here.server.bytes.keys()].filter((path) => /models|wasm/.test(path)),
        [],
      );
      assert.equal(await other.inputValue('textarea'), '@1 12 23 34');
      await run(other);
      assert.deepEqual(
        (await tokens(other)).map((each) => each.name),
        before,
      );
      await until(other, () => document.querySelector('.token[aria-pressed=true]')?.dataset.index === '1');
    });
  }));

test('a link with parts that make no sense says so', () =>
  withPage({ hash: '#m=cups&p=hello&d=fixed5000&s=-1&t=0&v=1' }, async (page) => {
    const notice = await page.textContent('#prompt [role=status]');
    for (const part of ['m=cups', 'd=fixed5000', 's=-1']) assert.ok(notice.includes(part), notice);
    assert.equal(await page.inputValue('textarea'), 'hello');
  }));

test('a download can be cancelled, and asked for again', () =>
  withPage({}, async (page) => {
    here.server.state.slow = /safetensors/;
    await page.click('#model >> text=Load follow');
    await page.click('.loading button');
    await page.waitForSelector('#model >> text=Load follow');
    here.server.state.slow = undefined;
    await run(page);
    assert.match(await said(page), /right/);
  }));

test('a generation can be cancelled, and what there is stays', () =>
  withPage({}, async (page) => {
    await page.click('.sampling summary');
    await page.fill('.fields label:nth-child(3) input', '110');
    await page.click('#model >> text=Load follow');
    await page.waitForSelector('.ready');
    await page.evaluate(() => {
      const watch = new MutationObserver(() => {
        if (document.querySelectorAll('.token').length < 12) return;
        watch.disconnect();
        document.querySelector('button.go').click();
      });
      watch.observe(document.querySelector('.strip'), { childList: true });
      document.querySelector('button.go').click();
    });
    await done(page);
    assert.match(await said(page), /^Cancelled/);
    const kept = (await tokens(page)).length;
    assert.ok(kept >= 12 && kept < 121, `${kept} tokens`);
    await run(page);
    assert.equal((await tokens(page)).length, 121);
  }));

test('another model may be chosen while one is at work', () =>
  withPage({}, async (page) => {
    await page.click('.sampling summary');
    await page.fill('.fields label:nth-child(3) input', '110');
    await page.click('#model >> text=Load follow');
    await page.waitForSelector('.ready');
    await page.evaluate(() => {
      document.querySelector('button.go').click();
      setTimeout(() => document.querySelectorAll('.models input')[1].click(), 30);
    });
    await page.waitForSelector('#model >> text=Load cups');
    await page.waitForFunction(() => !/Cancel/.test(document.querySelector('button.go').textContent));
    assert.deepEqual(await tokens(page), []);
    await run(page);
    assert.match(await said(page), /^cup 4 ✓ right/);
  }));

test('once it was here, it works without a network', () =>
  withPage({}, async (page) => {
    await run(page);
    await page.evaluate(() => navigator.serviceWorker.ready);
    await page.reload();
    await page.waitForSelector('#model >> text=Open follow');
    await run(page);
    await page.context().setOffline(true);
    await page.reload();
    await page.waitForSelector('#model >> text=Open follow');
    await run(page);
    assert.match(await said(page), /right/);
    assert.match(await page.textContent('.ready'), /Nothing was fetched/);
  }));

test('files of one’s own: bad ones are named, good ones run', () =>
  withPage({}, async (page) => {
    await page.click('.models >> text=yours');
    await page.setInputFiles('input[multiple]', { name: 'model.gguf', mimeType: 'application/octet-stream', buffer: Buffer.from('GGUF') });
    assert.match(await page.textContent('.failure'), /config\.json/);
    const page404 = { name: 'model.safetensors', mimeType: 'application/octet-stream', buffer: Buffer.from('<!DOCTYPE html><title>404</title>') };
    const folder = new URL('../dist/models/follow/', import.meta.url).pathname;
    const { readFileSync } = await import('node:fs');
    const file = (name) => ({ name, mimeType: 'application/octet-stream', buffer: readFileSync(folder + name) });
    const others = ['config.json', 'generation_config.json', 'tokenizer.json'].map(file);
    await page.setInputFiles('input[multiple]', [...others, page404]);
    await until(page, () => /safetensors/.test(document.querySelector('.failure')?.textContent ?? ''));
    await page.setInputFiles('input[multiple]', [...others, file('model.safetensors')]);
    await page.waitForSelector('.ready');
    await page.fill('textarea', 'c >c a >b b >c e >e ?a');
    await run(page);
    assert.match(await said(page), /^c/);
  }));

test('a model of a Hub: its address is asked for, then it runs', () =>
  withPage({}, async (page) => {
    await page.click('.models >> text=yours');
    await page.fill('.own input[type=text]', 'hf:some/model');
    await page.click('text=Fetch it');
    assert.equal(await page.evaluate(() => document.activeElement.matches('input[type=url]:invalid')), true);
    await page.fill('.own input[type=url]', new URL('/hub/', here.server.address).href);
    await page.click('text=Fetch it');
    await page.waitForSelector('.ready');
    await run(page);
    assert.match(await said(page), /^e/);
  }));

test('a mistake in the prompt is said where the answer would be', () =>
  withPage({}, async (page) => {
    await page.fill('textarea', 'hello world');
    await run(page);
    assert.match(await page.textContent('#tokens .failure'), /hello/);
  }));

test('without WebGPU the CPU runs it, and the page says so', () =>
  withPage({ before: () => Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined }) }, async (page) => {
    await until(page, () => /No GPU: this browser has no WebGPU/.test(document.querySelector('.gpu').textContent));
    await run(page);
    assert.equal(await page.getAttribute('.runs', 'data-backend'), 'cpu');
    assert.match(await page.textContent('.runs'), /Runs on CPU/);
  }));

test('on WebGPU (a simulated GPU) the loops are the same', () =>
  withPage({}, async (page) => {
    await run(page);
    const onCpu = (await tokens(page)).map((each) => each.name);
    await page.click('.details summary');
    await page.selectOption('.details select', 'webgpu');
    await page.click('button.go');
    await page.waitForSelector('.runs[data-backend=webgpu]', { timeout: 60_000 });
    await done(page);
    assert.deepEqual(
      (await tokens(page)).map((each) => each.name),
      onCpu,
    );
  }));

test('the tour goes through, each step a run', () =>
  withPage({ reducedMotion: 'reduce' }, async (page) => {
    await page.click('text=Two-minute tour');
    for (let step = 1; step <= 8; step += 1) {
      await until(
        page,
        (step) =>
          new RegExp(`Step ${step} of 8`).test(document.querySelector('.tour').textContent) &&
          /real run/.test(document.querySelector('.tour').textContent),
        step,
      );
      const right = { 5: 'wrong', 8: 'wrong' }[step] ?? 'right';
      assert.match(await said(page), new RegExp(right), `step ${step}`);
      await page.click('.tour .next');
    }
    assert.equal(await page.$('.tour'), null);
  }));
