// Keeps the page itself (not the models: the package keeps those) for times without a network. The network comes first, so that nobody
// sees an old page while there is a new one.

const NAME = 'refrain-demo';

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

async function answer(request) {
  const kept = await caches.open(NAME);
  try {
    const response = await fetch(request);
    if (response.ok && response.status === 200) {
      if (request.mode === 'navigate') await forgetOld(kept, request, response.clone());
      await kept.put(request, response.clone());
    }
    return response;
  } catch (error) {
    const found = await kept.match(request, { ignoreSearch: request.mode === 'navigate' });
    if (found) return found;
    throw error;
  }
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
  if (request.method !== 'GET' || url.origin !== self.location.origin || url.pathname.includes('/models/')) return;
  event.respondWith(answer(request));
});
