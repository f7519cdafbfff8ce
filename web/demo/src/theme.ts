import { type State, store } from './state';

const KEY = 'refrain-theme';
const system = matchMedia('(prefers-color-scheme: dark)');

function apply(theme: State['theme']): void {
  const dark = theme === 'dark' || (theme === 'auto' && system.matches);
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  store.set({ theme, dark });
}

/** Takes the system's theme, or the one that was chosen here last. */
export function followTheme(): void {
  let kept: string | null = null;
  try {
    kept = localStorage.getItem(KEY);
  } catch {
    // Without storage the system decides.
  }
  apply(kept === 'light' || kept === 'dark' ? kept : 'auto');
  system.addEventListener('change', () => apply(store.get().theme));
}

export function chooseTheme(theme: State['theme']): void {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // It holds until the page is left.
  }
  apply(theme);
}

/** A colour of the style sheet, for canvases. */
export function colourOf(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
