import { RefrainError } from './errors.js';
import type { WebGpu, WebGpuDevice } from './types.js';

/** The WebGPU that an engine is to take, and the device that it took. */
export interface GpuChoice {
  gpu?: WebGpu;
  device?: WebGpuDevice;
  powerPreference?: 'low-power' | 'high-performance';
  onDevice?: (device: WebGpuDevice, own: boolean) => void;
}

/** What the engine sees as `navigator.gpu`: it hands out the chosen device, and tells which it was. */
function shim(choice: GpuChoice, found: () => void): object | undefined {
  const { device, powerPreference, onDevice } = choice;
  if (device) {
    const adapter = {
      features: device.features,
      limits: device.limits,
      info: (device as GPUDevice).adapterInfo ?? {},
      isFallbackAdapter: false,
      requestDevice: async () => {
        onDevice?.(device, false);
        return device;
      },
    };
    return {
      requestAdapter: async () => {
        found();
        return adapter;
      },
    };
  }
  const gpu = (choice.gpu as GPU | undefined) ?? (globalThis.navigator as Navigator | undefined)?.gpu;
  if (!gpu) return undefined;
  return {
    wgslLanguageFeatures: gpu.wgslLanguageFeatures,
    getPreferredCanvasFormat: () => gpu.getPreferredCanvasFormat(),
    requestAdapter: async (options: GPURequestAdapterOptions) => {
      found();
      const adapter = await gpu.requestAdapter(powerPreference ? { ...options, powerPreference } : options);
      if (!adapter) return null;
      const request = adapter.requestDevice.bind(adapter);
      Object.defineProperty(adapter, 'requestDevice', {
        value: async (descriptor: GPUDeviceDescriptor) => {
          const made = await request(descriptor);
          onDevice?.(made, true);
          return made;
        },
      });
      return adapter;
    },
  };
}

/** Only one engine at a time looks for its device. */
let turn: Promise<unknown> = Promise.resolve();

/**
 * Runs `open` with the chosen WebGPU as the global `navigator.gpu`: wgpu looks for it there and nowhere else. Outside of pages and workers
 * (Node) it also wants to see a global of theirs. All is as before once it has found it, so that nobody else does.
 */
export function withGpu<T>(choice: GpuChoice, open: () => Promise<T>): Promise<T> {
  const run = async () => {
    const undo: (() => void)[] = [];
    const restore = () => undo.splice(0).reverse().forEach((step) => step());
    const gpu = shim(choice, restore);
    const define = (object: object, name: string, value: unknown) => {
      const before = Object.getOwnPropertyDescriptor(object, name);
      Object.defineProperty(object, name, { configurable: true, value });
      undo.push(() => (before ? Object.defineProperty(object, name, before) : Reflect.deleteProperty(object, name)));
    };
    try {
      if (typeof Window === 'undefined' && typeof WorkerGlobalScope === 'undefined') define(globalThis, 'WorkerGlobalScope', class {});
      if (typeof navigator === 'undefined') define(globalThis, 'navigator', { gpu });
      else define(navigator, 'gpu', gpu);
      return await open();
    } finally {
      restore();
    }
  };
  const mine = turn.then(run, run);
  turn = mine.catch(() => {});
  return mine;
}

/** What the browser tells of an adapter, for people. */
export function adapterName(info: { vendor?: string; architecture?: string; device?: string; description?: string } | undefined): string {
  const { vendor, architecture, device, description } = info ?? {};
  return description || [vendor, architecture, device].filter(Boolean).join(' ') || 'unknown';
}

/** What `probe` found. */
export interface Probe {
  /** Whether models can run on WebGPU here. Without it they run on the CPU. */
  ok: boolean;
  /** Whether that WebGPU is simulated on the CPU. `backend: 'auto'` then takes the CPU itself, which is faster. */
  simulated: boolean;
  reason?: string;
  hint?: string;
  adapter?: string;
  f16: boolean;
  maxBindingBytes: number;
  /** Bytes that the browser has to spare for files; of OPFS. */
  storage?: { quota: number; usage: number };
}

/** Longest wait for a browser to say what it has, in milliseconds. */
const LONGEST_LOOK = 5000;

/** Older browsers say it of the adapter, newer ones of its info. */
function isFallback(adapter: GPUAdapter): boolean {
  type Told = { isFallbackAdapter?: boolean };
  return (adapter.info as Told).isFallbackAdapter ?? (adapter as Told).isFallbackAdapter ?? false;
}

/** Says what there is, before anything is downloaded. */
export async function probe(webGpu?: WebGpu): Promise<Probe> {
  const gpu = (webGpu as GPU | undefined) ?? (globalThis.navigator as Navigator | undefined)?.gpu;
  const none = (reason: string, hint: string): Probe => ({ ok: false, simulated: false, reason, hint, f16: false, maxBindingBytes: 0 });
  const look = async (): Promise<Probe> => {
    if (typeof isSecureContext !== 'undefined' && !isSecureContext) {
      return none('this page was not loaded over https or from localhost', 'serve it over https: browsers hide WebGPU elsewhere');
    }
    if (!gpu) return none('this browser has no WebGPU', 'update it, or go on with the CPU: the same models run there, slower');
    let adapter: GPUAdapter | null | 'late';
    try {
      const late = new Promise<'late'>((resolve) => setTimeout(resolve, LONGEST_LOOK, 'late'));
      adapter = await Promise.race([gpu.requestAdapter({ powerPreference: 'high-performance' }), late]);
    } catch (error) {
      return none(`the browser refused one: ${error instanceof Error ? error.message : String(error)}`, 'go on with the CPU');
    }
    if (adapter === 'late') return none(`the browser did not answer within ${LONGEST_LOOK / 1000} seconds`, 'go on with the CPU, or restart the browser');
    if (!adapter) return none('the browser found no GPU that it trusts', 'update the graphics driver, or go on with the CPU');
    return {
      ok: true,
      simulated: isFallback(adapter),
      adapter: adapterName(adapter.info),
      f16: adapter.features.has('shader-f16'),
      maxBindingBytes: Math.min(adapter.limits.maxStorageBufferBindingSize, adapter.limits.maxBufferSize),
    };
  };
  const found = await look();
  const estimate = await globalThis.navigator?.storage?.estimate?.().catch(() => undefined);
  if (estimate?.quota !== undefined) found.storage = { quota: estimate.quota, usage: estimate.usage ?? 0 };
  return found;
}

/** Refuses what is no WebGPU, before wgpu stumbles over it. */
export function checkGpu({ gpu, device }: { gpu?: unknown; device?: unknown }): void {
  const has = (object: unknown, name: string) => typeof (object as Record<string, unknown> | null)?.[name] === 'function';
  if (gpu !== undefined && !has(gpu, 'requestAdapter')) throw new RefrainError('argument', `gpu: expected a GPU, found ${String(gpu)}`);
  if (device !== undefined && !['createBuffer', 'createShaderModule', 'destroy'].every((name) => has(device, name))) {
    throw new RefrainError('argument', `device: expected a GPUDevice, found ${String(device)}`);
  }
}

/** Refuses what only works without a worker. */
export function checkInline(options: { fetch?: unknown; gpu?: unknown; device?: unknown }): void {
  const found = (['fetch', 'gpu', 'device'] as const).find((name) => options[name] !== undefined);
  if (found) {
    throw new RefrainError('argument', `${found}: expected worker: false beside it, found a model in a Worker`, {
      hint: `what is given as ${found} cannot be sent to a Worker: load with worker: false, inside a Worker of your own if pages must not wait`,
    });
  }
}
