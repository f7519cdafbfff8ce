/** The grid of tokens and loops, drawn at the device's own pixels. */
import type { Step } from 'refrain';
import { cividis } from '../colour';
import { metricAt, metricShare, recorded } from '../depths';
import { shown } from '../format';
import { loopTicks } from '../size';
import type { Metric } from '../state';
import { colourOf } from '../theme';

const PLOT = 216;
const FOOT = 22;

export interface Layout {
  left: number;
  top: number;
  column: number;
  row: number;
  loops: number;
  width: number;
  height: number;
}

/** Cells as large as there is room for, but never so small that they cannot be seen. */
export function layoutOf(steps: Step[], heights: number[], room: number): Layout {
  const [left, top] = [34, 4];
  const loops = Math.max(
    steps.reduce((most, step) => Math.max(most, recorded(step)), 1),
    ...heights,
    1,
  );
  const column = Math.min(Math.max((room - left - 4) / Math.max(steps.length, 1), 9), 44);
  const row = Math.min(PLOT / loops, 36);
  return { left, top, column, row, loops, width: Math.max(room, Math.ceil(left + column * steps.length + 4)), height: top + PLOT + FOOT };
}

interface Content {
  steps: Step[];
  heights: number[];
  metric: Metric;
  pin: number | undefined;
  loop: number;
}

export function drawMap(canvas: HTMLCanvasElement, layout: Layout, { steps, heights, metric, pin, loop }: Content): void {
  const { left, top, column, row, loops, width, height } = layout;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const ink = canvas.getContext('2d');
  if (!ink) return;
  ink.scale(ratio, ratio);
  const [dark, soft, accent, line] = ['--ink', '--soft', '--accent', '--line'].map(colourOf) as [string, string, string, string];
  const gap = Math.min(column, row) > 6 ? 1 : 0.5;

  for (const [i, step] of steps.entries()) {
    const x = left + i * column;
    for (let t = 1; t <= loops; t += 1) {
      const y = top + (t - 1) * row;
      const value = metricAt(metric, step.trace, t);
      const run = t <= step.loops;
      if (!run && t > (heights[i] ?? 0)) continue;
      // Without a trace it is still known which cells there are.
      ink.fillStyle = value === undefined ? line : cividis(metricShare(metric, value));
      if (run) ink.fillRect(x + gap / 2, y + gap / 2, column - gap, row - gap);
      else {
        const side = Math.max(Math.min(column, row) * 0.4, 2);
        ink.fillRect(x + (column - side) / 2, y + (row - side) / 2, side, side);
      }
    }
  }

  drawStairs(ink, layout, heights, dark);
  if (pin !== undefined && steps[pin]) {
    ink.strokeStyle = accent;
    ink.lineWidth = 2;
    ink.strokeRect(left + pin * column, top, column, loops * row);
    ink.lineWidth = 3;
    ink.strokeRect(left + pin * column, top + (Math.min(loop, loops) - 1) * row, column, row);
  }

  ink.font = `11px ${colourOf('--sans')}`;
  ink.fillStyle = soft;
  ink.textAlign = 'right';
  ink.textBaseline = 'middle';
  for (const t of loopTicks(loops, PLOT)) ink.fillText(String(t), left - 8, top + (t - 0.5) * row);
  ink.font = `11px ${colourOf('--mono')}`;
  ink.textAlign = 'center';
  for (const [i, step] of steps.entries()) {
    const text = shown(step.text);
    ink.fillStyle = i === pin ? dark : soft;
    if (i === pin || ink.measureText(text).width <= column - 2) ink.fillText(text, left + (i + 0.5) * column, top + loops * row + 12);
  }
}

/** A line below the last loop that each position has run. */
function drawStairs(ink: CanvasRenderingContext2D, { left, top, column, row }: Layout, heights: number[], colour: string): void {
  const known = heights.findIndex((height) => height === 0);
  const end = known < 0 ? heights.length : known;
  if (end === 0) return;
  ink.beginPath();
  ink.moveTo(left, top + (heights[0] ?? 0) * row);
  for (let i = 0; i < end; i += 1) {
    const y = top + (heights[i] ?? 0) * row;
    ink.lineTo(left + i * column, y);
    ink.lineTo(left + (i + 1) * column, y);
  }
  ink.lineTo(left + end * column, top);
  ink.strokeStyle = colour;
  ink.lineWidth = 2;
  ink.stroke();
}
