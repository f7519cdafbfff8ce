import { render } from 'preact';
import { App } from './app';
import { cancelLoad, look, unload } from './engine';
import { fromHash, keepHash } from './share';
import { store } from './state';
import { followTheme } from './theme';
import { goTo } from './tour';
import './style/base.css';
import './style/layout.css';
import './style/panels.css';
import './style/results.css';

const shared = fromHash(location.hash);
if (shared) store.set(shared);
followTheme();
keepHash();
// A link pasted into the page that is open already.
window.addEventListener('hashchange', () => {
  const again = fromHash(location.hash);
  if (!again) return;
  if (store.get().tour !== undefined) void goTo(-1);
  cancelLoad();
  void unload();
  store.set({ loadProblem: undefined, ...again });
});
render(<App />, document.getElementById('app')!);
void look();
// Works without a network once it was here; in development it would only be in the way.
if (import.meta.env.PROD) void (async () => navigator.serviceWorker?.register('./offline.js'))().catch(() => {});
