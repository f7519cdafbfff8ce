/** What the page asks of the package, and what it makes of the replies. Nothing else calls it. */
import { cache, load, probe, type GenerateOptions, type Generation, type Model, RefrainError, type Step } from 'refrain';
import { recorded } from './depths';
import { askedOf, type DepthChoice, type Problem, type Run, type State, STOPS, store } from './state';
import { taskOf } from './tasks';

let model: Model | undefined;
let generation: Generation | undefined;
/** Of what `busy` names: aborted when it is to end. */
let working: AbortController | undefined;

/** Anything thrown, as a message with a hint. */
export function problemOf(error: unknown): Problem {
  if (RefrainError.is(error)) return { message: error.message, hint: error.hint };
  return { message: error instanceof Error ? error.message : String(error) };
}

export async function look(): Promise<void> {
  void listCache();
  store.set({ probe: await probe() });
}

async function listCache(): Promise<void> {
  const models = await cache.list().catch(() => []);
  store.set({ cached: models.filter((each) => each.complete).map((each) => each.model) });
}

export async function forgetCached(name: string): Promise<void> {
  if (store.get().loaded === name) await unload();
  try {
    await cache.delete(name);
    store.set({ loadProblem: undefined });
  } catch (error) {
    store.set({ loadProblem: problemOf(error) });
  }
  await listCache();
}

/** Takes another model, with its first preset; it is loaded when it is needed. */
export function chooseModel(source: string): void {
  if (source === store.get().source) return;
  cancelLoad();
  void unload();
  const prompt = taskOf(source)?.presets[0]?.prompt;
  store.set({ source, loadProblem: undefined, notice: '', at: undefined, maxTokens: 0, ...(prompt ? { prompt } : {}) });
}

let opening: { source: string; control: AbortController; done: Promise<boolean> } | undefined;

/** Makes the chosen model ready; at once if it is, and not twice if it is on its way. Returns whether it is. */
export function ensureModel(): Promise<boolean> {
  const { source, loaded } = store.get();
  if (model && loaded === source) return Promise.resolve(true);
  if (opening?.source === source && !opening.control.signal.aborted) return opening.done;
  opening?.control.abort();
  const control = new AbortController();
  const mine = { source, control, done: open(source, control).finally(() => opening === mine && (opening = undefined)) };
  opening = mine;
  return mine.done;
}

async function open(source: string, { signal }: AbortController): Promise<boolean> {
  const { files, hub, backend } = store.get();
  store.set({ loadProblem: undefined, progress: { phase: 'download', file: '', fromCache: false, fraction: 0, loaded: 0, total: 0, elapsedMs: 0 } });
  try {
    const made = await load(source === 'files' ? archiveOf(files) : source, {
      signal,
      backend,
      base: new URL('models/', document.baseURI),
      hub: hub || undefined,
      onProgress: (progress) => signal.aborted || store.set({ progress }),
    });
    if (signal.aborted) {
      await made.dispose();
      return false;
    }
    model = made;
    void watch(made);
    store.set({ info: made.info, loaded: source, progress: undefined, texts: new Map(), fromLink: false });
    void listCache();
    void keepPage();
    return true;
  } catch (error) {
    if (!signal.aborted) store.set({ progress: undefined, loadProblem: problemOf(error) });
    return false;
  }
}

/** The engine may have come before the worker was there that keeps the page for times without a network. */
async function keepPage(): Promise<void> {
  (await navigator.serviceWorker?.ready)?.active?.postMessage('keep');
}

/** A lost device is no end: the package opens the model again by itself. It is said all the same. */
async function watch(made: Model): Promise<void> {
  for (;;) {
    const { message } = await made.lost;
    if (made !== model) return;
    store.set({ notice: `The device was lost (${message}). The model is opened again on a new one by the next run.` });
  }
}

/** An archive is one file; a folder is its files. */
function archiveOf(files: File[]): File | File[] {
  const [only] = files;
  return files.length === 1 && only && /\.(tar|tgz|tar\.gz)$/i.test(only.name) ? only : files;
}

export function cancelLoad(): void {
  opening?.control.abort();
  store.set({ progress: undefined });
}

export async function unload(): Promise<void> {
  const before = model;
  model = undefined;
  stop();
  store.set({ info: undefined, loaded: undefined, run: undefined, ladder: undefined, comparison: undefined, pin: undefined });
  await before?.dispose().catch(() => {});
}

function depthOptions({ mode, loops }: DepthChoice): GenerateOptions {
  if (mode === 'model') return { exit: 'model' };
  return { exit: mode === 'fixed' ? 'fixed' : 'model', loops };
}

function options(state: State, depth: DepthChoice): GenerateOptions {
  const { seed, temperature, maxTokens, info } = state;
  const answers = info?.inPlace === true && maxTokens === 0;
  return { ...depthOptions(depth), seed, temperature, echo: true, ...(answers ? { inPlace: true } : { maxTokens: maxTokens || 64 }) };
}

/** Sets the state while the model is still the one of now: what another one said belongs nowhere any more. */
function setter(): (change: Partial<State>) => void {
  const mine = model;
  return (change) => model === mine && store.set(change);
}

