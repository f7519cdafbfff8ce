import { cancel, climb, compare, runPrompt } from '../engine';
import type { State } from '../state';

const STARTS = { run: runPrompt, ladder: climb, compare };

interface GoProps {
  state: State;
  starts: keyof typeof STARTS;
  class?: string;
  /** Called after the start. */
  then?: () => void;
  children: preact.ComponentChildren;
}

/** Starts something, and cancels it while it is under way: one button for both, so that whoever has pressed it can press it again. */
export function Go({ state: { busy, prompt }, starts, class: name, then, children }: GoProps) {
  const press = (event: MouseEvent) => {
    if (busy !== starts) {
      void STARTS[starts]();
      then?.();
    } else if (event.detail < 2) cancel(); // The second half of a double click was not meant to cancel.
  };
  return (
    <button
      class={name}
      onClick={press}
      onKeyDown={(event) => event.repeat && event.preventDefault()}
      disabled={busy === undefined ? prompt === '' : busy !== starts}
    >
      {busy === starts ? 'Cancel' : children}
    </button>
  );
}
