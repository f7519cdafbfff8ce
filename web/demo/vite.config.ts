import { defineConfig, type Plugin } from 'vite';

/** The names of all files of the page, for the worker that keeps them for times without a network. */
const files: Plugin = {
  name: 'files',
  enforce: 'post',
  generateBundle(_, bundle) {
    const names = Object.keys(bundle).map((name) => (name === 'index.html' ? './' : name));
    this.emitFile({ type: 'asset', fileName: 'files.json', source: JSON.stringify(names) });
  },
};

export default defineConfig({
  // Relative addresses: the folder works below any path of any static host.
  base: './',
  // The package finds its Worker and its WebAssembly beside its own script; copied into a bundle of dependencies it would not.
  optimizeDeps: { exclude: ['refrain'] },
  server: { fs: { allow: ['..'] } },
  worker: { format: 'es' },
  plugins: [files],
  build: { target: 'es2022', modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
});
