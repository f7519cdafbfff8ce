import type { Result, Step } from './types.js';

/** Runs a generation: hands over steps until told to stop, or until `cancel` is kept. */
export type Run = (step: (step: Step) => Promise<boolean>, cancel: Promise<unknown>) => Promise<void>;

/** How a generation was asked for, as far as its end depends on it. */
export interface Terms {
  inPlace: boolean;
  maxTokens: number | undefined;
  signal: AbortSignal | undefined;
}

/**
 * The steps of one generation. They come as they are asked for: by iterating, by reading `text`, by awaiting `result`, or by several of
 * these, each of which sees all steps. Leaving a loop by `break` ends the generation; so do `stop()` and the signal, within one pass.
 */
export class Generation implements AsyncIterable<Step> {
  #terms: Terms;
  #steps: Step[] = [];
  /** Steps that somebody wants so far. */
  #wanted = 0;
  #ended = false;
  #failure: { error: unknown } | undefined;
  #stopped = false;
  /** Called, and forgotten, whenever something above changes. */
  #waiting: (() => void)[] = [];
  #cancel!: () => void;
  #end: Promise<void>;
  #begun = performance.now();
  #ms = 0;
  #result: Promise<Result> | undefined;
  #text: ReadableStream<string> | undefined;

  /** @internal */
  constructor(run: Run, terms: Terms) {
    this.#terms = terms;
    const cancelled = new Promise<void>((resolve) => (this.#cancel = resolve));
    const abort = () => this.#fail(terms.signal?.reason);
    terms.signal?.addEventListener('abort', abort, { once: true });
    const step = async (step: Step) => {
      if (this.#failure || this.#stopped) return false;
      this.#steps.push(step);
      this.#change();
      while (this.#wanted <= this.#steps.length && !this.#failure && !this.#stopped) await this.#changed();
      return !this.#failure && !this.#stopped;
    };
    if (terms.signal?.aborted) abort();
    this.#end = (this.#failure ? Promise.resolve() : run(step, cancelled))
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        terms.signal?.removeEventListener('abort', abort);
        this.#ended = true;
        this.#ms = performance.now() - this.#begun;
        this.#change();
      });
  }

  /** @internal The engine is free again once this is kept. It never fails. */
  get ended(): Promise<void> {
    return this.#end;
  }

  /** @internal Somebody else waits for the engine: run to the end, whether or not anybody reads. */
  hurry(): void {
    this.#want(Infinity);
  }

  /** What came of it, at its end. */
  get result(): Promise<Result> {
    this.#result ??= (async () => {
      this.#want(Infinity);
      await this.#end;
      if (this.#failure) throw this.#failure.error;
      return this.#summary();
    })();
    return this.#result;
  }

  /** The output's text, piece by piece; where the model answers in place, its last prediction. */
  get text(): ReadableStream<string> {
    this.#text ??= this.#stream(this[Symbol.asyncIterator]());
    return this.#text;
  }

  /** Ends the generation within one pass; what there is so far is its result. */
  stop(): Promise<Result> {
    this.#halt();
    return this.result;
  }

  /** Written by hand: the return() of an async generator function waits for a next() that is still on its way. */
  [Symbol.asyncIterator](): AsyncIterator<Step, undefined> {
    let at = 0;
    let left = false;
    const done = { done: true, value: undefined } as const;
    return {
      next: async () => {
        const mine = at;
        at += 1;
        this.#want(mine + 1);
        for (;;) {
          const step = this.#steps[mine];
          if (left) return done;
          if (step && !this.#aborted()) return { done: false, value: step };
          if (this.#failure && !left) {
            left = true;
            throw this.#failure.error;
          }
          if (this.#ended) return done;
          await this.#changed();
        }
      },
      return: async () => {
        left = true;
        this.#halt();
        return done;
      },
    };
  }

  #stream(steps: AsyncIterator<Step, undefined>): ReadableStream<string> {
    const pull = async (controller: ReadableStreamDefaultController<string>) => {
      for (;;) {
        const { done, value } = await steps.next();
        if (done) return controller.close();
        const answer = value.finish === 'in-place' ? value.next.text : '';
        const text = value.role === 'output' ? value.text : answer;
        if (text !== '') return controller.enqueue(text);
      }
    };
    return new ReadableStream({ pull, cancel: () => void steps.return?.() }, { highWaterMark: 0 });
  }

  /** An abort is heard at once, before steps that are there already. */
  #aborted(): boolean {
    return this.#failure !== undefined && this.#terms.signal?.aborted === true;
  }

  #want(steps: number): void {
    if (steps <= this.#wanted) return;
    this.#wanted = steps;
    this.#change();
  }

  #halt(): void {
    if (this.#ended) return;
    this.#stopped = true;
    this.#cancel();
    this.#change();
  }

  #fail(error: unknown): void {
    if (this.#ended || this.#failure) return;
    this.#failure = { error };
    this.#cancel();
    this.#change();
  }

  #change(): void {
    this.#waiting.splice(0).forEach((wake) => wake());
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #summary(): Result {
    const { inPlace, maxTokens } = this.#terms;
    const outputs = this.#steps.filter((step) => step.role === 'output');
    const last = this.#steps.at(-1);
    // Where the first token would end the output there is no step to tell it.
    const finish = last?.finish ?? (this.#stopped ? 'stopped' : maxTokens === 0 ? 'length' : 'end');
    return {
      text: inPlace ? (last?.next.text ?? '') : outputs.map((step) => step.text).join(''),
      tokens: outputs.map((step) => step.token),
      steps: this.#steps,
      reason: finish,
      loops: this.#steps.reduce((sum, step) => sum + step.loops, 0),
      ms: this.#ms,
    };
  }
}
