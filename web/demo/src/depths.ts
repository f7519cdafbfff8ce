/** What the trace of a run says of its loops: metrics of cells, where the lens settles, how far the cache has come. */
import type { Step, Trace } from 'refrain';
import type { Metric } from './state';

export const METRICS: readonly (readonly [Metric, string])[] = [
  ['halting', 'halting p'],
  ['mass', 'Σ p so far'],
  ['change', 'change of the state'],
  ['confidence', 'confidence of the lens'],
];

/** The running sum of p over the loops, never more than 1. */
export function massAt(trace: Trace | undefined, loop: number): number | undefined {
  const p = trace?.haltProbabilities;
  return p && p.length >= loop
    ? Math.min(
        p.slice(0, loop).reduce((sum, each) => sum + each, 0),
        1,
      )
    : undefined;
}

export function metricAt(metric: Metric, trace: Trace | undefined, loop: number): number | undefined {
  const i = loop - 1;
  return {
    halting: () => trace?.haltProbabilities?.[i],
    mass: () => massAt(trace, loop),
    change: () => trace?.deltaNorm?.[i],
    confidence: () => trace?.lens?.[i]?.probs[0],
  }[metric]();
}

/** A metric's value as a share of the ramp: changes on a log scale from 0.001 to 10, all else as it is. */
export function metricShare(metric: Metric, value: number): number {
  return metric === 'change' ? (Math.log10(Math.max(value, 1e-3)) + 3) / 4 : value;
}

/** The loop from which on the lens says what the token says in the end; undefined where it does not, or is not there. */
export function settledAt(step: Step): number | undefined {
  const tops = step.trace?.lens?.slice(0, step.loops).map((each) => each.ids[0]);
  if (!tops || tops.at(-1) !== step.next.token) return undefined;
  return tops.findLastIndex((id) => id !== step.next.token) + 2;
}

/** Loops that the chart of a token has: its own, and those that it was taken along for, where they were recorded. */
export function recorded(step: Step): number {
  return Math.max(step.loops, step.trace?.loops ?? 0);
}

/**
 * How many loops each position has run, once the step at `now` was done: the cache's staircase. The engine tells it where it can; else it
 * follows from the loop counts, for a token takes along every earlier one that stands where it comes.
 */
export function staircase(steps: Step[], now: number): { heights: number[]; told: boolean } {
  const end = lastTogether(steps, now);
  const reached = steps[end]?.reached;
  const heights = steps.map((_, i) => {
    if (i > end) return 0;
    if (reached) return reached.filter((positions) => positions > i).length;
    let height = 0;
    for (let j = i; j <= end; j += 1) height = Math.max(height, steps[j]?.loops ?? 0);
    return height;
  });
  return { heights, told: reached !== undefined };
}

/** A prompt is one pass: its tokens are done together. */
export function lastTogether(steps: Step[], now: number): number {
  if (steps[now]?.role !== 'prompt') return now;
  return steps.findLastIndex((step) => step.role === 'prompt');
}
