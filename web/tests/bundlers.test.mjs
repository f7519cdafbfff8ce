// A ten-line app, built by Vite and by esbuild, and with a plain script; what the package looks like to tools; its size.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { launch, makeProject, serve, web, writeApp } from './project.mjs';

const APP = (entry) => `import { load } from '${entry}';

const model = await load('refrain:follow', { base: '/models/', backend: 'cpu' });
let line = '';
for await (const step of model.generate('c >c a >b b >c e >e ?a')) {
  line += \`\${step.text}·\${step.loops} \`;
}
await model.dispose();
document.body.textContent = line;
`;
const PAGE = (script) => `<!doctype html><meta charset="utf-8"><body><script type="module" src="${script}"></script></body>`;
const SHOWN = 'c·1  >c·1  a·1  >b·1  b·1  >c·1  e·1  >e·1  ?a·3';

let project, tarball, server, browser;
const tool = (name, args, cwd = project) => execFileSync(join(web, 'node_modules', '.bin', name), args, { cwd, stdio: 'inherit' });

before(async () => {
  ({ project, tarball } = makeProject());
  server = await serve({ app: project, vite: join(project, 'vite-out'), esbuild: join(project, 'esbuild-out'), models: join(web, 'models') });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await server?.close();
});

async function shows(path) {
  const page = await browser.newPage();
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.goto(server.address + path);
  await page.waitForFunction('document.body.textContent.includes("?a")', undefined, { timeout: 20_000 }).catch((error) => {
    throw new Error(`${error.message}\n${complaints.join('\n')}`);
  });
  assert.equal((await page.textContent('body')).trim(), SHOWN);
  await page.close();
}

test('Vite', async () => {
  writeApp(project, 'src/index.html', PAGE('./main.js'));
  writeApp(project, 'src/main.js', APP('refrain'));
  tool('vite', ['build', 'src', '--outDir', '../vite-out', '--base', '/vite/', '--emptyOutDir', '--target', 'es2022', '--logLevel', 'warn']);
  await shows('/vite/index.html');
});

test('esbuild, with the entry that carries everything', async () => {
  writeApp(project, 'src/inline.js', APP('refrain/inline'));
  tool('esbuild', ['src/inline.js', '--bundle', '--format=esm', '--target=es2022', '--outfile=esbuild-out/main.js', '--log-level=warning']);
  writeApp(project, 'esbuild-out/index.html', PAGE('main.js'));
  await shows('/esbuild/index.html');
});

test('a plain script', async () => {
  writeApp(project, 'plain.js', APP('./node_modules/refrain/dist/index.js'));
  writeApp(project, 'plain.html', PAGE('plain.js'));
  await shows('/app/plain.html');
});

test('tsc --strict on a file that uses the whole API', () => {
  writeApp(project, 'api.ts', readFileSync(join(web, 'tests', 'api.ts'), 'utf8'));
  // Declarations of nothing but the language and the page: not of WebGPU, not of Node.
  tool('tsc', ['--strict', '--noEmit', '--target', 'es2022', '--module', 'nodenext', '--lib', 'es2023,dom,dom.iterable,dom.asynciterable', 'api.ts']);
});

test('publint and attw find nothing', () => {
  tool('publint', ['run', tarball, '--strict']);
  tool('attw', [tarball, '--profile', 'esm-only', '--exclude-entrypoints', 'refrain_bg.wasm', './models/*']);
});

test('the README’s example runs as it stands there', async () => {
  const [, example] = readFileSync(join(web, 'README.md'), 'utf8').match(/```html\n([\s\S]*?)```/);
  writeApp(project, 'readme.html', example);
  const page = await browser.newPage();
  await page.goto(`${server.address}/app/readme.html`);
  await page.waitForFunction('document.body.textContent.includes("?a")', undefined, { timeout: 60_000 });
  await page.close();
});

/** Bytes that a page fetches before its model: script, Worker, WebAssembly. */
test('less than 1.15 MB, gzipped', () => {
  const dist = join(project, 'node_modules', 'refrain', 'dist');
  const sizes = Object.fromEntries(['index.js', 'load.js', 'model.js', 'remote.js', 'generation.js', 'gpu.js', 'errors.js', 'worker.js', 'refrain_bg.wasm'].map((file) => [file, gzipSync(readFileSync(join(dist, file)), { level: 9 }).length]));
  const total = Object.values(sizes).reduce((sum, size) => sum + size);
  console.log(`wasm ${sizes['refrain_bg.wasm']} bytes, with scripts ${total} bytes, gzipped`);
  assert.ok(total < 1_150_000, `${total} bytes: ${JSON.stringify(sizes)}`);
});

test('from load() to the first token', async () => {
  const page = await browser.newPage();
  await page.goto(server.address);
  for (const backend of ['cpu', 'webgpu']) {
    const ms = await page.evaluate(async (backend) => {
      const { load } = await import('/app/node_modules/refrain/dist/index.js');
      const begun = performance.now();
      const model = await load('refrain:follow', { backend, cache: 'none' });
      for await (const _ of model.generate('a >b ?a')) break;
      const ms = performance.now() - begun;
      await model.dispose();
      return ms;
    }, backend);
    console.log(`load() to the first token of the shipped model, ${backend}: ${ms.toFixed(0)} ms`);
    assert.ok(ms < (backend === 'cpu' ? 5_000 : 30_000), `${backend}: ${ms} ms`);
  }
  await page.close();
});
