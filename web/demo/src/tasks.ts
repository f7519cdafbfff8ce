/** What the shipped models do: their presets, and the right answer to a prompt, worked out here without any model. */

export interface Preset {
  title: string;
  prompt: string;
}

export interface Task {
  model: string;
  title: string;
  /** Bytes of its files, told before anything is fetched. */
  bytes: number;
  what: string;
  how: string;
  /** What a word means that it says on its way and that no prompt has. */
  aside?: string;
  presets: Preset[];
  /** Right predictions at the last so many tokens; undefined where the prompt is none of the task's. */
  expected(prompt: string): string[] | undefined;
  /** Those predictions as one answer. */
  answer(words: string[]): string;
}

function words(prompt: string): string[] {
  return prompt.trim().split(/\s+/).filter(Boolean);
}

/** `x >y` pairs, then `?x` questions. */
function follow(prompt: string): string[] | undefined {
  const to = new Map<string, string>();
  const all = words(prompt);
  const first = all.findIndex((word) => word.startsWith('?'));
  if (first < 2 || first % 2 === 1) return undefined;
  for (let i = 0; i < first; i += 2) {
    const [from = '', arrow = ''] = [all[i], all[i + 1]];
    if (!/^[a-z]$/.test(from) || !/^>[a-z]$/.test(arrow) || to.has(from)) return undefined;
    to.set(from, arrow.slice(1));
  }
  const answers = all.slice(first).map((question) => {
    let at = /^\?[a-z]$/.test(question) ? question.slice(1) : '';
    // A path longer than there are letters goes in a circle, and ends nowhere.
    for (let steps = 0; steps <= 26; steps += 1) {
      const next = to.get(at);
      if (next === undefined) return undefined;
      if (next === at) return at;
      at = next;
    }
    return undefined;
  });
  return answers.every((answer) => answer !== undefined) ? answers : undefined;
}

/** `@1` puts the ball under cup 1, `12` swaps cups 1 and 2; asked is where it ends. */
function cups(prompt: string): string[] | undefined {
  let ball = '';
  for (const word of words(prompt)) {
    const [, place, a, b] = /^(?:@([1-5])|([1-5])([1-5]))$/.exec(word) ?? [];
    if (place) ball = place;
    else if (!a || !b || a === b || ball === '') return undefined;
    else ball = ball === a ? b : ball === b ? a : ball;
  }
  return ball === '' ? undefined : [ball];
}

/** `6+7` columns from the right, then `=`. */
function add(prompt: string): string[] | undefined {
  const all = words(prompt);
  if (all.pop() !== '=' || all.length === 0) return undefined;
  let carry = 0;
  const digits: string[] = [];
  for (const column of all) {
    const [, a, b] = /^(\d)\+(\d)$/.exec(column) ?? [];
    if (!a || !b) return undefined;
    const sum = Number(a) + Number(b) + carry;
    digits.push(String(sum % 10));
    carry = sum > 9 ? 1 : 0;
  }
  return [...digits, String(carry)];
}

function columns(a: string, b: string): string {
  const length = Math.max(a.length, b.length);
  const [x, y] = [a.padStart(length, '0'), b.padStart(length, '0')];
  return [...Array(length).keys()].map((i) => `${x[length - 1 - i]}+${y[length - 1 - i]}`).join(' ') + ' =';
}

/** Where `a` ends, 25 arrows on: every letter there is, in an order that helps nobody. */
const ALPHABET =
  'm >n c >d x >y r >s a >b p >q h >i u >v e >f t >u k >l z >z b >c w >x g >h q >r d >e n >o v >w j >k s >t f >g y >z l >m o >p i >j ?a';

/** What the training of two of the models puts in the place of an answer that the loops so far cannot know. */
const NOT_YET = '“~” is the model’s word for “not yet”: in training it was shown to say it until the answer can be known.';

export const TASKS: Task[] = [
  {
    model: 'refrain:follow',
    title: 'follow',
    bytes: 1_119_000,
    what: 'Letters point to letters. Where does a path of arrows end?',
    how: '“c >c” is an end: c points to itself. “a >b” is an arrow. “?a” asks where a path from a ends. One loop an arrow, and one to see that none is left.',
    presets: [
      { title: 'Two arrows', prompt: 'c >c a >b b >c e >e ?a' },
      { title: 'Four arrows', prompt: 'c >d a >b d >e b >c e >e ?a' },
      { title: 'Nine arrows: three more than it was trained on', prompt: 'h >j z >z c >f k >m f >k x >z j >t s >c t >s m >m a >h y >x e >a ?e ?y' },
      { title: '25 arrows: the whole alphabet', prompt: ALPHABET },
      { title: 'A problem it gets wrong', prompt: 'l >r i >f f >n u >u r >k e >e n >t k >u g >g t >l ?n ?i ?l' },
    ],
    expected: follow,
    answer: (found) => found.join(' '),
  },
  {
    model: 'refrain:cups',
    title: 'cups',
    bytes: 1_343_000,
    what: 'A ball lies under one of five cups, and cups are swapped. Where is it?',
    how: '“@1” puts the ball under cup 1, “12” swaps cups 1 and 2. The model says at every swap where the ball is. One loop a swap, and one for the start.',
    aside: NOT_YET,
    presets: [
      { title: 'Three swaps', prompt: '@1 12 23 34' },
      { title: 'Twelve swaps: four more than it was trained on', prompt: '@2 25 14 35 23 12 45 13 24 35 15 34 12' },
      {
        title: '31 swaps: all that 32 loops can follow',
        prompt: '@3 13 35 25 14 23 45 12 34 15 24 13 25 35 14 12 45 23 34 15 13 24 35 12 25 14 34 45 23 15 13 24',
      },
      {
        title: '40 swaps: more than 32 loops can follow',
        prompt: '@3 13 35 25 14 23 45 12 34 15 24 13 25 35 14 12 45 23 34 15 13 24 35 12 25 14 34 45 23 15 13 24 12 13 45 12 14 45 15 34 12',
      },
    ],
    expected: cups,
    answer: (found) => `cup ${found.join(' ')}`,
  },
  {
    model: 'refrain:add',
    title: 'add',
    bytes: 1_133_000,
    what: 'Two numbers are added as on paper, column by column from the right.',
    how: '“6+7” is a column of two digits, the last one first; “=” asks for what stands in front of the sum. One loop for each column that a carry crosses, and one for the column itself. The “=” in front is the tokenizer’s, for a start.',
    aside: NOT_YET,
    presets: [
      { title: '586 + 847', prompt: columns('586', '847') },
      { title: '999 + 1: the carry goes all the way', prompt: columns('999', '1') },
      { title: '99…9 + 1, twelve nines: four columns more than it was trained on', prompt: columns('9'.repeat(12), '1') },
      { title: 'Two numbers of 24 digits', prompt: columns('314159265358979323846264', '271828182845904523536028') },
      { title: '99…9 + 1, forty nines: more than 32 loops can carry', prompt: columns('9'.repeat(40), '1') },
    ],
    expected: add,
    answer: (found) =>
      [...found]
        .reverse()
        .join('')
        .replace(/^0(?=.)/, ''),
  },
];

export function taskOf(model: string): Task | undefined {
  return TASKS.find((task) => task.model === model);
}
