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

test('a double click runs once, a later click cancels', () =>
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
