import { RefrainError } from './errors.js';
import { type Files } from './files/files.js';
import { adapterName, type GpuChoice, withGpu } from './gpu.js';
import type { Backend, Dtype, Forward, Info, Lost, Step, Trace, WebGpuDevice } from './types.js';
import { engine, fromWasm } from './wasm.js';

/** How an engine is opened, as it also crosses to a worker. */
export interface EngineOptions {
  backend?: Backend;
  dtype?: Dtype;
  contextLength?: number;
  maxLoops?: number;
}

/** A generation as the engine takes it. */
export interface Request {
  text?: string;
  tokens?: number[];
  [option: string]: unknown;
}

/** What a model needs of its engine, wherever that runs. */
export interface Engine {
  readonly info: Info;
  generate(request: Request, step: (step: Step) => boolean | Promise<boolean>, cancel: Promise<unknown>): Promise<void>;
  forward(tokens: number[], request: Request): Promise<Forward>;
  encode(text: string): Promise<Uint32Array>;
  decode(tokens: number[]): Promise<string>;
  dispose(): Promise<void>;
}

/** What an engine tells of its own accord. */
export interface EngineHooks {
  onProgress?: (phase: 'upload' | 'compile', loaded: number, total: number) => void;
  onLost?: (lost: Lost) => void;
}

/** Waits until the event loop went round: messages, timers and clicks come first. */
const rest: () => Promise<void> = (() => {
  const immediate = (globalThis as { setImmediate?: (run: () => void) => void }).setImmediate;
  if (immediate) return () => new Promise<void>((resolve) => immediate(resolve));
  return () =>
    new Promise<void>((resolve) => {
      // A timer would wait for 4 ms.
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(null);
    });
})();

/** The engine in this very thread, which opens its model again where the device is lost. */
export class Session implements Engine {
  #files: Files;
  #options: EngineOptions;
  #gpu: GpuChoice;
  #hooks: EngineHooks;
  #model: engine.LoadedModel | undefined;
  #device: WebGpuDevice | undefined;
  #ownDevice = false;
  /** Kept when the device of the last opening is lost. */
  #gone: Promise<unknown> = new Promise(() => {});
  #disposed = false;
  info!: Info;

  private constructor(files: Files, options: EngineOptions, gpu: GpuChoice, hooks: EngineHooks) {
    this.#files = files;
    this.#options = options;
    this.#gpu = gpu;
    this.#hooks = hooks;
  }

  /** Loads the model of these files. The WebAssembly must have been started. */
  static async open(files: Files, options: EngineOptions, gpu: GpuChoice, hooks: EngineHooks): Promise<Session> {
    const session = new Session(files, options, gpu, hooks);
    await session.#open();
    return session;
  }

