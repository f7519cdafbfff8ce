// Keeps the page itself and the problems beside the models (not their weights: the package keeps those) for times without a network. The
// network comes first, so that nobody sees an old page while there is a new one.

const NAME = 'refrain-demo';

self.addEventListener('install', (event) => {
  self.skipWaiting();
  event.waitUntil(keep((file) => !file.endsWith('.wasm')));
});
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
// Said by a page in which a model runs: the engine came before this worker was there to see it.
self.addEventListener('message', (event) => event.waitUntil(keep(() => true)));

/** Takes files of the page that are not kept yet, out of the browser's own cache where it has them. Without room nothing is kept. */
async function keep(wanted) {
  try {
    const kept = await caches.open(NAME);
    const files = await (await fetch('./files.json')).json();
    const missing = [];
    for (const file of files.filter(wanted)) if (!(await kept.match(file))) missing.push(file);
    await kept.addAll(missing);
  } catch (error) {
    console.info(`not kept for times without a network: ${error}`);
  }
}

async function answer(request) {
  let response;
  try {
    response = await fetch(request);
  } catch (error) {
    const kept = await caches.open(NAME).catch(() => undefined);
    const found = await kept?.match(request, { ignoreSearch: request.mode === 'navigate' });
    if (found) return found;
    throw error;
  }
  if (response.status === 200) {
    const copy = response.clone();
    // A full disk must not stand between a page and its answer.
    await put(request, copy).catch(() => {});
  }
  return response;
}

async function put(request, response) {
  const kept = await caches.open(NAME);
  if (request.mode === 'navigate') await forgetOld(kept, request, response.clone());
  await kept.put(request, response);
}

/** The names of scripts change with their contents: with a new page the old ones are no use. */
async function forgetOld(kept, request, page) {
  const before = await kept.match(request);
  if (!before || (await before.text()) === (await page.text())) return;
  for (const key of await kept.keys()) await kept.delete(key);
}

self.addEventListener('fetch', (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== 'GET' || url.origin !== self.location.origin) return;
  if (url.pathname.includes('/models/') && !url.pathname.endsWith('/problems.jsonl')) return;
  event.respondWith(answer(request));
});
