// What the tests and the screenshots share: a plain static server with the built page below a path, and a browser.

import assert from 'node:assert/strict';
import { createReadStream, existsSync, statSync } from 'node:fs';
import http from 'node:http';
import { dirname, extname, join, normalize } from 'node:path';
import { after, before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch } from '../../tests/project.mjs';

export { launch, native } from '../../tests/project.mjs';

export const demo = dirname(dirname(fileURLToPath(import.meta.url)));
export const root = dirname(dirname(demo));

const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
};

/**
 * Serves the built page below /some/where/, and a model as a Hub would. `bytes` counts what was sent, by path. `state.slow` delays the paths
 * that it matches.
 */
export async function serve() {
  const page = join(demo, 'dist');
  if (!existsSync(join(page, 'index.html'))) throw new Error(`expected the built page in ${page}: run "npm run build" first`);
  const bytes = new Map();
  const state = { slow: undefined };
  const server = http.createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    const below = path.startsWith('/some/where/') ? normalize('/' + path.slice('/some/where/'.length)) : undefined;
    const hub = /^\/hub\/some\/model\/resolve\/main\/([\w.]+)$/.exec(path);
    const file = hub ? join(page, 'models/follow', hub[1]) : below && join(page, below === '/' ? 'index.html' : below);
    if (state.slow?.test(path)) await new Promise((resolve) => setTimeout(resolve, 3000));
    if (!file || !existsSync(file) || !statSync(file).isFile()) return response.writeHead(404, { 'Content-Type': 'text/plain' }).end('nothing here');
    const { size } = statSync(file);
    bytes.set(path, (bytes.get(path) ?? 0) + size);
    response.writeHead(200, { 'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream', 'Content-Length': size, ETag: `"${size}"` });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, 'localhost', resolve));
  const close = () =>
    new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  return { address: `http://localhost:${server.address().port}/some/where/`, bytes, state, close };
}

/** For the tests of a file: the server, the browser, and pages in it. */
export function site() {
  const here = {};
  before(async () => {
    here.server = await serve();
    here.browser = await launch();
  });
  after(async () => {
    await here.browser?.close();
    await here.server?.close();
  });
  /** A page of its own for a test, closed after it; it must not have thrown. */
  here.withPage = async ({ hash = '', address = here.server.address + hash, problems = [], ...options }, use) => {
    const page = await open(here.browser, address, options);
    try {
      await use(page);
      assert.deepEqual(page.problems, problems);
    } finally {
      await page.context().close();
    }
  };
  return here;
}

/** A page that tells of every error of its own. `before` runs in it before anything else does. */
export async function open(browser, address, { before, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  if (before) await context.addInitScript(before);
  const page = await context.newPage();
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && page.problems.push(message.text()));
  await page.goto(address);
  await page.waitForSelector('#model');
  return page;
}

/** Presses Run, and waits for the end of it. */
export async function run(page) {
  await page.click('button.go');
  await done(page);
}

export async function done(page) {
  await page.waitForFunction(
    () => {
      const go = document.querySelector('button.go');
      return go && !/Cancel/.test(go.textContent) && document.querySelector('.said b, .failure');
    },
    undefined,
    { timeout: 60_000 },
  );
}

/** Takes one of the presets of the chosen model. */
export function preset(page, index) {
  return page.selectOption('.presets select', String(index));
}

/** The answer of the last run, and what is said of it. */
export function said(page) {
  return page.textContent('.said');
}

export function until(page, check, arg) {
  return page.waitForFunction(check, arg, { timeout: 60_000 });
}

/** Asks at every depth, and waits for the last one. */
export async function climb(page) {
  await page.click('#ladder button');
  await until(
    page,
    () => !/Cancel/.test(document.querySelector('#ladder button').textContent) && document.querySelector('[data-depth="32"] td:last-child').textContent !== '–',
  );
}

/** The tokens as they are shown: text, loops, prediction. */
export function tokens(page) {
  return page.$$eval('.token', (all) =>
    all.map((each) => ({
      text: each.querySelector('.text').textContent,
      loops: Number(each.querySelector('.loops').textContent),
      says: each.querySelector('.says')?.textContent.replace(/^[✓✗]/, '') ?? '',
      name: each.textContent,
    })),
  );
}
