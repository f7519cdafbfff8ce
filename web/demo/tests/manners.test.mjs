// What a person would be annoyed by: lost focus, a second click that undoes the first, old answers that pass for new ones, answers cut short.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { climb, done, preset, run, said, site, tokens, until } from './page.mjs';

const here = site();
const { withPage } = here;

const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
/** Right at any depth, for the model says 1 as long as it does not know. */
const LUCKY = '@3 13 35 25 14 23 45 12 34 15 24 13 25 35 14 12 45 23 34 15 13 24 35 12 25 14 34 45 23 15 13 24 12 35 14 25 23 45 13 34 15';

const choose = (page, model) => page.click(`.models >> text=${model}`);
const focused = (page, selector) => page.evaluate((selector) => document.activeElement.closest(selector) !== null, selector);

async function cap(page, loops) {
  await page.click('#prompt >> text=Cap');
  await page.check(`#prompt input[aria-label^="${loops} loop"]`, { force: true });
}

test('a double click runs once', () =>
  withPage({}, async (page) => {
    await page.click('.sampling summary');
    await page.fill('.fields label:nth-child(3) input', '100');
    await page.click('#model >> text=Load follow');
    await page.waitForSelector('.ready');
    await page.dblclick('button.go');
    await done(page);
    assert.equal((await tokens(page)).length, 111);
    assert.doesNotMatch(await said(page), /Cancelled/);
  }));

test('the focus stays where it was while a model loads and runs', () =>
  withPage({}, async (page) => {
    here.server.state.slow = /safetensors/;
    await page.focus('#model .load button');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.loading');
    assert.ok(await focused(page, '.load'));
    await page.waitForSelector('.ready');
    assert.ok(await focused(page, '.load'));
    here.server.state.slow = undefined;
    await choose(page, 'cups');
    await page.focus('button.go');
    await page.keyboard.press('Enter');
    await until(page, () => /Cancel/.test(document.querySelector('button.go').textContent));
    assert.ok(await focused(page, 'button.go'));
    await done(page);
    assert.ok(await focused(page, 'button.go'));
    assert.match(await said(page), /right/);
  }));

test('Run pressed while a model loads waits for it; pressed again it cancels both', () =>
  withPage({}, async (page) => {
    here.server.state.slow = /safetensors/;
    await page.click('#model >> text=Load follow');
    await page.click('button.go');
    await page.click('button.go');
    await page.waitForSelector('#model >> text=Load follow');
    assert.equal((await tokens(page)).length, 0);
    await page.click('#model >> text=Load follow');
    await page.click('button.go');
    here.server.state.slow = undefined;
    await done(page);
    assert.match(await said(page), /right/);
  }));

test('the tour: arrow keys go through the loops, Escape ends it from anywhere and gives the focus back', () =>
  withPage({ reducedMotion: 'reduce' }, async (page) => {
    await page.click('text=Two-minute tour');
    for (let step = 1; step < 4; step += 1) {
      await until(page, (step) => new RegExp(`Step ${step} of.*real run`).test(document.querySelector('.tour').textContent), step);
      await page.click('.tour .next');
    }
    await until(page, () => /Step 4 of.*real run/.test(document.querySelector('.tour').textContent));
    await page.keyboard.press('ArrowUp');
    await until(page, () => /e 1\.00/.test(document.querySelector('#inspector .chart:nth-child(2) .number').textContent));
    await page.keyboard.press('ArrowUp');
    await until(page, () => /d 1\.00/.test(document.querySelector('#inspector .chart:nth-child(2) .number').textContent));
    await page.evaluate(() => document.activeElement.blur());
    await page.keyboard.press('Escape');
    await until(page, () => !document.querySelector('.tour'));
    assert.ok(await focused(page, '#start-tour'));
  }));

test('on a phone the card of the tour does not lie on what it speaks of', () =>
  withPage({ ...PHONE, reducedMotion: 'reduce' }, async (page) => {
    const spoken = { 1: '.strip', 4: '#inspector .chart:nth-child(2)', 5: '.strip', 7: '.rungs', 8: '.expected' };
    await page.click('text=Two-minute tour');
    for (let step = 1; step <= 8; step += 1) {
      await until(page, (step) => new RegExp(`Step ${step} of.*real run`).test(document.querySelector('.tour').textContent), step);
      await page.waitForTimeout(100);
      if (spoken[step]) {
        const [part, card] = await page.evaluate(
          (selectors) => selectors.map((each) => document.querySelector(each).getBoundingClientRect().toJSON()),
          [spoken[step], '.tour'],
        );
        assert.ok(part.top >= 0 && part.bottom <= card.top, `step ${step}: ${part.top} to ${part.bottom}, the card from ${card.top}`);
      }
      await page.click('.tour .next');
    }
  }));

