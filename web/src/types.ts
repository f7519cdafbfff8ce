/** What went on while a model was loaded. `fraction` never falls. */
export type Progress = { fraction: number; loaded: number; total: number; elapsedMs: number } & (
  | { phase: 'download' | 'verify'; file: string; fromCache: boolean }
  | { phase: 'upload' | 'compile' | 'ready' }
);

/** Where a model runs: `auto` takes a hardware GPU, else the CPU; `webgpu` takes what WebGPU has, software included. */
export type Backend = 'auto' | 'webgpu' | 'cpu';

/** How weight matrices are stored on the device. Default: as in the files. */
export type Dtype = 'f32' | 'f16' | 'q8' | 'q4';

/** How to load a model. */
export interface LoadOptions {
  /** Ends the load, whatever it is doing. What was downloaded is kept, and the next load goes on from there. */
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
  /** Whether the model runs in a Worker of its own. Default: in pages, yes. */
  worker?: boolean;
  /** Where downloads are kept: `auto` in OPFS where there is one, else in memory; `opfs` only there; `none` nowhere. */
  cache?: 'auto' | 'opfs' | 'none';
  /** SHA-256 of files, by name: 64 hexadecimal digits, or `sha256-` and base64. */
  integrity?: Record<string, string>;
  /** Fetches instead of the global one. Needs `worker: false`. */
  fetch?: typeof globalThis.fetch;
  /** Headers of every request for the model. */
  headers?: HeadersInit;
  /** What `refrain:NAME` is relative to. Default: the package's folder `models/`. */
  base?: string | URL;
  /** The address of the Hub that `hf:owner/repo` is on. */
  hub?: string | URL;
  powerPreference?: 'low-power' | 'high-performance';
  backend?: Backend;
  dtype?: Dtype;
  /** Positions of the cache. Default: the model's `max_seq_len`, at most 4096. */
  contextLength?: number;
  /** The most loops that will be asked for: the cache has a slot for each. Default: as the model's folder says. */
  maxLoops?: number;
  /** A WebGPU implementation, where it is not `navigator.gpu`. Needs `worker: false`. */
  gpu?: WebGpu;
  /** A device of one's own, which stays one's own: only the model's buffers are destroyed. Needs `worker: false`. */
  device?: WebGpuDevice;
}

/** A `GPU`, as far as it is used here: what is declared needs no declarations of WebGPU. */
export interface WebGpu {
  requestAdapter(options?: object): Promise<object | null>;
}

/** A `GPUDevice`, likewise. */
export interface WebGpuDevice {
  readonly lost: Promise<{ readonly reason?: string; readonly message: string }>;
  readonly features: object;
  readonly limits: object;
  destroy(): void;
}

/** Facts of a loaded model. */
export interface Info {
  name: string;
  /** The device, for people. */
  device: string;
  backend: 'webgpu' | 'cpu';
  /** Why not on a GPU, where that was wanted. */
  backendNote?: string;
  /** Where the weights' files lie. */
  storage: 'opfs' | 'memory' | 'disk';
  /** Why not in OPFS, where that was wanted. */
  storageNote?: string;
  /** Whether nothing was fetched. */
  fromCache: boolean;
  parameters: number;
  activeParameters: number;
  vocabSize: number;
  dim: number;
  experts: number;
  expertsPerToken: number;
  /** Σ p at which a token halts. */
  haltingThreshold: number;
  /** `max_loop_iters` of the model. */
  trainedLoops: number;
  /** The most loops that can be asked for. */
  maxLoops: number;
  contextLength: number;
  /** Largest A of the loop: below 1 it is stable. */
  spectralRadius: number;
  /** Whether the model answers at the prompt's own tokens. */
  inPlace: boolean;
  defaults: { loops: number; minLoops: number; exit: 'model' | 'fixed' };
  /** Tokens that end an output. */
  endTokens: number[];
  hasTokenizer: boolean;
  /** Bytes on the device. */
  bytes: { total: number; matrices: Record<string, number>; tables: number; cache: number; states: number; work: number };
  /** What was skipped or is worth knowing about the files. */
  notes: string[];
}

