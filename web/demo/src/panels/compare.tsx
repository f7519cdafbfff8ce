import type { Step } from 'refrain';
import { cividis, inkOn, loopShare } from '../colour';
import { count, milliseconds, shown } from '../format';
import { answerOf, askedOf, type DepthChoice, mostLoops, type Run, type State, store } from '../state';
import { Depth } from './depth';
import { Go } from './go';
import { Failure, Panel } from './panel';
import { Verdict } from './verdict';

/** Two depths on the same prompt and seed, and the first token at which they part. */
export function Compare({ state }: { state: State }) {
  const { comparison, info, depth, depthB } = state;
  const { a, b } = comparison ?? {};
  const differ = a && b ? firstDifference(a, b) : undefined;
  const stale = (a && a.asked !== askedOf(state, depth)) || (b && b.asked !== askedOf(state, depthB));
  const tools = (
    <Go state={state} starts="compare">
      Compare
    </Go>
  );
  return (
    <Panel id="compare" title="Compare" tools={tools} note="A is the depth chosen above. Choose B; both get the same prompt and the same seed.">
      <div class="sides">
        <div>
          <h3>A: {depthName(a?.depth ?? depth)}</h3>
          <Side state={state} run={a} differ={differ} />
          <p class="verdict" role="status">
            {stale && 'Before your changes: '}
            {a?.status === 'done' && b?.status === 'done' && (differ === undefined ? 'They say the same at every token.' : difference(a, b, differ))}
            {(a?.status === 'stopped' || b?.status === 'stopped') && 'Cancelled.'}
          </p>
        </div>
        <div>
          <h3>B: {depthName(b?.depth ?? depthB)}</h3>
          <Side state={state} run={b} differ={differ} />
          <Depth
            name="Depth of B"
            value={depthB}
            trained={info?.trainedLoops ?? 8}
            most={info?.maxLoops ?? 32}
            onChange={(depthB) => store.set({ depthB })}
          />
        </div>
      </div>
      {(a?.problem ?? b?.problem) && <Failure {...(a?.problem ?? b!.problem!)} />}
    </Panel>
  );
}

export function depthName({ mode, loops }: DepthChoice): string {
  return { model: 'the model decides', cap: `at most ${count(loops, 'loop')}`, fixed: `exactly ${count(loops, 'loop')}` }[mode];
}

function said(run: Run, step: Step): string {
  return run.inPlace ? step.next.text : step.text;
}

function firstDifference(a: Run, b: Run): number | undefined {
  for (let i = 0; i < Math.max(a.steps.length, b.steps.length); i += 1) {
    const [x, y] = [a.steps[i], b.steps[i]];
    if (x && y ? said(a, x) !== said(b, y) : b.status === 'done') return i;
  }
  return undefined;
}

function difference(a: Run, b: Run, at: number): string {
  const tell = (run: Run) => {
    const step = run.steps[at];
    return step ? `“${shown(said(run, step))}” after ${count(step.loops, 'loop')}${step.exit === 'max' ? ', cut off' : ''}` : 'nothing';
  };
  return `They part at token ${at + 1} (▲): A says ${tell(a)}, B says ${tell(b)}.`;
}

function Side({ state, run, differ }: { state: State; run: Run | undefined; differ: number | undefined }) {
  const most = mostLoops(state);
  const found = run && run.status !== 'running' ? answerOf(state, run.prompt, run.inPlace, run.steps) : undefined;
  return (
    <>
      <p class="side-answer number">
        {found && run && (
          <>
            <b>{found.text || '(nothing)'}</b>
            <Verdict {...found} />
            <span class="note">
              {' '}
              {count(
                run.steps.reduce((sum, step) => sum + step.loops, 0),
                'loop',
              )}
              , {milliseconds(run.ms)} ms
            </span>
          </>
        )}
      </p>
      <ol class="mini">
        {run?.steps.map((step, i) => {
          const share = loopShare(step.loops, most);
          return (
            <li
              key={i}
              class={`${step.exit === 'max' ? 'cut' : ''} ${i === differ ? 'differs' : ''}`}
              style={{ backgroundColor: cividis(share), color: inkOn(share) }}
            >
              {run.inPlace && <span class="hidden">{shown(step.text)}: </span>}
              <span>{shown(said(run, step))}</span>
              <small>{step.loops}</small>
            </li>
          );
        })}
      </ol>
    </>
  );
}