  async #open(): Promise<void> {
    const { backend, dtype, contextLength, maxLoops } = this.#options;
    const choice: GpuChoice = {
      ...this.#gpu,
      onDevice: (device, own) => {
        [this.#device, this.#ownDevice] = [device, own];
        this.#gone = device.lost.then((lost) => this.#lose(device, lost));
      },
    };
    const wanted = this.#gpu.device && backend !== 'cpu' ? 'webgpu' : (backend ?? 'auto');
    const options = JSON.stringify({ backend: wanted, dtype, contextLength, maxLoops });
    const report = (loaded: number, total: number) => this.#hooks.onProgress?.('upload', loaded, total);
    try {
      const open = () => engine.LoadedModel.open(this.#files.name, this.#files, options, report, rest);
      this.#model = await (wanted === 'cpu' ? open() : withGpu(choice, open));
      const info = JSON.parse(this.#model.info()) as Info;
      const { storage, note: storageNote, fromCache } = this.#files;
      const backendNote = info.backend === 'cpu' && wanted === 'auto' ? 'no hardware GPU to be had: the model runs on the CPU' : undefined;
      // Browsers tell the engine less than the page.
      const device = info.backend === 'webgpu' ? `${adapterName((this.#device as GPUDevice | undefined)?.adapterInfo)} (WebGPU)` : info.device;
      this.info = frozen({ ...info, device, storage, storageNote, fromCache, backendNote });
      if (info.backend === 'webgpu') await this.#warmUp();
    } catch (error) {
      const lost = await this.#isLoss(error);
      this.#close();
      throw lost ? lostError(error) : fromWasm(error);
    }
  }

  /** Whether an error came of a lost device. The engine may notice before the device's own promise tells, which waits for what the GPU is at. */
  async #isLoss(thrown: unknown): Promise<boolean> {
    const error = fromWasm(thrown);
    if (RefrainError.is(error, 'device_lost')) return true;
    if (!RefrainError.is(error, 'gpu')) return false;
    const late = new Promise<false>((resolve) => setTimeout(resolve, 5000, false));
    return Promise.race([this.#gone.then(() => true), late]);
  }

  /** Compiles what prompts and single tokens need, so that the first answer does not wait for it. */
  async #warmUp(): Promise<void> {
    const positions = Math.min(8, this.info.contextLength);
    for (const [i, tokens] of [new Uint32Array(1), new Uint32Array(positions)].entries()) {
      this.#hooks.onProgress?.('compile', i, 2);
      (await this.#model?.forward(tokens, JSON.stringify({ loops: 1 })))?.free();
    }
  }

  #lose(device: WebGpuDevice, { reason, message }: { reason?: string; message: string }): void {
    // A device that was given back is no loss.
    if (this.#disposed || device !== this.#device) return;
    this.#device = undefined;
    this.#hooks.onLost?.({ reason: reason ?? 'unknown', message });
  }

  #close(): void {
    const device = this.#device;
    this.#device = undefined;
    try {
      this.#model?.free();
    } finally {
      this.#model = undefined;
      if (this.#ownDevice) device?.destroy();
    }
  }

  /** The model, opened anew if its device is gone. A device of the caller's own cannot be had again. */
  async #ready(): Promise<engine.LoadedModel> {
    if (this.#disposed) throw new RefrainError('usage', 'this model was disposed of: load it again');
    const lost = this.info.backend === 'webgpu' && this.#device === undefined;
    if (lost && this.#gpu.device) {
      throw lostError();
    }
    if (lost || this.#model === undefined) {
      this.#close();
      await this.#reopen();
    }
    if (this.#model === undefined) throw new RefrainError('usage', 'this model was disposed of: load it again');
    return this.#model;
  }

  /** After a loss the adapter itself may be away for a while. */
  async #reopen(): Promise<void> {
    for (let wait = 100; ; wait *= 2) {
      try {
        return await this.#open();
      } catch (error) {
        if (wait > 2000 || this.#disposed || !RefrainError.is(error, 'no_adapter')) throw error;
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }

  /** Runs `work`, and again on a new device where the one that it had is lost: `progress` says how far it came, and it must come further. */
  async #onModel<T>(work: (model: engine.LoadedModel) => T | Promise<T>, progress: () => number, goOn: () => boolean): Promise<T> {
    let barren = 0;
    for (;;) {
      const begun = progress();
      try {
        return await work(await this.#ready());
      } catch (thrown) {
        const error = fromWasm(thrown);
        const lost = await this.#isLoss(thrown);
        // A device that is lost again before it got any further will be lost for ever.
        barren = progress() > begun ? 0 : barren + 1;
        if (lost) this.#device = undefined;
        if (!lost || this.#gpu.device || this.#disposed || !goOn() || barren > 1) throw lost ? lostError(error) : error;
      }
    }
  }

  async generate(request: Request, step: (step: Step) => boolean | Promise<boolean>, cancel: Promise<unknown>): Promise<void> {
    const json = JSON.stringify(request);
    let cancelled = false;
    void cancel.then(() => (cancelled = true));
    // What was lost with a device is computed again, with the same seed, and not told again.
    let told = 0;
    const run = (model: engine.LoadedModel) => {
      let passed = 0;
      const tell = async (text: string) => {
        passed += 1;
        if (passed <= told) return true;
        told = passed;
        return step(readStep(text, request));
      };
      return model.generate(json, tell, cancel);
    };
    await this.#onModel(run, () => told, () => !cancelled);
  }

  async forward(tokens: number[], request: Request): Promise<Forward> {
    const json = JSON.stringify(request);
    const run = async (model: engine.LoadedModel) => {
      const output = await model.forward(Uint32Array.from(tokens), json);
      const { logits, loops, halted } = output;
      output.free();
      return { logits, loops, halted: Array.from(halted, (one) => one === 1) };
    };
    return this.#onModel(run, () => 0, () => true);
  }

  async encode(text: string): Promise<Uint32Array> {
    return this.#onModel((model) => model.encode(text), () => 0, () => true);
  }

  async decode(tokens: number[]): Promise<string> {
    return this.#onModel((model) => model.decode(Uint32Array.from(tokens)), () => 0, () => true);
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#close();
    this.#files.close();
  }
}

function lostError(cause?: unknown): RefrainError {
  return new RefrainError('device_lost', 'the GPU device was lost', { hint: 'try again, or load the model on another device', cause });
}

/** Facts are facts: nobody changes them for others. */
function frozen<T extends object>(facts: T): T {
  for (const value of Object.values(facts)) if (typeof value === 'object' && value !== null) frozen(value);
  return Object.freeze(facts);
}

/** A step as the engine tells it, with as much of the trace as was asked for. */
function readStep(text: string, request: Request): Step {
  const { trace, reached, finish, ...rest } = JSON.parse(text) as Omit<Step, 'trace'> & { trace: RawTrace | null };
  const step = finish ? { ...rest, finish } : rest;
  if (!trace) return step;
  const wanted = request.trace as { halting: boolean; norms: boolean; experts: boolean; lens: number };
  const kept: Trace = { loops: trace.haltProbabilities.length };
  if (wanted.halting) Object.assign(kept, { haltProbabilities: trace.haltProbabilities, weights: trace.weights });
  if (wanted.norms) kept.deltaNorm = trace.deltaNorm;
  if (wanted.experts) kept.experts = trace.experts;
  if (wanted.lens) kept.lens = trace.lens.map(({ ids, probabilities }) => ({ k: ids.length, ids, probs: probabilities }));
  return { ...step, reached, trace: kept };
}

interface RawTrace {
  haltProbabilities: number[];
  weights: number[];
  deltaNorm: number[];
  experts: { ids: number[]; gates: number[] }[];
  lens: { ids: number[]; probabilities: number[] }[];
}
