// The packed package in Node, without WebGPU and with the package `webgpu` on SwiftShader.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { distance, golden, goldenCase, makeProject, native, web, writeApp } from './project.mjs';

const PROMPT = 'c >c a >b b >c e >e ?a';
const ICD = process.env.REFRAIN_SWIFTSHADER_ICD ?? '/usr/lib/chromium/vk_swiftshader_icd.json';

/** Loads a golden case and a shipped model; prints what came of it, and must end by itself. */
const APP = `
import { load, RefrainError } from 'refrain/node';
const [backend, golden, cases, prompt] = process.argv.slice(2);
const found = { logits: {}, codes: [] };
for (const { name, tokens, loops } of JSON.parse(cases)) {
  const model = await load(golden + '/' + name, { backend });
  const { logits } = await model.forward(tokens, { loops });
  found.logits[name] = [...logits];
  found.backend = model.info.backend;
  await model.dispose();
}
const model = await load('refrain:follow', { backend });
found.note = model.info.backendNote;
found.text = (await model.generate(prompt, { maxTokens: 12 }).result).text;
const controller = new AbortController();
setTimeout(() => controller.abort(), 10);
try { await model.generate(Array(100).fill(0), { exit: 'fixed', inPlace: true, signal: controller.signal }).result; } catch (error) { found.codes.push(error.name); }
try { await load('/nowhere'); } catch (error) { found.codes.push(RefrainError.is(error) && error.code); }
await model.dispose();
console.log(JSON.stringify(found));
`;

let project;
before(() => {
  ({ project } = makeProject());
  writeApp(project, 'app.mjs', APP);
});

function run(backend, environment = {}) {
  const cases = JSON.stringify(['gqa_tiny', 'mla_tiny'].map(goldenCase).map(({ name, tokens, loops }) => ({ name, tokens, loops })));
  const env = { ...process.env, ...environment };
  // It must end by itself: whatever keeps the process alive is a leak.
  return JSON.parse(execFileSync(process.execPath, ['app.mjs', backend, golden, cases, PROMPT], { cwd: project, env, timeout: 120_000 }).toString());
}

function check(found, backend) {
  assert.equal(found.backend, backend);
  for (const name of ['gqa_tiny', 'mla_tiny']) assert.ok(distance(goldenCase(name).logits, found.logits[name]) < 5e-4, name);
  assert.equal(found.text, native(['-m', 'follow', '-p', PROMPT, '--no-in-place', '-n', '12']).text);
  assert.deepEqual(found.codes, ['AbortError', 'file']);
}

test('on the CPU, without the package webgpu', () => {
  const found = run('auto');
  check(found, 'cpu');
  assert.match(found.note, /webgpu is not installed/);
});

test('on WebGPU, with the package webgpu', () => {
  assert.ok(existsSync(ICD), `${ICD}: SwiftShader's driver file (REFRAIN_SWIFTSHADER_ICD names another)`);
  cpSync(join(web, 'node_modules', 'webgpu'), join(project, 'node_modules', 'webgpu'), { recursive: true });
  check(run('webgpu', { VK_DRIVER_FILES: ICD, VK_ICD_FILENAMES: ICD }), 'webgpu');
});
