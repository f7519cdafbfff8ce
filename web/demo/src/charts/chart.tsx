import type { ComponentChildren } from 'preact';
import { store } from '../state';
import { loopTicks, useWidth } from '../size';

export const LEFT = 40;
const RIGHT = 4;
const TOP = 6;
const FOOT = 20;

/** Where things are in a chart: the middle of a loop's column, its width, a height from 0 (below) to 1 (above). */
export interface Place {
  x: (loop: number) => number;
  column: number;
  y: (share: number) => number;
  width: number;
}

interface LoopChartProps {
  title: string;
  /** What it says at the crosshair. */
  value: ComponentChildren;
  /** What it says to somebody who cannot see it. */
  label: string;
  loops: number;
  /** The token's own loops; later ones were run for others. */
  own: number;
  loop: number;
  height: number;
  draw: (place: Place) => ComponentChildren;
}

/** One of the charts of a token, over its loops, with the crosshair that they share. */
export function LoopChart({ title, value, label, loops, own, loop, height, draw }: LoopChartProps) {
  const [box, width] = useWidth<HTMLDivElement>();
  const room = Math.max(width - LEFT - RIGHT, 1);
  const column = room / loops;
  const place: Place = {
    column,
    width,
    x: (t) => LEFT + (t - 0.5) * column,
    y: (share) => TOP + (1 - share) * (height - TOP - FOOT),
  };
  // The loop under the crosshair is always named; a tick that would touch its name gives way.
  const ticks = [...loopTicks(loops, room).filter((t) => t !== loop && Math.abs(t - loop) * column > 15), loop];
  const point = (event: PointerEvent) => {
    const left = box.current?.getBoundingClientRect().left ?? 0;
    const t = Math.min(Math.max(Math.ceil((event.clientX - left - LEFT) / column), 1), loops);
    if (t !== store.get().loop) store.set({ loop: t });
  };
  return (
    <figure class="chart">
      <figcaption>
        <h3>{title}</h3>
        <span class="number">{value}</span>
      </figcaption>
      <div ref={box} style={{ height }}>
        {width > 0 && (
          <svg width={width} height={height} role="img" aria-label={label} onPointerMove={point} onPointerDown={point}>
            {own < loops && <rect class="after" x={place.x(own + 0.5)} y={TOP} width={(loops - own) * column} height={height - TOP - FOOT} />}
            <rect class="cross" x={place.x(loop - 0.5)} y={TOP} width={column} height={height - TOP - FOOT} />
            {draw(place)}
            <rect class="cross-edge" x={place.x(loop - 0.5)} y={TOP - 2} width={column} height={height - TOP - FOOT + 4} rx={2} />
            <line class="axis" x1={LEFT} x2={LEFT + room} y1={place.y(0)} y2={place.y(0)} />
            {ticks.map((t) => (
              <g key={t}>
                <line class="axis" x1={place.x(t)} x2={place.x(t)} y1={place.y(0)} y2={place.y(0) + 3} />
                <text class={t === loop ? 'here' : ''} x={place.x(t)} y={height - 4} text-anchor="middle">
                  {t}
                </text>
              </g>
            ))}
          </svg>
        )}
      </div>
    </figure>
  );
}

/** A tick of the upright axis. */
export function YTick({ at, text, place }: { at: number; text: string; place: Place }) {
  return (
    <g>
      <line class="grid" x1={LEFT} x2={place.width - RIGHT} y1={place.y(at)} y2={place.y(at)} />
      <text x={LEFT - 6} y={place.y(at) + 4} text-anchor="end">
        {text}
      </text>
    </g>
  );
}