test('what was asked before a change says so', () =>
  withPage({}, async (page) => {
    await preset(page, 0);
    await run(page);
    await climb(page);
    await page.click('#compare button');
    await until(page, () => /part|same/.test(document.querySelector('#compare [role=status]').textContent));
    const old = () =>
      page.evaluate(() => ['.cost', '#ladder .below', '#compare [role=status]'].map((each) => /before your changes/i.test(document.querySelector(each).textContent)));
    assert.deepEqual(await old(), [false, false, false]);
    await cap(page, 4);
    assert.deepEqual(await old(), [true, false, true]);
    await preset(page, 1);
    assert.deepEqual(await old(), [true, true, true]);
    assert.match(await page.textContent('#ladder .below'), /asked of: c >c a >b b >c e >e \?a\./);
    await page.click('#prompt >> text=Model decides');
    await preset(page, 0);
    assert.deepEqual(await old(), [false, false, false]);
  }));

test('a right answer that was cut off is not sold as more', () =>
  withPage({}, async (page) => {
    await choose(page, 'cups');
    await page.fill('textarea', LUCKY);
    await cap(page, 4);
    await run(page);
    assert.match(await said(page), /^cup 1 ✓ right, though cut off/);
    assert.match(await page.textContent('.inside > .note'), /made of what it had given out by then, Σ p/);
    await climb(page);
    assert.equal(await page.textContent('[data-depth="4"] .mark .dotted'), '✓');
    assert.match(await page.textContent('#ladder .below'), /luck/);
    // The preset ends where no luck helps.
    await preset(page, 3);
    await climb(page);
    assert.deepEqual(await page.$$eval('[data-depth]', (rows) => [...new Set(rows.map((row) => row.dataset.right))]), ['false']);
    assert.doesNotMatch(await page.textContent('#ladder .below'), /luck/);
  }));

test('a word that only the models know is explained where it shows', () =>
  withPage({}, async (page) => {
    await choose(page, 'cups');
    await preset(page, 1);
    await run(page);
    await until(page, () => /“~” is the model’s word for “not yet”/.test(document.querySelector('.inside > .note').textContent));
    await choose(page, 'follow');
    await run(page);
    assert.doesNotMatch(await page.textContent('.inside > .note'), /~/);
  }));

test('an answer to no known problem says that nobody knows', () =>
  withPage({}, async (page) => {
    await page.fill('textarea', 'a >b a >c ?a');
    await run(page);
    assert.match(await page.textContent('.expected'), /nobody here knows/);
    await preset(page, 1);
    await run(page);
    assert.equal(await page.textContent('.expected'), '');
  }));

test('on a phone nothing of a long answer is cut off in the ladder and the comparison', () =>
  withPage(PHONE, async (page) => {
    await choose(page, 'add');
    await preset(page, 3);
    await climb(page);
    await page.click('#compare button');
    await until(page, () => /part|same/.test(document.querySelector('#compare [role=status]').textContent));
    const cut = await page.evaluate(() =>
      [...document.querySelectorAll('.said-here, .said-here span, .side-answer, .side-answer *')]
        .filter((each) => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== 'inline')
        .map((each) => each.className),
    );
    assert.deepEqual(cut, []);
    assert.equal(await page.$$eval('.side-answer .verdict', (all) => all.length), 2);
    const wide = await page.$eval('#ladder .scroll', (each) => each.scrollWidth - each.clientWidth);
    assert.ok(wide <= 0, `the ladder is ${wide} px wider than the phone`);
  }));

test('a page that is loaded again is nobody’s link', () =>
  withPage({}, async (page) => {
    await page.fill('textarea', 'c >c ?c');
    await until(page, () => location.hash.includes('c+%3Ec'));
    await page.reload();
    await page.waitForSelector('#model');
    assert.equal(await page.inputValue('textarea'), 'c >c ?c');
    assert.doesNotMatch(await page.textContent('#prompt'), /shared link/);
    await withPage({ address: page.url() }, async (other) => assert.match(await other.textContent('#prompt'), /shared link/));
    // Files of one's own are in no link.
    await page.click('.models >> text=yours');
    await until(page, () => !location.hash.includes('m='));
  }));

