import { RefrainError } from './errors.js';
import { type Files } from './files/files.js';
import { type GpuChoice, withGpu } from './gpu.js';
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
        void device.lost.then((lost) => this.#lose(device, lost));
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
      this.info = { ...info, storage, storageNote, fromCache };
      if (info.backend === 'webgpu') await this.#warmUp();
      else if (wanted === 'auto') this.info.backendNote = 'no hardware GPU to be had: the model runs on the CPU';
    } catch (error) {
      this.#close();
      throw fromWasm(error);
    }
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
      throw new RefrainError('device_lost', 'the GPU device was lost', { hint: 'load the model on another device' });
    }
    if (lost || this.#model === undefined) {
      this.#close();
      await this.#open();
    }
    if (this.#model === undefined) throw new RefrainError('usage', 'this model was disposed of: load it again');
    return this.#model;
  }

  async generate(request: Request, step: (step: Step) => boolean | Promise<boolean>, cancel: Promise<unknown>): Promise<void> {
    const json = JSON.stringify(request);
    let cancelled = false;
    void cancel.then(() => (cancelled = true));
    // What was lost with a device is computed again, with the same seed, and not told again.
    let told = 0;
    let barren = 0;
    for (;;) {
      const begun = told;
      let passed = 0;
      try {
        const model = await this.#ready();
        const tell = async (text: string) => {
          passed += 1;
          if (passed <= told) return true;
          told = passed;
          return step(readStep(text, request));
        };
        return await model.generate(json, tell, cancel);
      } catch (thrown) {
        const error = fromWasm(thrown);
        // The engine may notice before the device's own promise tells.
        if (RefrainError.is(error, 'device_lost')) this.#device = undefined;
        else if (RefrainError.is(error, 'gpu')) await rest();
        const gone = this.info.backend === 'webgpu' && this.#device === undefined;
        // A device that is lost again before it got any further will be lost for ever.
        barren = told > begun ? 0 : barren + 1;
        if (!gone || this.#gpu.device || this.#disposed || cancelled || barren > 1) throw error;
      }
    }
  }

  async forward(tokens: number[], request: Request): Promise<Forward> {
    const model = await this.#ready();
    try {
      const output = await model.forward(Uint32Array.from(tokens), JSON.stringify(request));
      const { logits, loops, halted } = output;
      output.free();
      return { logits, loops, halted: Array.from(halted, (one) => one === 1) };
    } catch (error) {
      throw fromWasm(error);
    }
  }

  async encode(text: string): Promise<Uint32Array> {
    const model = await this.#ready();
    try {
      return model.encode(text);
    } catch (error) {
      throw fromWasm(error);
    }
  }

  async decode(tokens: number[]): Promise<string> {
    const model = await this.#ready();
    try {
      return model.decode(Uint32Array.from(tokens));
    } catch (error) {
      throw fromWasm(error);
    }
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#close();
    this.#files.close();
  }
}

/** A step as the engine tells it, with as much of the trace as was asked for. */
function readStep(text: string, request: Request): Step {
  const { trace, reached, ...step } = JSON.parse(text) as Omit<Step, 'trace'> & { trace: RawTrace | null };
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