/** How deep to think. */
export interface Depth {
  /** The most loops of a token. */
  loops?: number;
  /** Loops before which no token halts. */
  minLoops?: number;
  /** `model`: when the model says so; `fixed`: exactly `loops` of them. */
  exit?: 'model' | 'fixed';
}

/** How to generate. What is missing is as the model's folder says. */
export interface GenerateOptions extends Depth {
  signal?: AbortSignal;
  /** Tokens to generate at most. */
  maxTokens?: number;
  /** Texts that end the output; they are not part of it. */
  stop?: string | string[];
  seed?: number;
  /** 0, the default, is greedy. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  /** Whether to answer at the prompt's tokens (the shipped models' way) instead of continuing it. Default: as the model's folder says, but not where `maxTokens` is given. */
  inPlace?: boolean;
  /** What to take down of every loop; it makes each pass slow. `'loops'` is halting, weights and norms. */
  trace?: false | 'loops' | { halting?: boolean; norms?: boolean; experts?: boolean; lens?: number };
  /** Whether to give a step for every prompt token too, with its log-probability. */
  echo?: boolean;
}

/** A token with its text and log-probability (natural). */
export interface Choice {
  token: number;
  text: string;
  logprob: number;
}

/** What happened in each loop of a token; every list has an entry a loop. */
export interface Trace {
  loops: number;
  /** p of halting. */
  haltProbabilities?: number[];
  /** Share of each loop's state in the output. */
  weights?: number[];
  /** ‖h′ − h‖ / ‖h‖. */
  deltaNorm?: number[];
  experts?: { ids: number[]; gates: number[] }[];
  /** What coda and head make of the state after each loop. */
  lens?: { k: number; ids: number[]; probs: number[] }[];
}

/** One position of a generation. */
export interface Step {
  /** Counted from 0 over prompt and output. */
  index: number;
  role: 'prompt' | 'output';
  token: number;
  /** The text that this token completes: '' while a character is incomplete, or may begin a stop text. */
  text: string;
  /** log p of this token; null for the first, and for the prompt's without `echo`. */
  logprob: number | null;
  loops: number;
  /** `halted`: the model stopped; `max`: the loops ran out; `fixed`: so many were asked for. */
  exit: 'halted' | 'max' | 'fixed';
  /** Time since the step before; a prompt's steps come together and share theirs. */
  ms: number;
  /** The prediction made at this position. */
  next: Choice;
  /** Of the last step: what ended the generation. */
  finish?: 'end' | 'stop' | 'length' | 'in-place';
  /** Rows, each an older token at a loop, that a token which went to the cap now would take along. */
  debt: number;
  /** With a trace: how many positions, from the first on, have run loop 1, 2, …: the staircase of the cache. */
  reached?: number[];
  trace?: Trace;
}

/** The end of a generation. */
export interface Result {
  /** The output; where the model answers in place, its prediction at the last token. */
  text: string;
  /** Output tokens. */
  tokens: number[];
  steps: Step[];
  /** `end`: an end token; `stop`: a stop text; `length`: no more tokens were to come; `stopped`: break or stop(); `in-place`: every token of the prompt has its answer. */
  reason: 'end' | 'stop' | 'length' | 'stopped' | 'in-place';
  /** Loops of all steps. */
  loops: number;
  ms: number;
}

/** Every logit of one pass. */
export interface Forward {
  /** (tokens, vocabSize), row by row. */
  logits: Float32Array;
  /** Loops of each token. */
  loops: Uint32Array;
  /** Whether the model stopped it. */
  halted: boolean[];
}

/** What became of the device. */
export interface Lost {
  reason: string;
  message: string;
}
