/// <reference lib="esnext.disposable" preserve="true" />
import { Generation } from './generation.js';
import { RefrainError } from './errors.js';
import type { Engine, Request } from './session.js';
import type { Depth, Forward, GenerateOptions, Info, Lost, Result, Step } from './types.js';

/** Text, or token ids. */
export type Prompt = string | ArrayLike<number>;

/** A sweep over depths. */
export interface SweepOptions extends Omit<GenerateOptions, 'loops'> {
  /** Loops to allow, one run each. */
  depths: number[];
  /** The right answer: tells `correct` of each run. Where the model answers in place, of its last words. */
  expect?: string;
}

/** One run of a sweep. */
export interface Sweep {
  depth: number;
  result: Result;
  correct?: boolean;
}

/** A loaded model. It does one thing at a time; what is asked for meanwhile waits for its turn. */
export class Model implements AsyncDisposable {
  #engine: Engine;
  #turn: Promise<unknown> = Promise.resolve();
  #current: Generation | undefined;
  #waiting = 0;
  #disposed: Promise<void> | undefined;
  #lost!: Promise<Lost>;
  #lose!: (lost: Lost) => void;

  /** @internal */
  constructor(engine: Engine) {
    this.#engine = engine;
    this.#expectLoss();
  }

  /** @internal */
  lose(lost: Lost): void {
    this.#lose(lost);
    this.#expectLoss();
  }

  #expectLoss(): void {
    this.#lost = new Promise((resolve) => (this.#lose = resolve));
  }

  /** Facts of the model and its device. */
  get info(): Info {
    return this.#engine.info;
  }

  /** Kept when the device is lost next. The model is opened again by whatever needs it, on a new device, from the files that it has. */
  get lost(): Promise<Lost> {
    return this.#lost;
  }

  /** Starts a generation. A mistake in the options throws at once, the rest fails where the steps are read. */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    checkNumbers({ ...options });
    const { signal, trace, stop, inPlace, ...rest } = options;
    const stops = stop === undefined ? [] : typeof stop === 'string' ? [stop] : stop;
    checkThat(Array.isArray(stops) && stops.every((text) => typeof text === 'string'), 'stop', 'a text or several', stop);
    checkThat(signal === undefined || typeof signal?.addEventListener === 'function', 'signal', 'an AbortSignal', signal);
    const answers = inPlace ?? (this.info.inPlace && options.maxTokens === undefined);
    const request: Request = { ...rest, ...asRequest(prompt), stop: stops, inPlace: answers, trace: traced(trace) };
    const terms = { inPlace: answers, maxTokens: options.maxTokens, signal };
    const generation: Generation = new Generation(
      (step, cancel) =>
        this.#inTurn(cancel, async () => {
          this.#current = generation;
          // Others are waiting already: nobody may keep them by reading slowly.
          if (this.#waiting > 0) generation.hurry();
          try {
            await this.#engine.generate(request, step, cancel);
          } finally {
            this.#current = undefined;
          }
        }),
      terms,
    );
    return generation;
  }

  /** Runs a prompt at several depths, one after the other. The runs are real: what a lens shows at a loop is not what a model limited to it would say. */
  async *sweep(prompt: Prompt, { depths, expect, ...options }: SweepOptions): AsyncGenerator<Sweep, void, undefined> {
    checkThat(Array.isArray(depths), 'depths', 'numbers of loops', depths);
    for (const depth of depths) {
      const generation = this.generate(prompt, { ...options, loops: depth });
      try {
        const result = await generation.result;
        yield expect === undefined ? { depth, result } : { depth, result, correct: isAnswer(result, expect) };
      } finally {
        if (!options.signal?.aborted) await generation.stop().catch(() => {});
      }
    }
  }

  /** The steps of a text, each with the log-probability of its token. Nothing is generated. */
  async score(text: Prompt, options: Depth & { signal?: AbortSignal } = {}): Promise<Step[]> {
    return (await this.generate(text, { ...options, echo: true, inPlace: true }).result).steps;
  }

  /** One pass over tokens with all logits. */
  forward(prompt: Prompt, depth: Depth = {}): Promise<Forward> {
    checkNumbers({ ...depth });
    const { text, tokens = [] } = asRequest(prompt);
    return this.#inTurn(undefined, async () =>
      this.#engine.forward(text === undefined ? tokens : Array.from(await this.#engine.encode(text)), { ...depth }),
    );
  }

  /** The tokens of a text. */
  encode(text: string): Promise<Uint32Array> {
    const { text: asked = '' } = asRequest(String(text));
    return this.#inTurn(undefined, () => this.#engine.encode(asked));
  }

  /** The text of tokens. */
  decode(tokens: ArrayLike<number>): Promise<string> {
    const { tokens: asked = [] } = asRequest(tokens);
    return this.#inTurn(undefined, () => this.#engine.decode(asked));
  }

  /** Ends what is under way, and frees the device's memory. Nothing can be asked for afterwards. */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      this.#current?.stop().catch(() => {});
      await this.#turn;
      await this.#engine.dispose();
    })();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** Waits for what was asked for before; not longer than `cancel`. */
  async #inTurn<T>(cancel: Promise<unknown> | undefined, work: () => Promise<T>): Promise<T> {
    if (this.#disposed) throw new RefrainError('usage', 'this model was disposed of: load it again');
    let cancelled = false;
    void cancel?.then(() => (cancelled = true));
    this.#waiting += 1;
    this.#current?.hurry();
    const before = this.#turn;
    const run = async () => {
      await before;
      this.#waiting -= 1;
      if (this.#disposed) throw new RefrainError('usage', 'this model was disposed of: load it again');
      return cancelled ? (undefined as T) : work();
    };
    const mine = run();
    this.#turn = mine.catch(() => {});
    return mine;
  }
}

