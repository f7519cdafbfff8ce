import { useEffect, useState } from 'preact/hooks';

/** One state for the whole page: who changes it sets what is new, who shows it is told. */
export class Store<T extends object> {
  #state: T;
  #heard = new Set<() => void>();

  constructor(state: T) {
    this.#state = state;
  }

  get(): T {
    return this.#state;
  }

  set(change: Partial<T>): void {
    this.#state = { ...this.#state, ...change };
    this.#heard.forEach((hear) => hear());
  }

  subscribe(hear: () => void): () => void {
    this.#heard.add(hear);
    return () => void this.#heard.delete(hear);
  }
}

export function useStore<T extends object>(store: Store<T>): T {
  const [state, setState] = useState(store.get());
  useEffect(() => {
    setState(store.get());
    return store.subscribe(() => setState(store.get()));
  }, [store]);
  return state;
}
