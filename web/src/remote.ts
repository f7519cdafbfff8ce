import { type ErrorData, RefrainError } from './errors.js';
import type { Calls, FromWorker, Load, ToWorker } from './protocol.js';
import type { Engine, Request } from './session.js';
import type { Forward, Info, Lost, Progress, Step } from './types.js';

interface Pending {
  resolve: (value: unknown) => void;
  reject: (error: unknown) => void;
  step?: (step: Step) => boolean | Promise<boolean>;
}

/** What a worker tells of its own accord. */
export interface WorkerHooks {
  onProgress?: (progress: Progress) => void;
  onLost?: (lost: Lost) => void;
}

/** An engine in a worker of its own. */
export class Remote implements Engine {
  #worker: Worker;
  #hooks: WorkerHooks;
  #pending = new Map<number, Pending>();
  #next = 0;
  info!: Info;

  private constructor(worker: Worker, hooks: WorkerHooks) {
    this.#worker = worker;
    this.#hooks = hooks;
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.#hear(data);
    worker.onerror = (event) => {
      event.preventDefault?.();
      const why = event.message ? `: ${event.message}` : '';
      const offline = (globalThis.navigator as Navigator | undefined)?.onLine === false;
      const hint = offline ? 'check whether this device is online, then try again' : 'serve worker.js and refrain_bg.wasm beside the script (your bundler may need to copy them), or use refrain/inline, or worker: false; in the development server of Vite set optimizeDeps.exclude to ["refrain"]';
      this.#fail({ code: 'file', message: `the model's Worker could not run${why}`, hint });
    };
    worker.onmessageerror = () => this.#fail({ code: 'usage', message: 'a message to or from the Worker could not be read' });
  }

  /** Loads a model in a worker. An abort ends the worker, and with it whatever it was doing. */
  static async load(worker: Worker, load: Load, signal: AbortSignal | undefined, hooks: WorkerHooks): Promise<Remote> {
    const remote = new Remote(worker, hooks);
    let abort!: () => void;
    const aborted = new Promise<never>((_, reject) => {
      abort = () => reject(signal?.reason);
      signal?.addEventListener('abort', abort, { once: true });
      if (signal?.aborted) abort();
    });
    try {
      remote.info = await Promise.race([remote.#call('load', [load], transferred(load)), aborted]);
      return remote;
    } catch (error) {
      worker.terminate();
      throw error;
    } finally {
      aborted.catch(() => {});
      signal?.removeEventListener('abort', abort);
      remote.#hooks = { ...hooks, onProgress: undefined };
    }
  }

  generate(request: Request, step: (step: Step) => boolean | Promise<boolean>, cancel: Promise<unknown>): Promise<void> {
    const call = this.#call('generate', [request], [], step);
    const id = this.#next;
    void cancel.then(() => this.#pending.has(id) && this.#send({ id, cancel: true }));
    return call;
  }

  forward(tokens: number[], request: Request): Promise<Forward> {
    return this.#call('forward', [tokens, request]);
  }

  encode(text: string): Promise<Uint32Array> {
    return this.#call('encode', [text]);
  }

  decode(tokens: number[]): Promise<string> {
    return this.#call('decode', [tokens]);
  }

  async dispose(): Promise<void> {
    try {
      await this.#call('dispose', []);
    } finally {
      this.#worker.terminate();
      this.#fail({ code: 'usage', message: 'this model was disposed of: load it again' });
    }
  }

  #call<Name extends keyof Calls>(
    call: Name,
    args: Parameters<Calls[Name]>,
    transfer: Transferable[] = [],
    step?: Pending['step'],
  ): Promise<ReturnType<Calls[Name]>> {
    this.#next += 1;
    const id = this.#next;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve: resolve as (value: unknown) => void, reject, step });
      try {
        this.#send({ id, call, args } as ToWorker, transfer);
      } catch (cause) {
        this.#pending.delete(id);
        reject(new RefrainError('argument', `what was given cannot be sent to a Worker: ${String(cause)}`, { hint: 'load with worker: false', cause }));
      }
    });
  }

  #send(message: ToWorker, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  #hear(message: FromWorker): void {
    if ('progress' in message) return this.#hooks.onProgress?.(message.progress);
    if ('lost' in message) return this.#hooks.onLost?.(message.lost);
    const pending = this.#pending.get(message.id);
    if (!pending) return;
    if ('step' in message) {
      void Promise.resolve(pending.step?.(message.step) ?? false).then((more) => this.#send({ id: message.id, more }));
      return;
    }
    this.#pending.delete(message.id);
    if ('error' in message) return pending.reject(RefrainError.from(message.error));
    // After a lost device the model may run on another.
    if (message.info) this.info = message.info;
    pending.resolve(message.value);
  }

  #fail(error: ErrorData): void {
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    pending.forEach(({ reject }) => reject(RefrainError.from(error)));
  }
}

/** A stream cannot be cloned: it moves. */
function transferred({ source }: Load): Transferable[] {
  return source instanceof ReadableStream ? [source] : [];
}