test('what the browser has is said before and after in the same words', () =>
  withPage({}, async (page) => {
    await until(page, () => /WebGPU is simulated on the CPU/.test(document.querySelector('.gpu').textContent));
    await run(page);
    assert.match(await page.textContent('.runs'), /Runs on CPU/);
  }));

test('without a network the page asks whether there is one', () =>
  withPage({}, async (page) => {
    await page.click('#model >> text=Load follow');
    await page.waitForSelector('.ready');
    await page.context().setOffline(true);
    await choose(page, 'cups');
    await page.click('#model >> text=Load cups');
    await page.waitForSelector('#model .failure');
    assert.match(await page.textContent('#model .failure'), /online/);
  }));

test('numbers may be typed key by key', () =>
  withPage({}, async (page) => {
    await page.click('.sampling summary');
    for (const [label, typed, meant] of [
      ['Temperature', '0.75', '0.75'],
      ['Temperature', '-1', '0'],
      ['Temperature', '12', '2'],
      ['Seed', '123', '123'],
      ['New tokens', '15', '15'],
    ]) {
      const field = page.getByLabel(label, { exact: true });
      await field.press('Control+A');
      await field.pressSequentially(typed);
      assert.equal(await field.inputValue(), typed);
      await field.blur();
      assert.equal(await field.inputValue(), meant);
    }
    assert.match(await page.textContent('.sampling summary'), /temperature 2, seed 123, 15 new tokens/);
  }));

test('the kept copy of the model in use can be deleted', () =>
  withPage({}, async (page) => {
    await run(page);
    await page.click('.details summary');
    await page.click('text=Delete the copy');
    await page.waitForSelector('#model >> text=Load follow');
    await run(page);
    assert.match(await page.textContent('.ready'), /Fetched/);
    // In another tab it stays, and the page says why.
    const other = await page.context().newPage();
    await other.goto(here.server.address);
    await other.click('.details summary');
    await other.click('text=Delete the copy');
    await other.waitForSelector('#model .failure >> text=in use');
  }));

test('opened once, and never again with a network', () =>
  withPage({}, async (page) => {
    await run(page);
    await until(page, async () => (await (await caches.open('refrain-demo')).keys()).some(({ url }) => url.endsWith('.wasm')));
    await page.context().setOffline(true);
    await page.reload();
    await page.waitForSelector('#model >> text=Open follow');
    await run(page);
    assert.match(await said(page), /right/);
  }));

test('a full disk does not stand between the page and its answer', () =>
  withPage({}, async (page) => {
    await page.evaluate(() => navigator.serviceWorker.ready);
    await page.reload();
    const session = await page.context().newCDPSession(page);
    await session.send('Storage.overrideQuotaForOrigin', { origin: new URL(here.server.address).origin, quotaSize: 1 });
    await page.evaluate(() => caches.delete('refrain-demo'));
    await page.reload();
    await run(page);
    assert.match(await said(page), /right/);
  }));

test('the tour claims no run that there was not', () =>
  withPage({ reducedMotion: 'reduce' }, async (page) => {
    here.server.state.slow = /safetensors/;
    await page.click('text=Two-minute tour');
    await page.click('.loading button');
    await until(page, () => /has not run to its end/.test(document.querySelector('.tour').textContent));
    here.server.state.slow = undefined;
    await page.click('text=Run this step');
    await until(page, () => /real run/.test(document.querySelector('.tour').textContent));
    assert.match(await said(page), /^c ✓ right/);
    // Clicked through while the model comes: the step where it ends is the one that is run.
    await page.keyboard.press('Escape');
    await page.reload();
    here.server.state.slow = /refrain_bg/;
    await page.click('text=Two-minute tour');
    for (let i = 0; i < 6; i += 1) await page.click('.tour .next');
    here.server.state.slow = undefined;
    await until(page, () => /Step 7 of.*real run/.test(document.querySelector('.tour').textContent));
    assert.equal(await page.textContent('[data-depth="32"] .mark .right'), '✓');
  }));

test('what ends the tour runs nothing later', () =>
  withPage({}, async (page) => {
    here.server.state.slow = /safetensors/;
    await page.click('text=Two-minute tour');
    await page.waitForSelector('.loading');
    await page.keyboard.press('Escape');
    await page.fill('textarea', 'c >c ?c');
    await page.waitForSelector('.ready');
    here.server.state.slow = undefined;
    await page.waitForTimeout(300);
    assert.deepEqual(await tokens(page), []);
  }));

