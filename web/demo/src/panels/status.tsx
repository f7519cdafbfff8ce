import type { State } from '../state';
import { store } from '../state';
import { cancelLoad, ensureModel, forgetCached, unload } from '../engine';
import { megabytes, millions } from '../format';
import { TASKS, taskOf } from '../tasks';
import { Failure, Panel } from './panel';
import { OwnModel } from './own';

/** The engine itself, fetched with the first model. */
const ENGINE_BYTES = 2_810_000;

export function chooseModel(source: string): void {
  if (source === store.get().source) return;
  cancelLoad();
  void unload();
  const prompt = taskOf(source)?.presets[0]?.prompt;
  store.set({ source, loadProblem: undefined, notice: '', at: undefined, maxTokens: 0, ...(prompt ? { prompt } : {}) });
}

export function Status({ state }: { state: State }) {
  const { info, progress, loadProblem, source, cached } = state;
  const task = taskOf(source);
  const isCached = cached.includes(source);
  return (
    <Panel id="model" title="Model">
      <div class="models" role="radiogroup" aria-label="Model">
        {TASKS.map(({ model, title, bytes }) => (
          <label key={model}>
            <input type="radio" name="model" checked={model === source} onChange={() => chooseModel(model)} />
            <span>
              <b>{title}</b>
              <small>{cached.includes(model) ? 'kept here' : megabytes(bytes)}</small>
            </span>
          </label>
        ))}
        <label>
          <input type="radio" name="model" checked={!task} onChange={() => chooseModel('files')} />
          <span>
            <b>yours</b>
            <small>folder or hf:</small>
          </span>
        </label>
      </div>
      {task ? <p class="what">{task.what}</p> : <OwnModel state={state} />}
      <div class="load">
        {progress ? (
          <Loading progress={progress} />
        ) : info ? (
          <Ready state={state} />
        ) : (
          <button class="wide" onClick={() => void ensureModel()} disabled={source === 'files' && state.files.length === 0}>
            {isCached ? `Open ${task?.title ?? source} (kept here, no download)` : task ? `Load ${task.title} · ${megabytes(task.bytes)}` : 'Load it'}
          </button>
        )}
      </div>
      {!info && !progress && task && !isCached && (
        <p class="note">Nothing is fetched before you ask. The first model brings the engine along: {megabytes(ENGINE_BYTES)} more, packed smaller where the host does so.</p>
      )}
      {loadProblem && <Failure {...loadProblem} />}
      <Device state={state} />
      {info && isCached && (
        <button class="quiet" onClick={() => void forgetCached(source)}>
          Delete the copy kept in this browser
        </button>
      )}
    </Panel>
  );
}

const PHASES = { download: 'Fetching', verify: 'Checking', upload: 'To the device', compile: 'Compiling', ready: 'Ready' } as const;

function Loading({ progress }: { progress: NonNullable<State['progress']> }) {
  const { phase, fraction, loaded, total } = progress;
  const percent = Math.round(fraction * 100);
  return (
    <div class="loading">
      <div class="bar" role="progressbar" aria-label="Loading the model" aria-valuemin={0} aria-valuemax={100} aria-valuenow={percent}>
        <span style={{ transform: `scaleX(${fraction})` }} />
      </div>
      <p>
        <span>{PHASES[phase]}</span>
        <span class="number">{total > 0 ? `${megabytes(loaded)} of ${megabytes(total)}` : `${percent} %`}</span>
      </p>
      <button onClick={cancelLoad}>Cancel</button>
    </div>
  );
}

function Ready({ state: { info, source } }: { state: State }) {
  if (!info) return null;
  return (
    <dl class="card">
      <dt>Size</dt>
      <dd>
        {millions(info.parameters)} parameters, {megabytes(info.bytes.total)} in memory
      </dd>
      <dt>Trained with</dt>
      <dd>at most {info.trainedLoops} loops; halts when Σ p reaches {info.haltingThreshold.toFixed(2)}</dd>
      <dt>Weights</dt>
      <dd>{info.storage === 'opfs' ? `kept in this browser${info.fromCache ? ', nothing was fetched' : ''}` : `in memory${info.storageNote ? `: ${info.storageNote}` : ''}`}</dd>
      {!taskOf(source) && info.notes.length > 0 && (
        <>
          <dt>Notes</dt>
          <dd>{info.notes.join('; ')}</dd>
        </>
      )}
    </dl>
  );
}

/** Which device computes: what is loaded runs there; before that, what the browser says it has. */
function Device({ state: { info, probe, backend, progress } }: { state: State }) {
  const choose = (event: Event) => {
    store.set({ backend: (event.target as HTMLSelectElement).value as State['backend'] });
    cancelLoad();
    void unload();
  };
  const says = info
    ? `Runs on ${info.backend === 'webgpu' ? `WebGPU, ${info.device}` : info.device}.${info.backendNote ? ` ${sentence(info.backendNote)}` : ''}`
    : probe?.ok
      ? `This browser has WebGPU: ${probe.adapter}.`
      : probe
        ? `No WebGPU: ${probe.reason}. Models run on the CPU here, with the same results.`
        : 'Looking for a GPU …';
  return (
    <div class="device">
      <p data-backend={info?.backend ?? ''}>
        {says} {!info && probe && !probe.ok && probe.hint && <span class="hint">To have one: {probe.hint}.</span>}
      </p>
      <label class="field">
        <span>Device</span>
        <select value={backend} onChange={choose} disabled={progress !== undefined}>
          <option value="auto">the best there is</option>
          <option value="webgpu">WebGPU, simulated too</option>
          <option value="cpu">CPU</option>
        </select>
      </label>
    </div>
  );
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;
}
