import { cividis, inkOn, loopShare } from '../colour';
import { milliseconds } from '../format';
import { answerOf, askedOf, expectedOf, type Ladder as Asked, mostLoops, type Rung, type State, STOPS } from '../state';
import { Go } from './go';
import { Failure, Panel } from './panel';

/** The same prompt at every depth, each a run of its own; failures stay where they are. */
export function Ladder({ state }: { state: State }) {
  const { ladder, info } = state;
  const rungs: Rung[] = ladder?.rungs ?? STOPS.map((depth) => ({ depth }));
  const tools = (
    <Go state={state} starts="ladder">
      Ask at 1 … 32
    </Go>
  );
  return (
    <Panel
      id="ladder"
      title="Ladder"
      tools={tools}
      note="The same prompt with 1, 2, 4 … loops allowed. Every row is a run of its own: this is what a depth is worth."
    >
      <div class="scroll">
        <table class="rungs">
          <thead>
            <tr>
              <th scope="col">loops allowed</th>
              <th scope="col">
                <span class="hidden">right or wrong</span>
              </th>
              <th scope="col" class="words">
                answer
              </th>
              <th scope="col" class="words">
                most loops taken
              </th>
              <th scope="col">ms</th>
            </tr>
          </thead>
          <tbody>
            {rungs.map((rung) => (
              <Row key={rung.depth} rung={rung} state={state} trained={info?.trainedLoops ?? 8} />
            ))}
          </tbody>
        </table>
      </div>
      <p class="note below">
        {ladder ? notes(state, ladder).join(' ') : 'Hatched: more loops than the model was trained with.'}
      </p>
      {ladder?.problem && <Failure {...ladder.problem} />}
    </Panel>
  );
}

function notes(state: State, ladder: Asked): string[] {
  const { prompt, inPlace, rungs } = ladder;
  const known = expectedOf(state, prompt, inPlace) !== undefined;
  const lucky = rungs.some(({ steps }) => {
    const found = steps && answerOf(state, prompt, inPlace, steps);
    return found?.right && found.cut;
  });
  return [
    ladder.status === 'stopped' && 'Cancelled.',
    ladder.asked !== askedOf(state) && `This was before your changes, asked of: ${prompt}.`,
    known ? `The right answer: ${answerOf(state, prompt, inPlace, []).expected}.` : 'Nobody here knows the right answer to this prompt.',
    lucky && 'A dotted ✓ was cut off before it was done: it may be luck.',
  ].filter((note) => note !== false);
}

function Row({ rung: { depth, steps, ms }, state, trained }: { rung: Rung; state: State; trained: number }) {
  const { ladder } = state;
  const found = steps && ladder ? answerOf(state, ladder.prompt, ladder.inPlace, steps) : undefined;
  const most = steps?.reduce((most, step) => Math.max(most, step.loops), 0) ?? 0;
  const cut = steps?.filter((step) => step.exit === 'max').length ?? 0;
  const share = loopShare(most, mostLoops(state));
  return (
    <tr data-depth={depth} data-right={found?.right}>
      <th scope="row" class={depth > trained ? 'beyond' : ''}>
        <span>{depth}</span>
      </th>
      <td class="mark">
        {found?.right !== undefined && (
          <>
            <span class={`${found.right ? 'right' : 'wrong'} ${found.right && found.cut ? 'dotted' : ''}`} aria-hidden="true">
              {found.right ? '✓' : '✗'}
            </span>
            <span class="hidden">{found.right ? (found.cut ? 'right, though cut off' : 'right') : 'wrong'}</span>
          </>
        )}
      </td>
      <td class="words said-here">
        <span>{found ? found.text || '(nothing)' : '–'}</span>
      </td>
      <td class="words">
        {steps ? (
          <span class="used">
            <span class="swatch" style={{ backgroundColor: cividis(share), color: inkOn(share) }}>
              {most}
            </span>
            {cut > 0 && <span class="dotted">{cut} cut off</span>}
          </span>
        ) : (
          '–'
        )}
      </td>
      <td>{ms === undefined ? '–' : milliseconds(ms)}</td>
    </tr>
  );
}
