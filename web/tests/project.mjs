// What the tests share: an empty project with the packed package in it, a server, a browser, golden cases.

import { execFileSync } from 'node:child_process';
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const web = dirname(dirname(fileURLToPath(import.meta.url)));
export const root = dirname(web);
export const golden = join(root, 'tests', 'golden');

/** An empty project with the package installed from its tarball, as users get it. */
export function makeProject() {
  const project = mkdtempSync(join(tmpdir(), 'refrain-'));
  const npm = (args, cwd) => execFileSync('npm', [...args, '--silent', '--no-audit', '--no-fund'], { cwd, stdio: ['ignore', 'pipe', 'inherit'] }).toString();
  const [{ filename }] = JSON.parse(npm(['pack', '--json', '--pack-destination', project], web));
  writeFileSync(join(project, 'package.json'), '{"name": "app", "private": true, "type": "module"}');
  npm(['install', '--offline', '--omit=peer', join(project, filename)], project);
  return { project, tarball: join(project, filename) };
}

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm', '.json': 'application/json' };

/**
 * A static server: `folders` maps the first part of a path to a folder. `replies` maps a path to a function of (request, response), which may
 * answer in its own way; `log` has the path of every request.
 */
export async function serve(folders) {
  const replies = new Map();
  const log = [];
  const server = http.createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    log.push(path);
    if (replies.has(path)) return replies.get(path)(request, response);
    const [, first, ...rest] = path.split('/');
    const file = folders[first] && join(folders[first], normalize('/' + rest.join('/')));
    if (path === '/' || path === '/favicon.ico') return response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>refrain</title>');
    if (!file || !existsSync(file) || !statSync(file).isFile()) return response.writeHead(404, { 'Content-Type': 'text/plain' }).end('nothing here');
    response.writeHead(200, { 'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream', 'Content-Length': statSync(file).size, ETag: '"1"' });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, 'localhost', resolve));
  const close = () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });
  return { address: `http://localhost:${server.address().port}`, replies, log, close };
}

/** Chromium with WebGPU on SwiftShader. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--headless=new', '--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan',
      '--use-vulkan=swiftshader', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
    // Where the tests of the crate choose drivers for themselves, the browser must not follow.
    env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^VK_/.test(name))),
  });
}

/** A golden case: tokens, loops and the logits that the PyTorch package computed, and what to be near of. */
export function goldenCase(name) {
  const file = readFileSync(join(golden, name, 'golden.safetensors'));
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + length).toString());
  const bytes = (tensor) => file.subarray(8 + length + header[tensor].data_offsets[0], 8 + length + header[tensor].data_offsets[1]);
  const numbers = (tensor, size, read) => Array.from({ length: bytes(tensor).length / size }, (_, i) => bytes(tensor)[read](i * size));
  const { n_loops } = JSON.parse(readFileSync(join(golden, name, 'run.json'), 'utf8'));
  return {
    name,
    tokens: numbers('input_ids', 4, 'readInt32LE'),
    logits: numbers('logits', 4, 'readFloatLE'),
    loopsUsed: numbers('loops_used_full', 4, 'readInt32LE'),
    loops: n_loops,
  };
}

/** The weights of a folder in two shards with their index, beside its config: a folder of its own. */
export function shard(folder, out) {
  const file = readFileSync(join(folder, 'model.safetensors'));
  const length = Number(file.readBigUInt64LE(0));
  const tensors = Object.entries(JSON.parse(file.subarray(8, 8 + length).toString())).filter(([name]) => name !== '__metadata__');
  const weight_map = {};
  mkdirSync(out, { recursive: true });
  for (const part of [0, 1]) {
    const name = `model-0000${part + 1}-of-00002.safetensors`;
    const header = {}, bytes = [];
    let at = 0;
    for (const [tensor, { dtype, shape, data_offsets: [first, end] }] of tensors.filter((_, i) => i % 2 === part)) {
      header[tensor] = { dtype, shape, data_offsets: [at, (at += end - first)] };
      bytes.push(file.subarray(8 + length + first, 8 + length + end));
      weight_map[tensor] = name;
    }
    const json = Buffer.from(JSON.stringify(header));
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(json.length));
    writeFileSync(join(out, name), Buffer.concat([size, json, ...bytes]));
  }
  writeFileSync(join(out, 'model.safetensors.index.json'), JSON.stringify({ weight_map }));
  writeFileSync(join(out, 'config.json'), readFileSync(join(folder, 'config.json')));
}

/** The largest difference of logits, as a share of the largest of them. */
export function distance(expected, found) {
  if (expected.length !== found.length) throw new Error(`${found.length} logits, expected ${expected.length}`);
  const largest = expected.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
  return expected.reduce((max, x, i) => Math.max(max, Number.isFinite(found[i]) ? Math.abs(x - found[i]) : Infinity), 0) / largest;
}

/** What the program of the crate says to a prompt: the reference of all text. */
export function native(args) {
  const name = join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'debug', 'refrain');
  if (!existsSync(name)) execFileSync('cargo', ['build'], { cwd: root, stdio: 'inherit' });
  return JSON.parse(execFileSync(name, ['run', '--device', 'cpu', '--format', 'json', ...args], { stdio: ['ignore', 'pipe', 'inherit'] }).toString());
}

export function writeApp(project, file, text) {
  mkdirSync(dirname(join(project, file)), { recursive: true });
  writeFileSync(join(project, file), text);
}