/** Numbers among the options: whether each must be whole. */
const NUMBERS: Record<string, boolean> = {
  maxTokens: true, seed: true, topK: true, loops: true, minLoops: true, contextLength: true, maxLoops: true,
  temperature: false, topP: false, minP: false,
};

/** Refuses what JSON would turn into nothing, or the engine into an error in its own words. What is too large, it says itself. */
export function checkNumbers(options: Record<string, unknown>): void {
  for (const [name, whole] of Object.entries(NUMBERS)) {
    const found = options[name];
    if (found === undefined) continue;
    if (typeof found !== 'number' || !Number.isFinite(found) || found < 0 || (whole && !Number.isSafeInteger(found))) {
      throw new RefrainError('argument', `${name}: expected a ${whole ? 'whole ' : ''}number of at least 0, found ${String(found)}`, { details: { name } });
    }
  }
}

/** A copy: what the caller does with its own meanwhile does not matter. Half characters become U+FFFD, as everywhere where text becomes bytes. */
function asRequest(prompt: Prompt): { text?: string; tokens?: number[] } {
  if (typeof prompt === 'string') return { text: new TextDecoder('utf-8', { ignoreBOM: true }).decode(new TextEncoder().encode(prompt)) };
  const isList = typeof prompt === 'object' && prompt !== null && typeof prompt.length === 'number';
  checkThat(isList && prompt.length < 1 << 24, 'prompt', 'a text or token ids', prompt);
  const tokens = Array.from(prompt);
  const bad = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= 2 ** 32);
  checkThat(bad === undefined, 'prompt', 'token ids, whole numbers of at least 0', bad);
  return { tokens };
}

function checkThat(holds: boolean, name: string, expected: string, found: unknown): void {
  if (holds) return;
  const shown = typeof found === 'object' && found !== null ? (found.constructor?.name ?? 'an object') : JSON.stringify(found) ?? String(found);
  throw new RefrainError('argument', `${name}: expected ${expected}, found ${shown}`, { details: { name } });
}

function traced(trace: GenerateOptions['trace']): unknown {
  if (!trace) return undefined;
  checkThat(trace === 'loops' || typeof trace === 'object', 'trace', "false, 'loops' or {halting, norms, experts, lens}", trace);
  if (trace === 'loops') return { halting: true, norms: true, experts: false, lens: 0 };
  const { halting = true, norms = true, experts = false, lens = 0 } = trace;
  return { halting, norms, experts, lens };
}

/** Whether a result is the right answer: word by word, spaces aside. */
function isAnswer(result: Result, expect: string): boolean {
  const words = (text: string) => text.trim().split(/\s+/).filter(Boolean);
  const wanted = words(expect);
  if (result.reason !== 'in-place') return words(result.text).join(' ') === wanted.join(' ');
  const found = result.steps.slice(-wanted.length).map((step) => step.next.text.trim());
  return found.length === wanted.length && found.every((word, i) => word === wanted[i]);
}
