import type { Backend, Info, Probe, Progress, Step } from 'refrain';
import { Store } from './store';
import { TASKS, taskOf } from './tasks';

/** How deep to think: as the model decides, at most so many loops, or exactly so many. */
export interface DepthChoice {
  mode: 'model' | 'cap' | 'fixed';
  loops: number;
}

/** Loops that can be chosen. */
export const STOPS = [1, 2, 4, 8, 12, 16, 24, 32];

/** What went wrong: expected and found, and how to mend it. */
export interface Problem {
  message: string;
  hint?: string;
}

/** One generation, as it comes in. */
export interface Run {
  prompt: string;
  /** What it was asked with, all in all: see `askedOf`. */
  asked: string;
  depth: DepthChoice;
  status: 'running' | 'done' | 'stopped' | 'failed';
  inPlace: boolean;
  steps: Step[];
  ms: number;
  problem?: Problem;
}

export interface Rung {
  depth: number;
  steps?: Step[];
  text?: string;
  ms?: number;
}

export interface Ladder {
  prompt: string;
  asked: string;
  inPlace: boolean;
  rungs: Rung[];
  status: Run['status'];
  problem?: Problem;
}

export interface Comparison {
  a?: Run;
  b?: Run;
}

export type Metric = 'halting' | 'mass' | 'change' | 'confidence';

export interface State {
  dark: boolean;
  theme: 'auto' | 'light' | 'dark';
  probe?: Probe;
  /** Models that open without a request. */
  cached: string[];
  /** Which model: a shipped one, `hf:…`, or `files`. */
  source: string;
  hub: string;
  files: File[];
  backend: Backend;
  progress?: Progress;
  loadProblem?: Problem;
  info?: Info;
  /** What `info` belongs to. */
  loaded?: string;
  prompt: string;
  seed: number;
  temperature: number;
  /** Tokens to continue the prompt by; 0 answers in place. */
  maxTokens: number;
  depth: DepthChoice;
  trace: boolean;
  busy?: 'run' | 'ladder' | 'compare';
  run?: Run;
  /** The token that the inspector shows, and the loop under the crosshair. */
  pin?: number;
  loop: number;
  /** The token and loop that a link names: pinned by the next run. */
  at?: { token: number; loop: number };
  /** On phones: whether the inspector lies over the page. */
  inspecting: boolean;
  colour: 'loops' | 'surprise';
  metric: Metric;
  /** Texts of tokens that the lens names. */
  texts: Map<number, string>;
  ladder?: Ladder;
  depthB: DepthChoice;
  comparison?: Comparison;
  /** Set by a link: what it asks for waits for a click. */
  fromLink: boolean;
  notice: string;
  tour?: number;
  /** Whether the tour's step has been run to its end. */
  toured: boolean;
}

const first = TASKS[0];

export const store = new Store<State>({
  dark: false,
  theme: 'auto',
  cached: [],
  source: first?.model ?? '',
  hub: '',
  files: [],
  backend: 'auto',
  prompt: first?.presets[1]?.prompt ?? '',
  seed: 0,
  temperature: 0,
  maxTokens: 0,
  depth: { mode: 'model', loops: 8 },
  trace: true,
  loop: 1,
  inspecting: false,
  colour: 'loops',
  metric: 'halting',
  texts: new Map(),
  depthB: { mode: 'cap', loops: 2 },
  fromLink: false,
  notice: '',
  toured: false,
});

/** All that decides what a run says. Two runs with the same of it say the same; what is on the page and has another is of before a change. */
export function askedOf(state: State, depth?: DepthChoice): string {
  const { prompt, seed, temperature, maxTokens, info } = state;
  const deep = depth && (depth.mode === 'model' ? [depth.mode] : [depth.mode, depth.loops]);
  // What answers in place draws nothing.
  const draws = temperature > 0 && !(info?.inPlace && maxTokens === 0);
  return JSON.stringify([prompt, draws && [temperature, seed], maxTokens, deep]);
}

/** The most loops that any colour stands for. */
export function mostLoops(state: State): number {
  return Math.max(state.info?.maxLoops ?? 32, 2);
}

/** Right predictions at a run's last tokens, where the prompt has an answer that can be worked out. */
export function expectedOf(state: State, prompt: string, inPlace: boolean): string[] | undefined {
  return inPlace ? taskOf(state.source)?.expected(prompt) : undefined;
}

export interface Answer {
  text: string;
  right?: boolean;
  expected?: string;
  /** Whether a token that was asked was stopped by the cap: its answer is put together of what there was, and right by luck if it is. */
  cut: boolean;
}

/** What a run says, and whether it is right. */
export function answerOf(state: State, prompt: string, inPlace: boolean, steps: Step[]): Answer {
  const task = taskOf(state.source);
  const expected = expectedOf(state, prompt, inPlace);
  if (!task || !expected) {
    const outputs = steps.filter((step) => step.role === 'output');
    return { text: inPlace ? (steps.at(-1)?.next.text ?? '') : outputs.map((step) => step.text).join(''), cut: steps.at(-1)?.exit === 'max' };
  }
  const asked = steps.slice(-expected.length);
  const found = asked.map((step) => step.next.text.trim());
  const right = found.length === expected.length && found.every((word, i) => word === expected[i]);
  return { text: task.answer(found), right, expected: task.answer(expected), cut: asked.some((step) => step.exit === 'max') };
}

/** Whether the prediction at a position is right; undefined where nothing is expected. */
export function rightAt(expected: string[] | undefined, length: number, step: Step, index: number): boolean | undefined {
  const wanted = expected?.[index - (length - expected.length)];
  return wanted === undefined ? undefined : step.next.text.trim() === wanted;
}
