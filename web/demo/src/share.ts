/** The state that a link carries: #m=model&p=prompt&d=depth&s=seed&t=temperature&v=1, and `at=token.loop` where a token is pinned. */
import { type DepthChoice, type State, STOPS, store } from './state';
import { taskOf } from './tasks';

const VERSION = '1';

/** Stays with the address of a page that has set it itself: reloaded, it is nobody's link. */
const OWN = { own: true };

function depthText({ mode, loops }: DepthChoice): string {
  return mode === 'model' ? 'model' : `${mode}${loops}`;
}

function depthFrom(text: string | null): DepthChoice | undefined {
  if (text === 'model') return { mode: 'model', loops: 8 };
  const [, mode, loops] = /^(cap|fixed)([1-9]\d{0,3})$/.exec(text ?? '') ?? [];
  return mode && Number(loops) <= Math.max(...STOPS) ? { mode: mode as 'cap' | 'fixed', loops: Number(loops) } : undefined;
}

export function toHash(state: State): string {
  const { source, prompt, depth, seed, temperature, maxTokens, pin, loop, at } = state;
  const hash = new URLSearchParams({ m: source, p: prompt, d: depthText(depth), s: String(seed), t: String(temperature) });
  // Files of one's own cannot be in a link.
  if (source === 'files') hash.delete('m');
  if (maxTokens > 0) hash.set('n', String(maxTokens));
  if (pin !== undefined) hash.set('at', `${pin}.${loop}`);
  else if (at) hash.set('at', `${at.token}.${at.loop}`);
  hash.set('v', VERSION);
  return `#${hash}`;
}

/** What a link asks for; undefined where it is none of ours. Values that make no sense are left out, and named in `notice`. */
export function fromHash(text: string): Partial<State> | undefined {
  const hash = new URLSearchParams(text.replace(/^#/, ''));
  if (!hash.has('v')) return undefined;
  const wrong: string[] = [];
  const number = (name: string, fits: (value: number) => boolean) => {
    const value = hash.get(name);
    if (value === null) return undefined;
    if (value !== '' && fits(Number(value))) return Number(value);
    wrong.push(`${name}=${value}`);
    return undefined;
  };
  const depth = depthFrom(hash.get('d'));
  if (hash.has('d') && !depth) wrong.push(`d=${hash.get('d')}`);
  const model = hash.get('m') ?? '';
  const shared = {
    source: taskOf(model) || /^(hf|https?):./.test(model) ? model : undefined,
    prompt: hash.get('p') ?? undefined,
    depth,
    seed: number('s', (value) => Number.isSafeInteger(value) && value >= 0),
    temperature: number('t', (value) => value >= 0 && value <= 2),
    maxTokens: number('n', (value) => Number.isSafeInteger(value) && value >= 0 && value <= 1024) ?? 0,
  };
  if (model && !shared.source) wrong.push(`m=${model}`);
  if (hash.get('v') !== VERSION) wrong.push(`v=${hash.get('v')}`);
  const [, token, loop] = /^(\d{1,4})\.(\d{1,4})$/.exec(hash.get('at') ?? '') ?? [];
  if (hash.has('at') && !token) wrong.push(`at=${hash.get('at')}`);
  const known = Object.fromEntries(Object.entries(shared).filter(([, value]) => value !== undefined)) as Partial<State>;
  return {
    ...known,
    fromLink: (history.state as typeof OWN | null)?.own !== true,
    notice: wrong.length > 0 ? `The address has parts that this page does not know (${wrong.join(', ')}); they were left out.` : '',
    at: token ? { token: Number(token), loop: Number(loop) } : undefined,
  };
}

/** Keeps the address the same as the state, without filling the history. */
export function keepHash(): void {
  let waiting = 0;
  store.subscribe(() => {
    waiting ||= window.setTimeout(() => {
      waiting = 0;
      const hash = toHash(store.get());
      if (hash !== location.hash) history.replaceState(OWN, '', hash);
    }, 300);
  });
}
