import { useLayoutEffect, useRef } from 'preact/hooks';

/** Keeps the focus in a part of the page when what had it goes away: a button that has become a progress bar, say. */
export function useKeptFocus<E extends HTMLElement>(): preact.RefObject<E> {
  const part = useRef<E>(null);
  const held = part.current?.contains(document.activeElement);
  useLayoutEffect(() => {
    if (held && !part.current?.contains(document.activeElement)) part.current?.focus({ preventScroll: true });
  });
  return part;
}