test('both sides of a comparison are asked the same, whatever is typed meanwhile', () =>
  withPage({}, async (page) => {
    await page.click('.sampling summary');
    await page.getByLabel('New tokens', { exact: true }).fill('60');
    await page.click('#model >> text=Load follow');
    await page.waitForSelector('.ready');
    await page.evaluate(() => {
      const [button, text] = ['#compare button', 'textarea'].map((each) => document.querySelector(each));
      const watch = new MutationObserver(() => {
        if (!document.querySelector('.mini li')) return;
        watch.disconnect();
        text.value = 'c >c ?c';
        text.dispatchEvent(new Event('input', { bubbles: true }));
      });
      watch.observe(document.querySelector('#compare'), { childList: true, subtree: true });
      button.click();
    });
    await until(page, () => /part|same/.test(document.querySelector('#compare [role=status]').textContent));
    const [a, b] = await page.$$eval('.mini', (sides) => sides.map((side) => [...side.querySelectorAll('li span')].slice(0, 11).map((each) => each.textContent)));
    assert.deepEqual(a, b);
    assert.equal(a[10], '?a');
  }));

for (const [name, requestAdapter] of [
  ['refuses', () => Promise.reject(new Error('not today'))],
  ['never answers', () => new Promise(() => {})],
]) {
  test(`a browser whose WebGPU ${name} runs models all the same`, () =>
    withPage({ before: `Object.defineProperty(Navigator.prototype, 'gpu', { get: () => ({ requestAdapter: ${requestAdapter} }) })` }, async (page) => {
      await until(page, () => /No GPU: the browser (refused|did not answer)/.test(document.querySelector('.gpu').textContent));
      await run(page);
      assert.match(await said(page), /right/);
    }));
}

test('names of files may be as long as they like; a failure goes with what failed', () =>
  withPage({}, async (page) => {
    await page.click('.models >> text=yours');
    await page.setInputFiles('input[multiple]', { name: `${'x'.repeat(240)}.json`, mimeType: 'application/json', buffer: Buffer.from('{}') });
    await page.waitForSelector('#model .failure');
    const wide = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok((await wide()) <= 0, `${await wide()} px too wide`);
    await page.evaluate(() => (location.hash = '#m=refrain:cups&p=@1+12&v=1'));
    await page.waitForSelector('#model >> text=Load cups');
    assert.equal(await page.$('.failure'), null);
  }));

test('on a phone the focus goes back to the token when the sheet is closed', () =>
  withPage(PHONE, async (page) => {
    await run(page);
    await page.click('.token >> nth=3');
    await page.click('.sheet >> text=Close');
    assert.ok(await focused(page, '.token[data-index="3"]'));
    await page.click('.map canvas', { position: { x: 60, y: 20 } });
    await page.waitForSelector('.sheet[open]');
    await page.keyboard.press('Escape');
    await until(page, () => document.activeElement.closest('.token[aria-pressed=true]'));
  }));

test('the link that is shown is the one of now', () =>
  withPage({ before: () => Object.defineProperty(navigator, 'clipboard', { get: () => ({ writeText: () => Promise.reject(new Error('no')) }) }) }, async (page) => {
    await page.click('text=Copy link');
    await page.waitForSelector('.link input');
    await page.fill('textarea', 'c >c ?c');
    assert.match(await page.inputValue('.link input'), /p=c\+%3Ec\+%3Fc/);
    await page.click('.link button');
    assert.equal(await page.$('.link'), null);
  }));

test('the first token has no surprise, and says so', () =>
  withPage({}, async (page) => {
    await run(page);
    await page.click('text=Surprise');
    const [first, second] = await page.$$eval('.token', (all) => all.map((each) => each.textContent));
    assert.match(first, /^'c', 1 loop, surprise unknown –/);
    assert.match(second, /surprise \d+\.\db/);
  }));

test('a link that names too much gets what there is', () =>
  withPage({ hash: '#m=refrain:nothing&p=c+>c+?c&at=x.y&v=1' }, async (page) => {
    const notice = await page.textContent('#prompt [role=status]');
    for (const part of ['m=refrain:nothing', 'at=x.y']) assert.ok(notice.includes(part), notice);
    await page.evaluate(() => (location.hash = '#m=refrain:follow&p=c+>c+?c&at=2.9999&v=1'));
    await run(page);
    assert.match(await page.textContent('.readout'), /^Token 3 “\?c”, loop 1: /);
    await page.evaluate(() => (location.hash = '#m=https://models.example/mine/&p=x&v=1'));
    await page.waitForSelector('#model >> text=Load https://models.example/mine/');
    assert.equal(await page.inputValue('.own input[type=text]'), 'https://models.example/mine/');
  }));
