import { useEffect, useRef } from 'preact/hooks';
import { byLoops } from '../engine';
import type { State } from '../state';
import { goTo, STOPS_OF_TOUR } from '../tour';
import { Failure } from './panel';

export function Tour({ state }: { state: State }) {
  const { tour, toured, progress, busy, loadProblem } = state;
  const title = useRef<HTMLHeadingElement>(null);
  const stop = tour === undefined ? undefined : STOPS_OF_TOUR[tour];
  useEffect(() => {
    if (!stop) return;
    title.current?.focus({ preventScroll: true });
    document.getElementById(stop.shows)?.classList.add('shown');
    return () => document.getElementById(stop.shows)?.classList.remove('shown');
  }, [tour]);
  const open = stop !== undefined;
  useEffect(() => {
    if (!open) return;
    const end = (event: KeyboardEvent) => event.key === 'Escape' && !document.querySelector('dialog[open]') && void goTo(-1);
    document.addEventListener('keydown', end);
    return () => document.removeEventListener('keydown', end);
  }, [open]);
  if (!stop || tour === undefined) return null;
  const last = tour === STOPS_OF_TOUR.length - 1;
  const waits = progress
    ? `Loading the model, ${Math.round(progress.fraction * 100)} % …`
    : busy
      ? 'Running …'
      : toured
        ? 'This was a real run, just now, on this machine.'
        : 'It has not run to its end.';
  return (
    <aside
      class="tour"
      aria-label="Guided tour"
      onKeyDown={(event) => stop.shows === 'inspector' && byLoops(event) && event.preventDefault()}
    >
      <p class="note">
        Step {tour + 1} of {STOPS_OF_TOUR.length}
      </p>
      <h2 ref={title} tabIndex={-1}>
        {stop.title}
      </h2>
      <p>{stop.text}</p>
      {loadProblem ? <Failure {...loadProblem} /> : <p class="note">{waits}</p>}
      {!toured && !busy && <button onClick={() => void goTo(tour)}>Run this step</button>}
      <div class="buttons">
        <button onClick={() => void goTo(-1)}>End</button>
        <span />
        <button onClick={() => void goTo(tour - 1)} disabled={tour === 0}>
          Back
        </button>
        <button class="next" onClick={() => void goTo(last ? -1 : tour + 1)}>
          {last ? 'Done' : 'Next'}
        </button>
      </div>
    </aside>
  );
}
