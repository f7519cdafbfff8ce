import type { Step } from 'refrain';
import { cividis, inkOn } from '../colour';
import { massAt, recorded, settledAt } from '../depths';
import { share, short, shown } from '../format';
import { LEFT, LoopChart, YTick } from './chart';

export interface ChartProps {
  step: Step;
  loop: number;
}

interface HaltingProps extends ChartProps {
  threshold: number;
}

/** Bars: p of halting at each loop. Line: their sum. The token halts where the line meets the threshold. */
export function Halting({ step, loop, threshold }: HaltingProps) {
  const p = step.trace?.haltProbabilities ?? [];
  const loops = recorded(step);
  const at = p[loop - 1];
  const ends = {
    halted: `the sum reaches ${threshold.toFixed(2)} at loop ${step.loops}`,
    max: `the cap ended it at loop ${step.loops}`,
    fixed: `${step.loops} loops were asked for`,
  };
  return (
    <LoopChart
      title="Halting"
      value={at === undefined ? '' : `p ${share(at)}, Σ ${share(massAt(step.trace, loop) ?? 0)}`}
      label={`Halting probability over ${loops} loops: ${ends[step.exit]}`}
      loops={loops}
      own={step.loops}
      loop={loop}
      height={136}
      draw={(place) => (
        <>
          <YTick at={0} text="0" place={place} />
          <YTick at={0.5} text="0.5" place={place} />
          {p.map((each, i) => (
            <rect
              key={i}
              class={i < step.loops ? 'mark' : 'mark late'}
              x={place.x(i + 1) - place.column * 0.35}
              width={place.column * 0.7}
              y={place.y(each)}
              height={place.y(0) - place.y(each)}
            />
          ))}
          <line class="threshold" x1={LEFT} x2={place.width - 4} y1={place.y(threshold)} y2={place.y(threshold)} />
          <text x={LEFT - 6} y={place.y(threshold) + 4} text-anchor="end">
            {threshold.toFixed(2)}
          </text>
          <polyline
            class="curve"
            points={p
              .slice(0, step.loops)
              .map((_, i) => `${place.x(i + 1)},${place.y(massAt(step.trace, i + 1) ?? 0)}`)
              .join(' ')}
          />
          {p.slice(0, step.loops).map((_, i) => (
            <circle key={i} class="dot" cx={place.x(i + 1)} cy={place.y(massAt(step.trace, i + 1) ?? 0)} r={2.5} />
          ))}
        </>
      )}
    />
  );
}

interface LensProps extends ChartProps {
  texts: Map<number, string>;
}

/** The five likeliest tokens if the state after each loop went through coda and head; the likeliest above. */
export function Lens({ step, loop, texts }: LensProps) {
  const lens = step.trace?.lens ?? [];
  const loops = recorded(step);
  const name = (id: number | undefined) => (id === undefined ? '' : shown(texts.get(id) ?? `#${id}`));
  const settled = settledAt(step);
  const here = lens[loop - 1];
  const says = settled === undefined ? 'not settled' : `settled at loop ${settled}`;
  return (
    <LoopChart
      title={`Lens: ${says}`}
      value={here ? `${name(here.ids[0])} ${share(here.probs[0] ?? 0)}` : ''}
      label={`What each loop would say: ${lens
        .slice(0, step.loops)
        .map((each, i) => `loop ${i + 1} ${name(each.ids[0])}`)
        .join(', ')}; ${says}`}
      loops={loops}
      own={step.loops}
      loop={loop}
      height={136}
      draw={(place) => {
        const rows = 5;
        const tall = (place.y(0) - place.y(1)) / rows;
        return (
          <>
            {[1, 2, 3, 4, 5].map((rank) => (
              <text key={rank} x={LEFT - 6} y={place.y(1) + (rank - 0.5) * tall + 4} text-anchor="end">
                {rank}.
              </text>
            ))}
            {lens.map((each, i) =>
              each.ids.slice(0, rows).map((id, rank) => {
                const p = each.probs[rank] ?? 0;
                const text = name(id);
                const x = place.x(i + 1) - place.column / 2;
                return (
                  <g key={`${i}.${rank}`}>
                    {i < step.loops && (
                      <rect
                        x={x + 0.5}
                        y={place.y(1) + rank * tall + 0.5}
                        width={Math.max(place.column - 1, 1)}
                        height={tall - 1}
                        fill={cividis(p)}
                      />
                    )}
                    {text.length * 7 <= place.column && (
                      <text
                        class="cell"
                        x={x + place.column / 2}
                        y={place.y(1) + (rank + 0.5) * tall + 4}
                        text-anchor="middle"
                        style={i < step.loops ? { fill: inkOn(p) } : {}}
                      >
                        {text}
                      </text>
                    )}
                  </g>
                );
              }),
            )}
            {settled !== undefined && (
              <line
                class="settled"
                x1={place.x(settled) - place.column / 2}
                x2={place.x(settled) - place.column / 2}
                y1={place.y(1) - 4}
                y2={place.y(0)}
              />
            )}
          </>
        );
      }}
    />
  );
}

