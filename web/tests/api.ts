// Uses everything that the package exports: it need not run, it must compile.
import {
  cache, init, load, probe, RefrainError,
  type Choice, type Code, type Forward, type Generation, type GenerateOptions, type Info, type LoadOptions, type Lost, type Model,
  type ModelSource, type WebGpuDevice, type Probe, type Progress, type Prompt, type Result, type Step, type Sweep, type Trace,
} from 'refrain';
import { load as loadInline } from 'refrain/inline';
import { load as loadInNode } from 'refrain/node';

export async function all(file: File, blob: Blob, stream: ReadableStream<Uint8Array>, device: WebGpuDevice, signal: AbortSignal): Promise<void> {
  await init({ wasm: new URL('https://example.org/refrain_bg.wasm') });
  const found: Probe = await probe();
  const options: LoadOptions = {
    signal, cache: 'auto', backend: found.ok ? 'webgpu' : 'cpu', dtype: 'q8', contextLength: 512, maxLoops: 8, worker: false, device,
    integrity: { 'model.safetensors': 'sha256-AAAA' }, headers: { a: 'b' }, base: '/models/', powerPreference: 'high-performance',
    onProgress: (progress: Progress) => {
      const { fraction, elapsedMs }: { fraction: number; elapsedMs: number } = progress;
      if (progress.phase === 'download') console.log(progress.file, progress.fromCache, fraction, elapsedMs);
    },
  };
  const sources: ModelSource[] = ['refrain:follow', new URL('https://example.org/model/'), blob, [file], stream];
  for (const source of sources) {
    await using model: Model = await load(source, options);
    const info: Info = model.info;
    const how: GenerateOptions = {
      signal, maxTokens: 10, stop: ['.'], seed: 1, temperature: 0.8, topK: 5, topP: 0.9, minP: 0.1, loops: info.defaults.loops, minLoops: 1,
      exit: 'model', inPlace: false, echo: true, trace: { halting: true, norms: true, experts: true, lens: 5 },
    };
    const prompt: Prompt = Uint32Array.of(1, 2);
    const generation: Generation = model.generate(prompt, how);
    for await (const step of generation) {
      const { index, role, token, text, logprob, loops, exit, ms, next, debt, trace }: Step = step;
      const choice: Choice = next;
      const lists: Trace | undefined = trace;
      console.log(index, role, token, text, logprob ?? 0, loops, exit, ms, choice.text, debt, lists?.lens?.[0]?.probs[0], lists?.experts?.[0]?.ids);
    }
    const reader: ReadableStream<string> = generation.text;
    const result: Result = await generation.result;
    console.log(reader.locked, result.reason, (await generation.stop()).text);
    for await (const run of model.sweep('a', { depths: [1, 2], expect: 'b' })) {
      const { depth, correct }: Sweep = run;
      console.log(depth, correct);
    }
    const scored: Step[] = await model.score('a b');
    const forward: Forward = await model.forward([1, 2, 3], { loops: 4 });
    console.log(scored.length, forward.logits.length, forward.halted[0], await model.decode(await model.encode('a')));
    void model.lost.then((lost: Lost) => console.log(lost.reason));
    await model.dispose();
  }
  for (const { model, bytes } of await cache.list()) console.log(model, bytes, await cache.delete(model));
  await cache.clear();
  try {
    await loadInline('refrain:follow');
    await loadInNode('./folder');
  } catch (error) {
    if (RefrainError.is(error, 'file')) {
      const code: Code = error.code;
      console.log(code, error.hint, error.details);
    }
  }
}
