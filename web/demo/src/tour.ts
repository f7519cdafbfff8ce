/** The guided tour: each step sets the page to something, runs it for real, and says what to look at. */
import { chooseModel, climb, pinToken, runPrompt, stop } from './engine';
import { isNarrow } from './size';
import { store } from './state';
import { taskOf } from './tasks';

interface Stop {
  title: string;
  text: string;
  /** The panel that it is about. */
  shows: string;
  /** What to look at within it, where a small screen cannot show it all. */
  at?: string;
  /** Runs it; returns whether it came to its end. */
  act: () => Promise<boolean>;
}

const FOLLOW = 'refrain:follow';

async function ask(model: string, preset: number, loops?: number): Promise<boolean> {
  chooseModel(model);
  const prompt = taskOf(model)?.presets[preset]?.prompt ?? '';
  store.set({
    prompt,
    maxTokens: 0,
    temperature: 0,
    trace: true,
    at: undefined,
    depth: loops ? { mode: 'cap', loops } : { mode: 'model', loops: 8 },
  });
  await runPrompt();
  return store.get().run?.status === 'done';
}

export const STOPS_OF_TOUR: Stop[] = [
  {
    title: 'A model that can take its time',
    text: 'Most language models do the same amount of work for every word. This one has a single block, and runs it again and again until it decides to stop. It was just given a riddle: a points to b, b to c, and c is the end. Where does a lead? Under “?a” stands its answer, c.',
    shows: 'tokens',
    act: () => ask(FOLLOW, 0),
  },
  {
    title: 'Easy words take one loop, the question takes three',
    text: 'The bold number on each token is how often the block ran for it. Reading a pair is easy: 1. Two arrows had to be followed for the question: one loop each, and a third to see that there is no arrow left. In training it was shown when to stop; how often this question needs it finds out by itself.',
    shows: 'tokens',
    act: () => ask(FOLLOW, 0),
  },
  {
    title: 'A harder question, more loops',
    text: 'Now there are four arrows, listed in no order. The question takes five loops. Brighter means more loops.',
    shows: 'tokens',
    act: () => ask(FOLLOW, 1),
  },
  {
    title: 'Watch it get there',
    text: 'These charts have one column for each loop of the question. The lens shows what the model would say after each: b, then c, d, e. It walks down the arrows. At the last loop the halting bar jumps up, and it stops. Move along the charts, or press ↑ and ↓.',
    shows: 'inspector',
    at: '.charts',
    act: async () => {
      const ran = await ask(FOLLOW, 1);
      const last = (store.get().run?.steps.length ?? 0) - 1;
      if (last >= 0) pinToken(last);
      store.set({ inspecting: true });
      return ran;
    },
  },
  {
    title: 'Too little time, and it is wrong',
    text: 'The same riddle, but cut off after two loops. The dotted border marks where the model wanted to go on. It had come as far as c, and the answer is wrong.',
    shows: 'tokens',
    act: () => ask(FOLLOW, 1, 2),
  },
  {
    title: 'Further than it was ever taught',
    text: 'In training no path had more than six arrows. This one has nine, and it simply goes on looping. More loops when it runs solve more than it was trained for: that is the point of such a model.',
    shows: 'tokens',
    act: () => ask(FOLLOW, 2),
  },
  {
    title: 'The ladder: one prompt, eight depths',
    text: 'The nine arrows again, allowed 1, 2, 4 … loops, each a run of its own. Wrong while there are too few, and right from the moment that there is time enough.',
    shows: 'ladder',
    act: async () => {
      if (!(await ask(FOLLOW, 2))) return false;
      await climb();
      return store.get().ladder?.status === 'done';
    },
  },
  {
    title: 'It is not always right',
    text: 'One problem of a hundred goes wrong: the second question here. It halted in good faith, on the wrong letter. These models are small, trained for one task each, and this page hides no failure. Now it is your turn: change the prompt, the depth, or the model.',
    shows: 'tokens',
    at: '.answer',
    act: () => ask(FOLLOW, 4),
  },
];

let turn = 0;

/** Goes to a step of the tour, waiting for nothing that was under way before it. */
export async function goTo(step: number): Promise<void> {
  const next = STOPS_OF_TOUR[step];
  const mine = (turn += 1);
  stop();
  if (!next) {
    store.set({ tour: undefined, inspecting: false });
    document.getElementById('start-tour')?.focus({ preventScroll: true });
    return;
  }
  store.set({ tour: step, toured: false, inspecting: false });
  while (store.get().busy) await new Promise((resolve) => setTimeout(resolve, 20));
  if (mine !== turn) return;
  const place = `#${next.shows} ${(isNarrow() && next.at) || ''}`;
  show(place);
  const toured = await next.act();
  if (mine !== turn) return;
  store.set({ toured });
  show(place);
}

/** Brings a part of the page into view; at once for those who want no motion. */
export function show(place: string): void {
  const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  document.querySelector(place)?.scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'start' });
}
