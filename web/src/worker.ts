/// <reference lib="webworker" />
import { RefrainError } from './errors.js';
import { loadHere } from './local.js';
import type { FromWorker, ToWorker } from './protocol.js';
import type { Session } from './session.js';

/** One model in a worker of its own. */
const scope = globalThis as unknown as DedicatedWorkerGlobalScope;
const send = (message: FromWorker, transfer: Transferable[] = []) => scope.postMessage(message, transfer);

let session: Session | undefined;
/** What runs, by the number of its call: how to end it, and who waits to hear whether another step is wanted. */
const running = new Map<number, { cancel: () => void; more?: (more: boolean) => void }>();

async function run(message: Extract<ToWorker, { call: string }>): Promise<void> {
  const { id } = message;
  if (message.call === 'load') {
    const { engine, powerPreference, ...load } = message.args[0];
    session = await loadHere({
      ...load,
      engine,
      gpu: { powerPreference },
      onProgress: (progress) => send({ progress }),
      onLost: (lost) => send({ lost }),
    });
    return send({ id, value: session.info });
  }
  if (!session) throw new RefrainError('usage', 'no model was loaded');
  switch (message.call) {
    case 'generate': {
      const state: { cancel: () => void; more?: (more: boolean) => void } = { cancel: () => {} };
      const cancel = new Promise<void>((resolve) => (state.cancel = resolve));
      running.set(id, state);
      try {
        await session.generate(
          message.args[0],
          (step) => {
            send({ id, step });
            return new Promise<boolean>((resolve) => (state.more = resolve));
          },
          cancel,
        );
      } finally {
        running.delete(id);
      }
      return send({ id, value: undefined, info: session.info });
    }
    case 'forward': {
      const value = await session.forward(...message.args);
      return send({ id, value }, [value.logits.buffer, value.loops.buffer]);
    }
    case 'encode':
      return send({ id, value: await session.encode(...message.args) });
    case 'decode':
      return send({ id, value: await session.decode(...message.args) });
    case 'dispose':
      await session.dispose();
      return send({ id, value: undefined });
  }
}

scope.onmessage = ({ data }: MessageEvent<ToWorker>) => {
  if ('call' in data) void run(data).catch((error: unknown) => send({ id: data.id, error: RefrainError.data(error) }));
  else if ('cancel' in data) running.get(data.id)?.cancel();
  else running.get(data.id)?.more?.(data.more);
};
