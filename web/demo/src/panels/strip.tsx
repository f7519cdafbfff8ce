import type { Step } from 'refrain';
import { Component } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { byLoops, pinToken } from '../engine';
import { bits, cividis, inkOn, loopShare, surpriseShare } from '../colour';
import { count, milliseconds, shown } from '../format';
import { type Answer, answerOf, askedOf, expectedOf, mostLoops, rightAt, type State, store } from '../state';
import { taskOf } from '../tasks';
import { Choice, Failure, Panel } from './panel';
import { Verdict } from './verdict';

const ENDS = { halted: 'halted', max: 'stopped by the cap', fixed: 'fixed' } as const;
const COLOURS = [
  ['loops', 'Loops'],
  ['surprise', 'Surprise'],
] as const;

export function Strip({ state }: { state: State }) {
  const { run, colour } = state;
  return (
    <Panel
      id="tokens"
      title="Tokens"
      tools={<Choice label="Colour by" value={colour} options={COLOURS} onChange={(colour) => store.set({ colour })} />}
    >
      <Said state={state} />
      <Tokens state={state} />
      <Legend state={state} />
      {run?.problem && <Failure {...run.problem} />}
    </Panel>
  );
}

/** What it says, whether that is right, and what it cost. Its height never changes. */
function Said({ state }: { state: State }) {
  const { run } = state;
  const over = run && run.status !== 'running';
  const found = run && answerOf(state, run.prompt, run.inPlace, run.steps);
  const loops = run?.steps.reduce((sum, step) => sum + step.loops, 0) ?? 0;
  const most = run?.steps.reduce((most, step) => Math.max(most, step.loops), 0) ?? 0;
  const capped = run?.steps.filter((step) => step.exit === 'max').length ?? 0;
  // One text: its parts must not push each other about as they grow.
  const costs = [
    count(run?.steps.length ?? 0, 'token'),
    count(loops, 'loop'),
    `${most} at most`,
    capped > 0 && `${count(capped, 'token')} cut off by the cap`,
    over && run.ms > 0 && `${milliseconds(run.ms)} ms`,
  ];
  const stale = run && run.asked !== askedOf(state, state.depth);
  return (
    <div class="answer">
      <p class="said">
        <span role="status" aria-live="polite">
          {over && found && run.status !== 'failed' && (
            <>
              {run.status === 'stopped' && <span class="verdict">Cancelled. </span>}
              <b>{found.text || '(nothing)'}</b>
              {run.status === 'done' && <Verdict {...found} />}
            </>
          )}
        </span>
        {run?.status === 'running' && <span class="verdict">Running …</span>}
        {!run && <span class="verdict">Run a prompt: each token will say how many loops it took.</span>}
      </p>
      <p class="cost number">{run && run.steps.length > 0 && (stale ? 'Before your changes: ' : '') + costs.filter(Boolean).join(', ')}</p>
      <p class="expected number">{run?.status === 'done' && found && aside(state, run.inPlace, found)}</p>
    </div>
  );
}

/** What there is to say of an answer that is not simply right. */
function aside(state: State, inPlace: boolean, { right, expected }: Answer): string {
  if (right === false) return `The right answer: ${expected}`;
  const unknown = right === undefined && inPlace && taskOf(state.source) !== undefined;
  return unknown ? 'Not one of the problems that it was trained for: nobody here knows whether that is right.' : '';
}

