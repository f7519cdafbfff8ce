// Pictures of the page for docs/demo: what it looks like, wide and narrow, light and dark, in every state that matters.
// With names of scenes as arguments only those; OUT names another folder.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { climb, done, launch, open, preset, root, run, serve, until } from './page.mjs';

const out = process.env.OUT ?? join(root, 'docs', 'demo');
mkdirSync(out, { recursive: true });

const ONLY_CPU = () => Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined });

async function top(page, id) {
  await page.evaluate((id) => window.scrollTo(0, id ? document.getElementById(id).getBoundingClientRect().top + scrollY - 12 : 0), id);
}

/** Each leaves the page as the picture shall show it. The simulated GPU is slow enough to be caught at work. */
const SCENES = {
  idle: { full: true, act: async () => {} },
  generating: {
    act: async (page) => {
      await page.click('.details summary');
      await page.selectOption('.details select', 'webgpu');
      await page.click('.details summary');
      await page.click('.sampling summary');
      await page.fill('.fields label:nth-child(3) input', '60');
      await page.click('.sampling summary');
      await page.click('button.go');
      await page.waitForFunction(() => document.querySelectorAll('.token').length >= 24, undefined, { timeout: 60_000 });
      await top(page, page.viewportSize().width < 960 ? 'tokens' : undefined);
    },
  },
  pinned: {
    full: true,
    act: async (page) => {
      await preset(page, 2);
      await run(page);
      await page.click('.token >> nth=-1');
      await page.waitForTimeout(200);
    },
  },
  ladder: {
    act: async (page) => {
      await preset(page, 2);
      await climb(page);
      await top(page, 'ladder');
    },
  },
  compare: {
    act: async (page) => {
      await page.click('text=cups >> nth=0');
      await preset(page, 1);
      await page.click('#compare button');
      await until(page, () => /part|same/.test(document.querySelector('#compare [role=status]').textContent));
      await top(page, 'compare');
    },
  },
  cut: {
    act: async (page) => {
      await page.click('text=add >> nth=0');
      await preset(page, 4);
      await run(page);
      await top(page, page.viewportSize().width < 960 ? 'tokens' : undefined);
    },
  },
  'no-webgpu': { before: ONLY_CPU, act: async () => {} },
  error: {
    act: async (page) => {
      await page.click('text=yours');
      await page.setInputFiles('input[multiple]', {
        name: 'config.json',
        mimeType: 'application/json',
        buffer: Buffer.from('{"model_type": "llama"}'),
      });
      await page.waitForSelector('.failure');
    },
  },
  tour: {
    act: async (page) => {
      await page.click('text=Two-minute tour');
      for (let i = 0; i < 3; i += 1) {
        await done(page);
        await page.click('.tour .next');
      }
      await page.waitForFunction(() => /real run/.test(document.querySelector('.tour').textContent));
      await page.waitForTimeout(900);
    },
  },
};

const SIZES = {
  desktop: { viewport: { width: 1440, height: 900 } },
  phone: { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true },
};

const wanted = process.argv.slice(2);
const server = await serve();
const browser = await launch();
for (const [name, { act, before, full = false }] of Object.entries(SCENES)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  for (const [size, options] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      const page = await open(browser, server.address, { ...options, colorScheme, reducedMotion: 'reduce', before });
      await act(page);
      await page.waitForTimeout(200);
      const fullPage = full && !(await page.$('dialog[open]'));
      await page.screenshot({ path: join(out, `${name}-${size}-${colorScheme}.png`), fullPage });
      if (page.problems.length > 0) console.log(name, size, colorScheme, page.problems);
      await page.context().close();
    }
  }
}
await browser.close();
await server.close();
