// Builds the package into dist/ and models/: `npm run build`. Needs Rust; `tests/wasm` in the project's root finds or installs what compiles
// for WebAssembly, and a wasm-bindgen of the crate's own version is compiled if none is at hand.
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const web = dirname(fileURLToPath(import.meta.url));
const root = dirname(web);
const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target');
const dist = join(web, 'dist');
const run = (command, args, options = {}) => execFileSync(command, args, { cwd: root, stdio: 'inherit', ...options });
const bin = (name) => join(web, 'node_modules', '.bin', name);

/** wasm-bindgen, of the version that the crate was compiled with: no other understands it. */
function wasmBindgen() {
  const lock = readFileSync(join(root, 'Cargo.lock'), 'utf8');
  const version = lock.match(/name = "wasm-bindgen"\nversion = "([^"]+)"/)[1];
  const own = join(target, 'tools', 'bin', 'wasm-bindgen');
  for (const candidate of ['wasm-bindgen', own]) {
    try {
      if (execFileSync(candidate, ['--version'], { stdio: ['ignore', 'pipe', 'ignore'] }).toString().trim() === `wasm-bindgen ${version}`) return candidate;
    } catch {
      // Not there: the next one, or a new one.
    }
  }
  console.log(`compiling wasm-bindgen ${version}, once`);
  run('cargo', ['install', 'wasm-bindgen-cli', '--version', version, '--root', join(target, 'tools'), '--quiet', '--force']);
  return own;
}

function wasm() {
  run('bash', ['tests/wasm', 'build', '--profile', 'web']);
  const made = join(target, 'wasm32-unknown-unknown', 'web', 'refrain.wasm');
  run(wasmBindgen(), ['--target', 'web', '--out-name', 'refrain', '--out-dir', join(web, 'src'), made]);
  const features = ['simd', 'bulk-memory', 'nontrapping-float-to-int', 'sign-ext', 'mutable-globals', 'reference-types', 'multivalue'];
  const file = join(web, 'src', 'refrain_bg.wasm');
  run(bin('wasm-opt'), ['-Oz', ...features.map((name) => `--enable-${name}`), '--strip-debug', '--strip-producers', file, '-o', file]);
}

async function scripts() {
  rmSync(dist, { recursive: true, force: true });
  run(bin('tsc'), ['-p', web], { cwd: web });
  for (const name of ['refrain.js', 'refrain.d.ts', 'refrain_bg.wasm']) cpSync(join(web, 'src', name), join(dist, name));
  // One file each: a worker's script is fetched by its address, and the inline entry is there for those who know of no addresses.
  const options = { bundle: true, format: 'esm', target: 'es2022', minify: true, legalComments: 'none', logLevel: 'warning', absWorkingDir: web };
  const worker = await build({ ...options, entryPoints: ['src/worker.ts'], write: false });
  const text = worker.outputFiles[0].text;
  writeFileSync(join(dist, 'worker.js'), text);
  const data = {
    name: 'embedded',
    setup(plugin) {
      plugin.onResolve({ filter: /^\.\/embedded\.js$/ }, () => ({ path: 'embedded', namespace: 'embedded' }));
      plugin.onLoad({ filter: /.*/, namespace: 'embedded' }, () => {
        const bytes = readFileSync(join(dist, 'refrain_bg.wasm')).toString('base64');
        return { contents: `export const wasm = ${JSON.stringify(bytes)}; export const worker = ${JSON.stringify(text)};` };
      });
    },
  };
  await build({ ...options, entryPoints: ['src/inline.ts'], outfile: join(dist, 'inline.js'), plugins: [data] });
  rmSync(join(dist, 'embedded.js'), { force: true });
}

function files() {
  for (const name of ['follow', 'cups', 'add']) {
    mkdirSync(join(web, 'models', name), { recursive: true });
    for (const file of ['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'problems.jsonl']) {
      cpSync(join(root, 'examples', 'models', name, file), join(web, 'models', name, file));
    }
  }
  for (const licence of ['LICENSE-MIT', 'LICENSE-APACHE']) cpSync(join(root, licence), join(web, licence));
}

// --no-wasm: what Rust made is there already.
if (!process.argv.includes('--no-wasm') || !existsSync(join(web, 'src', 'refrain_bg.wasm'))) wasm();
files();
await scripts();