function Tokens({ state }: { state: State }) {
  const { run, pin, colour } = state;
  const list = useRef<HTMLDivElement>(null);
  const steps = run?.steps ?? [];
  // Which tokens are the questions is known when all are there.
  const expected = run?.status === 'done' ? expectedOf(state, run.prompt, run.inPlace) : undefined;
  const most = mostLoops(state);
  // Newly written tokens stay in view; a prompt does not scroll away from its beginning.
  const outputs = steps.filter((step) => step.role === 'output').length;
  useEffect(() => {
    if (run?.status === 'running' && outputs > 0 && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [outputs, run?.status]);

  // So does the pinned one, whoever has pinned it.
  useEffect(() => {
    const [box, token] = [list.current, list.current?.querySelector<HTMLElement>('[aria-pressed=true]')];
    if (!box || !token) return;
    const { offsetTop: top, offsetHeight: height } = token;
    box.scrollTop = Math.min(Math.max(box.scrollTop, top + height + 12 - box.clientHeight), top - 12);
  }, [pin]);

  const move = (event: KeyboardEvent) => {
    const at = Number((event.target as HTMLElement).dataset.index);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 }[event.key];
    if (to !== undefined) list.current?.querySelector<HTMLElement>(`[data-index="${to}"]`)?.focus();
    else if (!byLoops(event)) return;
    event.preventDefault();
  };
  const roving = pin !== undefined && pin < steps.length ? pin : 0;
  return (
    <div class="strip" ref={list} onKeyDown={move} role="group" aria-label="Tokens: left and right to move, Enter to pin, up and down for its loops">
      {steps.map((step, i) => (
        <Token
          key={step.index}
          step={step}
          index={i}
          inPlace={run?.inPlace === true}
          pinned={i === pin}
          tab={i === roving}
          share={colour === 'loops' ? loopShare(step.loops, most) : surpriseShare(step.logprob)}
          surprise={colour === 'surprise'}
          right={rightAt(expected, steps.length, step, i)}
        />
      ))}
    </div>
  );
}

interface TokenProps {
  step: Step;
  index: number;
  inPlace: boolean;
  pinned: boolean;
  tab: boolean;
  share: number;
  surprise: boolean;
  right?: boolean;
}

/** Drawn again only when something about it changes: there may be hundreds, and one comes each frame. */
class Token extends Component<TokenProps> {
  override shouldComponentUpdate(next: TokenProps): boolean {
    return (Object.keys(next) as (keyof TokenProps)[]).some((name) => next[name] !== this.props[name]);
  }

  override render(props: TokenProps) {
    return tokenButton(props);
  }
}

function tokenButton({ step, index, inPlace, pinned, tab, share, surprise, right }: TokenProps) {
  const text = shown(step.text);
  const says = inPlace ? shown(step.next.text) : '';
  const mark = right === undefined ? '' : right ? '✓' : '✗';
  // The name of the button is its text: "'cat', 7 loops, halted", of which only what is short is seen.
  const loops = !surprise ? String(step.loops) : step.logprob === null ? '–' : `${bits(step.logprob).toFixed(1)}b`;
  const verdict = right === undefined ? '' : right ? ', right' : ', wrong';
  const pin = () => {
    pinToken(index);
    store.set({ inspecting: true });
  };
  return (
    <button
      class={`token ${step.exit === 'max' ? 'cut' : ''} ${step.role}`}
      style={{ backgroundColor: cividis(share), color: inkOn(share) }}
      data-index={index}
      data-loops={step.loops}
      aria-pressed={pinned}
      tabIndex={tab ? 0 : -1}
      onClick={pin}
    >
      <Unseen>'</Unseen>
      <span class="text">{text}</span>
      <Unseen>', {surprise && `${count(step.loops, 'loop')}, surprise ${step.logprob === null ? 'unknown ' : ''}`}</Unseen>
      <span class="loops">{loops}</span>
      <Unseen>
        {surprise ? '' : step.loops === 1 ? ' loop' : ' loops'}, {ENDS[step.exit]}
        {says && ', predicts '}
      </Unseen>
      {says && (
        <span class={`says ${verdict.slice(2)}`}>
          {mark && <i aria-hidden="true">{mark}</i>}
          {says}
        </span>
      )}
      <Unseen>{verdict}</Unseen>
    </button>
  );
}

function Unseen({ children }: { children: preact.ComponentChildren }) {
  return <span class="hidden">{children}</span>;
}

function Legend({ state }: { state: State }) {
  const most = mostLoops(state);
  const loops = [1, 2, 4, 8, 16, 32].filter((each) => each <= most);
  const marks: [string, number][] =
    state.colour === 'loops'
      ? loops.map((each) => [String(each), loopShare(each, most)])
      : [0, 4, 8, 12, 16].map((each) => [String(each), each / 16]);
  return (
    <p class="legend">
      {marks.map(([text, share]) => (
        <span key={text} class="swatch" style={{ backgroundColor: cividis(share), color: inkOn(share) }}>
          {text}
        </span>
      ))}
      <span>{state.colour === 'loops' ? 'loops' : 'bits: how little the model expected this token'}</span>
      <span class="dotted">cut off by the cap</span>
      <span style={{ visibility: state.run?.inPlace === false ? 'hidden' : 'visible' }}>below: what the model says there, ✓ or ✗ where it was asked</span>
    </p>
  );
}
