// What the page promises to everybody: nothing jumps, nothing stutters, it can be read and used by all, and it is small.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { climb, done, open, run, site, until } from './page.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const here = site();

test('the first load with a model is below 6 MB', async () => {
  here.server.bytes.clear();
  const page = await open(here.browser, here.server.address);
  await page.click('#model button');
  await page.waitForSelector('.ready');
  await page.waitForTimeout(500);
  const sum = [...here.server.bytes.values()].reduce((sum, bytes) => sum + bytes, 0);
  console.log(`first load: ${(sum / 1e6).toFixed(2)} MB, nothing packed:`, Object.fromEntries(here.server.bytes));
  assert.ok(sum < 6e6, `${sum} bytes`);
  await page.context().close();
});

test('while it generates no task is longer than 50 ms, and nothing moves', async () => {
  const page = await open(here.browser, here.server.address);
  await page.click('.sampling summary');
  await page.fill('.fields label:nth-child(3) input', '100');
  await page.click('#model button');
  await page.waitForSelector('.ready');
  await page.waitForTimeout(500);
  await page.evaluate(() => {
    window.seen = { long: [], shifts: [] };
    new PerformanceObserver((list) => window.seen.long.push(...list.getEntries().map((each) => each.duration))).observe({ type: 'longtask' });
    new PerformanceObserver((list) =>
      window.seen.shifts.push(
        ...list
          .getEntries()
          .filter((each) => !each.hadRecentInput)
          .map(
            (each) => `${each.value.toFixed(6)} ${each.sources.map(({ node }) => (node?.outerHTML ?? node?.textContent)?.slice(0, 80)).join(' | ')}`,
          ),
      ),
    ).observe({ type: 'layout-shift' });
  });
  // A task is timed by the clock, and other work on the machine stretches it. One that is too long by itself is so every time.
  const runs = [];
  do {
    await page.evaluate(() => {
      window.seen.long = [];
      // Not a real click: what moves after one would not count.
      document.querySelector('button.go').click();
    });
    await done(page);
    await page.waitForTimeout(500);
    const { long, shifts } = await page.evaluate(() => window.seen);
    assert.deepEqual(shifts, []);
    runs.push(long);
  } while (runs.at(-1).length > 0 && runs.length < 5);
  console.log('long tasks of each run:', JSON.stringify(runs));
  assert.deepEqual(runs.at(-1), []);
  await page.context().close();
});

const STATES = {
  idle: async () => {},
  run: async (page) => {
    await page.click('#prompt >> text=Cap');
    await page.check('#prompt input[aria-label^="4 loops"]', { force: true });
    await page.click('.sampling summary');
    await page.click('.details summary');
    await run(page);
    await climb(page);
    await page.click('#compare button');
    await until(page, () => /part|same/.test(document.querySelector('#compare [role=status]').textContent));
  },
  tables: async (page) => {
    await run(page);
    await page.click('.token >> nth=-1');
    await page.click('#inspector >> text=Table');
  },
  own: async (page) => {
    await page.click('.models >> text=yours');
    await page.setInputFiles('input[multiple]', { name: 'a.txt', mimeType: 'text/plain', buffer: Buffer.from('a') });
    await page.waitForSelector('.failure');
  },
  tour: async (page) => {
    await page.click('text=Two-minute tour');
    await page.waitForFunction(() => /real run/.test(document.querySelector('.tour').textContent));
  },
};

for (const [name, act] of Object.entries(STATES)) {
  for (const [size, options] of Object.entries({ desktop: {}, phone: { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true } })) {
    for (const colorScheme of ['light', 'dark']) {
      test(`axe has nothing serious to say: ${name}, ${size}, ${colorScheme}`, async () => {
        const page = await open(here.browser, here.server.address, { ...options, colorScheme, reducedMotion: 'reduce' });
        await act(page);
        await page.waitForTimeout(100);
        await page.evaluate(axe);
        const found = await page.evaluate(async () =>
          (await window.axe.run()).violations.map(({ id, impact, nodes }) => ({
            id,
            impact,
            nodes: nodes.map((each) => `${each.html.slice(0, 120)} ${each.any[0]?.message ?? ''}`),
          })),
        );
        const minor = found.filter(({ impact }) => !['serious', 'critical'].includes(impact));
        if (minor.length > 0) console.log(name, size, colorScheme, 'minor:', JSON.stringify(minor));
        assert.deepEqual(
          found.filter((each) => !minor.includes(each)),
          [],
        );
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, `the page is ${wide} px wider than the window`);
        await page.context().close();
      });
    }
  }
}