/** Which experts each loop chose, by the weight they got; outlined where they were not among those of the loop before. */
export function Experts({ step, loop, experts }: ChartProps & { experts: number }) {
  const chosen = step.trace?.experts ?? [];
  const loops = recorded(step);
  const used = [...new Set(chosen.flatMap((each) => each.ids))].sort((a, b) => a - b);
  const ids = experts <= 8 ? [...Array(experts).keys()] : used.slice(0, 16);
  const here = chosen[loop - 1];
  const changes = chosen.slice(1, step.loops).filter((each, i) => each.ids.some((id) => !chosen[i]?.ids.includes(id))).length;
  return (
    <LoopChart
      title={`Experts: ${changes === 0 ? 'no change' : changes === 1 ? '1 change' : `${changes} changes`}`}
      value={here ? here.ids.map((id, i) => `${id}: ${(here.gates[i] ?? 0).toFixed(2)}`).join(', ') : ''}
      label={`Experts chosen: ${chosen
        .slice(0, step.loops)
        .map((each, i) => `loop ${i + 1} ${each.ids.join(' and ')}`)
        .join(', ')}`}
      loops={loops}
      own={step.loops}
      loop={loop}
      height={116}
      draw={(place) => {
        const tall = (place.y(0) - place.y(1)) / Math.max(ids.length, 1);
        return (
          <>
            {ids.map((id, row) => (
              <text key={id} x={LEFT - 6} y={place.y(1) + (row + 0.5) * tall + 4} text-anchor="end">
                {id}
              </text>
            ))}
            {chosen.map((each, i) =>
              each.ids.map((id, k) => {
                const row = ids.indexOf(id);
                if (row < 0) return null;
                const fresh = i > 0 && !chosen[i - 1]?.ids.includes(id);
                return (
                  <rect
                    key={`${i}.${id}`}
                    class={`expert ${fresh ? 'fresh' : ''} ${i < step.loops ? '' : 'late'}`}
                    x={place.x(i + 1) - place.column / 2 + 1.5}
                    y={place.y(1) + row * tall + 1.5}
                    width={Math.max(place.column - 3, 1)}
                    height={Math.max(tall - 3, 1)}
                    fill={cividis(each.gates[k] ?? 0)}
                  />
                );
              }),
            )}
          </>
        );
      }}
    />
  );
}

/** How much each loop still changed the state, on a log scale. */
export function Convergence({ step, loop }: ChartProps) {
  const change = step.trace?.deltaNorm ?? [];
  const loops = recorded(step);
  const logs = change.map((each) => Math.log10(Math.max(each, 1e-6)));
  const low = Math.min(Math.floor(Math.min(...logs, -1)), -1);
  const high = Math.max(Math.ceil(Math.max(...logs, 0)), 1);
  const at = change[loop - 1];
  const decades = Array.from({ length: high - low + 1 }, (_, i) => low + i);
  return (
    <LoopChart
      title="Change of the state"
      value={at === undefined ? '' : `‖Δh‖/‖h‖ ${short(at)}`}
      label={`Relative change of the state: ${change
        .slice(0, step.loops)
        .map((each, i) => `loop ${i + 1} ${short(each)}`)
        .join(', ')}`}
      loops={loops}
      own={step.loops}
      loop={loop}
      height={116}
      draw={(place) => {
        const y = (log: number) => place.y((log - low) / (high - low));
        return (
          <>
            {decades.map((each) => (
              <YTick key={each} at={(each - low) / (high - low)} text={each < -3 ? `1e${each}` : String(10 ** each)} place={place} />
            ))}
            <polyline class="curve late" points={logs.map((each, i) => `${place.x(i + 1)},${y(each)}`).join(' ')} />
            <polyline
              class="curve"
              points={logs
                .slice(0, step.loops)
                .map((each, i) => `${place.x(i + 1)},${y(each)}`)
                .join(' ')}
            />
            {logs.map((each, i) => (
              <circle key={i} class={i < step.loops ? 'dot' : 'dot late'} cx={place.x(i + 1)} cy={y(each)} r={2.5} />
            ))}
          </>
        );
      }}
    />
  );
}
