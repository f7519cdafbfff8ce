import type { Step } from 'refrain';
import { useEffect, useRef, useState } from 'preact/hooks';
import { drawMap, type Layout, layoutOf } from '../charts/map';
import { cividis } from '../colour';
import { lastTogether, METRICS, metricAt, recorded, staircase } from '../depths';
import { count, share, short, shown } from '../format';
import { useWidth } from '../size';
import { type Metric, type State, store } from '../state';
import { pinToken } from '../engine';
import { Choice, Panel } from './panel';

const VIEWS = [
  ['map', 'Map'],
  ['table', 'Table'],
] as const;

export function LoopMap({ state }: { state: State }) {
  const [view, setView] = useState<'map' | 'table'>('map');
  const { metric, run } = state;
  const tools = (
    <>
      <select aria-label="What the map shows" value={metric} onChange={(event) => store.set({ metric: event.currentTarget.value as Metric })}>
        {METRICS.map(([value, title]) => (
          <option key={value} value={value}>
            {title}
          </option>
        ))}
      </select>
      <Choice label="Show the map as" value={view} options={VIEWS} onChange={setView} />
    </>
  );
  const steps = run?.steps ?? [];
  const now = state.pin ?? steps.length - 1;
  const stairs = staircase(steps, now);
  return (
    <Panel id="map" title="Tokens × loops" tools={tools}>
      {steps.length === 0 ? (
        <p class="empty blank">Each column will be a token, each row a loop, and a line will show how deep the cache is.</p>
      ) : view === 'map' ? (
        <Canvas state={state} heights={stairs.heights} />
      ) : (
        <Cells steps={steps} metric={metric} heights={stairs.heights} />
      )}
      <p class="stairs note">{steps.length > 0 && <Stairs steps={steps} now={now} {...stairs} />}</p>
    </Panel>
  );
}

/** What the line of the staircase says, in words. */
function Stairs({ steps, now, heights, told }: { steps: Step[]; now: number; heights: number[]; told: boolean }) {
  const end = lastTogether(steps, now);
  const before = end === 0 || steps[end]?.role === 'prompt' ? undefined : staircase(steps, end - 1).heights;
  const own = before ? (steps[end]?.loops ?? 0) : steps.slice(0, end + 1).reduce((sum, step) => sum + step.loops, 0);
  const rows = heights.reduce((sum, each, i) => sum + each - (before?.[i] ?? 0), 0) - own;
  const who = before ? `token ${end + 1} (“${shown(steps[end]?.text ?? '')}”)` : 'the prompt';
  return (
    <>
      The line is the cache after {who}: how many loops each token has been computed to.{' '}
      {rows > 0
        ? `A deep token needs the loops of all before it: they caught up, ${count(rows, 'row')} of work beside the ${count(own, 'loop')} of ${before ? 'its own' : 'their own'}.`
        : 'Nobody had to catch up.'}
      {told ? '' : ' (Worked out from the loop counts.)'}
    </>
  );
}

function Canvas({ state, heights }: { state: State; heights: number[] }) {
  const { run, metric, pin, loop, dark } = state;
  const steps = run?.steps ?? [];
  const canvas = useRef<HTMLCanvasElement>(null);
  const [box, width] = useWidth<HTMLDivElement>();
  const [over, setOver] = useState<{ token: number; loop: number }>();
  const layout = layoutOf(steps, heights, width);
  useEffect(() => {
    if (canvas.current && width > 0) drawMap(canvas.current, layout, { steps, heights, metric, pin, loop });
  }, [steps, width, metric, pin, loop, dark, heights.join()]);

  const cell = (event: PointerEvent | MouseEvent) => cellAt(layout, steps, event);
  const at = over && steps[over.token] ? over : pin === undefined ? undefined : { token: pin, loop };
  return (
    <>
      <p class="readout number">{at ? readout(steps, metric, at) : 'Point at a cell to read it; a click pins the token.'}</p>
      <div class="map" ref={box}>
        <canvas
          ref={canvas}
          role="img"
          aria-label={`Map of ${count(steps.length, 'token')} and their loops; as a table under “Table”`}
          style={{ width: layout.width, height: layout.height }}
          onPointerMove={(event) => setOver(cell(event))}
          onPointerLeave={() => setOver(undefined)}
          onClick={(event) => {
            const found = cell(event);
            if (!found) return;
            pinToken(found.token, Math.min(found.loop, recorded(steps[found.token]!)));
            store.set({ inspecting: true });
          }}
        />
      </div>
      <p class="legend">
        <span class="gradient" style={{ background: `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(cividis).join(', ')})` }} />
        <span>{metric === 'change' ? '0.001 to 10, log scale' : '0 to 1'}</span>
        <span>
          <i class="key small" /> after it had halted
        </span>
        <span>
          <i class="key stair" /> staircase of the cache
        </span>
      </p>
    </>
  );
}

function cellAt(layout: Layout, steps: Step[], event: PointerEvent | MouseEvent): { token: number; loop: number } | undefined {
  const token = Math.floor((event.offsetX - layout.left) / layout.column);
  const loop = Math.floor((event.offsetY - layout.top) / layout.row) + 1;
  return steps[token] && loop >= 1 && loop <= layout.loops && event.offsetX >= layout.left ? { token, loop } : undefined;
}

function readout(steps: Step[], metric: Metric, { token, loop }: { token: number; loop: number }): string {
  const step = steps[token];
  if (!step) return '';
  const value = metricAt(metric, step.trace, loop);
  const name = METRICS.find(([each]) => each === metric)?.[1];
  const late = loop > step.loops ? `, after it had halted at ${step.loops}` : '';
  return `Token ${token + 1} “${shown(step.text)}”, loop ${loop}${late}: ${value === undefined ? 'not run' : `${name} ${metric === 'change' ? short(value) : share(value)}`}`;
}

function Cells({ steps, metric, heights }: { steps: Step[]; metric: Metric; heights: number[] }) {
  const loops = steps.reduce((most, step) => Math.max(most, recorded(step)), 1);
  return (
    <div class="scroll map-table" tabIndex={0} role="region" aria-label="The map as a table">
      <table class="numbers">
        <thead>
          <tr>
            <th scope="col">token</th>
            <th scope="col">loops</th>
            <th scope="col">in the cache</th>
            {Array.from({ length: loops }, (_, i) => (
              <th key={i} scope="col">
                {i + 1}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {steps.map((step, i) => (
            <tr key={i}>
              <th scope="row" class="words">
                {shown(step.text)}
              </th>
              <td>{step.loops}</td>
              <td>{heights[i] ?? 0}</td>
              {Array.from({ length: loops }, (_, t) => {
                const value = metricAt(metric, step.trace, t + 1);
                return (
                  <td key={t} class={t < step.loops ? '' : 'late'}>
                    {value === undefined ? '' : metric === 'change' ? short(value) : share(value)}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