/** Runs the prompt at a depth, and hands over the run as it grows, once a frame at most. */
async function generate(state: State, depth: DepthChoice, trace: boolean, show: (run: Run) => void): Promise<Run> {
  const asked = options(state, depth);
  const steps: Step[] = [];
  let run: Run = { prompt: state.prompt, asked: askedOf(state, depth), depth, status: 'running', inPlace: asked.inPlace === true, steps: [], ms: 0 };
  let frame = 0;
  show(run);
  try {
    if (!model) throw new Error('no model is loaded');
    generation = model.generate(state.prompt, { ...asked, trace: trace && { halting: true, norms: true, experts: true, lens: 5 } });
    for await (const step of generation) {
      steps.push(step);
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        show((run = { ...run, steps: [...steps] }));
      });
    }
    const { reason, ms } = await generation.result;
    run = { ...run, steps: [...steps], ms, status: reason === 'stopped' ? 'stopped' : 'done' };
  } catch (error) {
    run = { ...run, steps: [...steps], status: 'failed', problem: problemOf(error) };
  }
  cancelAnimationFrame(frame);
  generation = undefined;
  show(run);
  return run;
}

/** One thing at a time: makes the model ready, then works with it. Nothing happens while something else is at work. */
async function occupy(busy: NonNullable<State['busy']>, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  if (store.get().busy) return;
  store.set({ busy });
  const { signal } = (working = new AbortController());
  try {
    if ((await ensureModel()) && !signal.aborted) await work(signal);
  } finally {
    working = undefined;
    store.set({ busy: undefined });
  }
}

/** Answers the prompt; then the token that took most loops is the one to look at. */
export const runPrompt = () => occupy('run', answer);

async function answer(): Promise<void> {
  store.set({ pin: undefined, notice: '' });
  const state = store.get();
  const set = setter();
  const run = await generate(state, state.depth, state.trace, (run) => set({ run }));
  const { at } = store.get();
  const deepest = run.steps.reduce((best, step, i) => (step.loops >= (run.steps[best]?.loops ?? 0) ? i : best), 0);
  const named = at && run.steps[at.token] ? at.token : deepest;
  if (at && named !== at.token && run.status === 'done') {
    set({ notice: `The link names token ${at.token + 1}, and there are ${run.steps.length}: the deepest one is shown instead.` });
  }
  // Nobody has clicked: what comes up by itself comes up complete.
  if (run.steps[named]) await nameLens(run.steps[named]);
  set({ at: undefined });
  if (run.steps.length > 0 && store.get().pin === undefined) pinToken(named, named === at?.token ? at.loop : undefined);
}

/** Asks at every depth, by runs of their own: what a lens shows at a loop is not what the model says when it must stop there. */
export const climb = () => occupy('ladder', askAtEveryDepth);

async function askAtEveryDepth(signal: AbortSignal): Promise<void> {
  if (!model) return;
  const state = store.get();
  const { maxLoops } = model.info;
  const depths = STOPS.filter((stop) => stop <= maxLoops);
  const asked = options(state, { mode: 'model', loops: 0 });
  let ladder = {
    prompt: state.prompt,
    asked: askedOf(state),
    inPlace: asked.inPlace === true,
    status: 'running' as Run['status'],
    rungs: depths.map((depth) => ({ depth })),
    problem: undefined as Problem | undefined,
  };
  store.set({ ladder });
  const set = setter();
  try {
    for await (const { depth, result } of model.sweep(state.prompt, { ...asked, depths, signal })) {
      const rung = { depth, steps: result.steps, text: result.text, ms: result.ms };
      ladder = { ...ladder, rungs: ladder.rungs.map((each) => (each.depth === depth ? rung : each)) };
      set({ ladder });
    }
    ladder = { ...ladder, status: 'done' };
  } catch (error) {
    ladder = signal.aborted ? { ...ladder, status: 'stopped' } : { ...ladder, status: 'failed', problem: problemOf(error) };
  }
  set({ ladder });
}

/** The same prompt and seed at two depths. */
export const compare = () => occupy('compare', askBoth);

async function askBoth(): Promise<void> {
  store.set({ comparison: {} });
  // Both are asked the same, whatever changes on the page meanwhile.
  const state = store.get();
  const set = setter();
  const a = await generate(state, state.depth, false, (a) => set({ comparison: { a } }));
  if (a.status === 'done') await generate(state, state.depthB, false, (b) => set({ comparison: { a, b } }));
}

/** Ends whatever runs or loads. */
export function cancel(): void {
  cancelLoad();
  stop();
}

/** Ends whatever runs; what there is so far stays. */
export function stop(): void {
  working?.abort();
  void generation?.stop().catch(() => {});
}

/** Shows a token in the inspector, at its last loop if no other is named. */
export function pinToken(index: number, loop?: number): void {
  const step = store.get().run?.steps[index];
  if (!step) return;
  store.set({ pin: index, loop: Math.min(Math.max(1, loop ?? step.loops), recorded(step)) });
  void nameLens(step);
}

/** ↑ and ↓ go through the loops of the pinned token. Returns whether the key was one of them. */
export function byLoops({ key }: KeyboardEvent): boolean {
  const { run, pin, loop } = store.get();
  const by = { ArrowUp: -1, ArrowDown: 1 }[key];
  const step = pin === undefined ? undefined : run?.steps[pin];
  if (!by || !step) return false;
  store.set({ loop: Math.min(Math.max(loop + by, 1), recorded(step)) });
  return true;
}

/** The lens names tokens by their numbers: asks for the texts that are not known yet. */
async function nameLens(step: Step): Promise<void> {
  const unknown = new Set(step.trace?.lens?.flatMap((each) => each.ids).filter((id) => !store.get().texts.has(id)));
  const from = model;
  if (!from || unknown.size === 0) return;
  const found = await Promise.all([...unknown].map(async (id) => [id, await from.decode([id])] as const)).catch(() => []);
  if (from === model) store.set({ texts: new Map([...store.get().texts, ...found]) });
}
