import { useEffect, useRef, useState } from 'preact/hooks';

/** The width of an element, as it is and as it becomes. */
export function useWidth<E extends HTMLElement>(): [preact.RefObject<E>, number] {
  const element = useRef<E>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const watched = element.current;
    if (!watched) return;
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry?.contentRect.width ?? 0)));
    observer.observe(watched);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}

const NARROW = matchMedia('(max-width: 60rem)');

/** Whether the page has one column. */
export function isNarrow(): boolean {
  return NARROW.matches;
}

export function useNarrow(): boolean {
  const [narrow, setNarrow] = useState(NARROW.matches);
  useEffect(() => {
    const hear = () => setNarrow(NARROW.matches);
    NARROW.addEventListener('change', hear);
    return () => NARROW.removeEventListener('change', hear);
  }, []);
  return narrow;
}

/** Numbers of loops that an axis names: all of them while there is room. */
export function loopTicks(loops: number, room: number): number[] {
  const all = Array.from({ length: loops }, (_, i) => i + 1);
  if (loops * 20 <= room) return all;
  return all.filter((t) => t === 1 || t % (loops * 10 <= room ? 4 : 8) === 0);
}
