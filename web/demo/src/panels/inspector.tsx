import type { Step } from 'refrain';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { Convergence, Experts, Halting, Lens } from '../charts/charts';
import { massAt, recorded, settledAt } from '../depths';
import { count, share, short, shown } from '../format';
import { useNarrow } from '../size';
import { type State, store } from '../state';
import { taskOf } from '../tasks';
import { Choice, Panel } from './panel';

type View = 'charts' | 'table';
const VIEWS = [
  ['charts', 'Charts'],
  ['table', 'Table'],
] as const;

/** What happened in each loop of the pinned token: beside the rest, or on phones over it. */
export function Inspector({ state }: { state: State }) {
  const [view, setView] = useState<View>('charts');
  const narrow = useNarrow();
  const step = state.pin === undefined ? undefined : state.run?.steps[state.pin];
  const tools = <Choice label="Show as" value={view} options={VIEWS} onChange={setView} />;
  const inside = <Inside state={state} step={step} view={view} />;
  // The tour lies over the page itself, and would be below a dialog.
  if (narrow && state.tour === undefined)
    return step && state.inspecting ? (
      <Sheet title={titleOf(step)} tools={tools}>
        {inside}
      </Sheet>
    ) : null;
  return (
    <Panel id="inspector" title={step ? titleOf(step) : 'Inside a token'} tools={tools}>
      {inside}
    </Panel>
  );
}

function titleOf(step: Step): string {
  return `Inside “${shown(step.text)}”: ${count(step.loops, 'loop')}`;
}

function Sheet({ title, tools, children }: { title: string; tools: preact.ComponentChildren; children: preact.ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  // At once: whoever is quick closes it before the next frame.
  useLayoutEffect(() => {
    const shown = dialog.current;
    shown?.showModal();
    return () => {
      // What is behind an open dialog cannot have the focus.
      shown?.close();
      document.querySelector<HTMLElement>('.token[aria-pressed=true]')?.focus({ preventScroll: true });
    };
  }, []);
  const close = () => store.set({ inspecting: false });
  return (
    <dialog class="sheet" ref={dialog} aria-label={title} onClose={close} onClick={(event) => event.target === dialog.current && close()}>
      <div class="panel" id="inspector">
        <header>
          <h2>{title}</h2>
          <div class="tools">
            {tools}
            <button onClick={close}>Close</button>
          </div>
        </header>
        {children}
      </div>
    </dialog>
  );
}

function Inside({ state, step, view }: { state: State; step: Step | undefined; view: View }) {
  const { info, texts } = state;
  if (!step)
    return <p class="empty inside">Pick a token above, with the mouse or with ← → and Enter: what happened in each of its loops comes up here.</p>;
  if (!step.trace)
    return <p class="empty inside">The loops of this run were not recorded. Switch on “Record every loop” under Sampling, and run again.</p>;
  const loop = Math.min(state.loop, recorded(step));
  return (
    <div class="inside">
      <p class="note">{story(state, step)}</p>
      {view === 'charts' ? (
        <div class="charts">
          <Halting step={step} loop={loop} threshold={info?.haltingThreshold ?? 0.99} />
          <Lens step={step} loop={loop} texts={texts} />
          <Convergence step={step} loop={loop} />
          <Experts step={step} loop={loop} experts={info?.experts ?? 0} />
        </div>
      ) : (
        <Numbers step={step} loop={loop} texts={texts} />
      )}
    </div>
  );
}

function story({ source, texts }: State, step: Step): string {
  const settled = settledAt(step);
  const ends = {
    halted: `The model halted it after loop ${step.loops}`,
    max: `The cap ended it after loop ${step.loops}, before the model would have${heldBack(step)}`,
    fixed: `It ran the ${count(step.loops, 'loop')} that were asked for`,
  };
  const later = recorded(step) - step.loops;
  return [
    `${ends[step.exit]}${settled === undefined ? '' : `; what it says was there at loop ${settled}`}.`,
    later > 0 ? `${count(later, 'shaded loop')} more ${later === 1 ? 'was' : 'were'} run for deeper tokens after it.` : '',
    step.trace?.lens?.some(({ ids }) => texts.get(ids[0] ?? -1)?.trim() === '~') && taskOf(source)?.aside,
    'The lens at loop k is a look at the state on its way, not the answer of a run with k loops: that is what the ladder is for.',
  ]
    .filter(Boolean)
    .join(' ');
}

/** Its answer is made of each loop's state, weighed by p: at the cap there may be little of it. */
function heldBack(step: Step): string {
  const mass = massAt(step.trace, step.loops);
  return mass === undefined ? '' : `; its answer is made of what it had given out by then, Σ p ${share(mass)}`;
}

function Numbers({ step, loop, texts }: { step: Step; loop: number; texts: Map<number, string> }) {
  const { haltProbabilities: p, lens, experts, deltaNorm } = step.trace ?? {};
  const name = (id: number) => shown(texts.get(id) ?? `#${id}`);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Numbers of every loop">
      <table class="numbers">
        <thead>
          <tr>
            <th scope="col">loop</th>
            <th scope="col">p</th>
            <th scope="col">Σ p</th>
            <th scope="col">‖Δh‖/‖h‖</th>
            <th scope="col">experts</th>
            <th scope="col">lens</th>
          </tr>
        </thead>
        <tbody>
          {Array.from({ length: recorded(step) }, (_, i) => (
            <tr key={i} class={`${i + 1 === loop ? 'here' : ''} ${i < step.loops ? '' : 'late'}`}>
              <th scope="row">{i + 1}</th>
              <td>{p?.[i] === undefined ? '' : share(p[i])}</td>
              <td>{i < step.loops ? share(massAt(step.trace, i + 1) ?? 0) : ''}</td>
              <td>{deltaNorm?.[i] === undefined ? '' : short(deltaNorm[i])}</td>
              <td>{experts?.[i]?.ids.map((id, k) => `${id} (${(experts[i]?.gates[k] ?? 0).toFixed(2)})`).join(' ')}</td>
              <td class="words">{lens?.[i]?.ids.map((id, k) => `${name(id)} ${share(lens[i]?.probs[k] ?? 0)}`).join(', ')}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
