import { defineConfig } from 'vite';

export default defineConfig({
  // Relative addresses: the folder works below any path of any static host.
  base: './',
  // The package finds its Worker and its WebAssembly beside its own script; copied into a bundle of dependencies it would not.
  optimizeDeps: { exclude: ['refrain'] },
  server: { fs: { allow: ['..'] } },
  worker: { format: 'es' },
  build: { target: 'es2022', modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
});
