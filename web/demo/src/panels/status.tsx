import type { State } from '../state';
import { store } from '../state';
import { cancelLoad, chooseModel, ensureModel, forgetCached, unload } from '../engine';
import { megabytes, millions } from '../format';
import { TASKS, taskOf } from '../tasks';
import { useKeptFocus } from '../focus';
import { Failure } from './panel';
import { OwnModel } from './own';

/** The engine itself, fetched with the first model. */
const ENGINE_BYTES = 2_810_000;

export function Status({ state }: { state: State }) {
  const { info, progress, loadProblem, source, files, cached } = state;
  const task = taskOf(source);
  const isCached = cached.includes(source);
  const load = useKeptFocus<HTMLDivElement>();
  const device = info?.backend === 'webgpu' ? `WebGPU, ${state.probe?.adapter ?? info.device}` : info?.device;
  return (
    <section class="panel" id="model" aria-label="Model">
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
            <small>files, Hub</small>
          </span>
        </label>
      </div>
      <div class="about">
        <p class="what">{task ? task.what : 'An openmythos model of your own: config.json, model.safetensors and tokenizer.json.'}</p>
        {info ? (
          <p class="runs note" data-backend={info.backend}>
            Runs on {device}. {info.backendNote && sentence(info.backendNote)}
          </p>
        ) : (
          <Gpu probe={state.probe} />
        )}
      </div>
      <div class="load" ref={load} tabIndex={-1}>
        {progress ? (
          <Loading progress={progress} />
        ) : info ? (
          <p class="ready">
            <b>Ready</b>
            <span class="note">
              {info.fromCache ? 'Nothing was fetched.' : info.storage === 'opfs' ? 'Fetched, and kept in this browser.' : 'In memory only.'}
            </span>
          </p>
        ) : source !== 'files' || files.length > 0 ? (
          <>
            <button onClick={() => void ensureModel()}>
              {isCached ? 'Open' : 'Load'} {task?.title ?? (source === 'files' ? 'the files' : source)}
              {task && !isCached && `, ${megabytes(task.bytes)}`}
            </button>
            <p class="note">
              {isCached
                ? 'Kept in this browser: nothing is fetched.'
                : source === 'files'
                  ? 'They are read where they lie.'
                  : `Nothing is fetched before you ask. The engine takes ${megabytes(ENGINE_BYTES)} more.`}
            </p>
          </>
        ) : null}
      </div>
      {loadProblem && <Failure {...loadProblem} />}
      {!task && <OwnModel state={state} />}
      <Details state={state} />
    </section>
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
        <span class="number">{phase === 'download' && total > 0 ? `${megabytes(loaded)} of ${megabytes(total)}` : `${percent} %`}</span>
      </p>
      <button onClick={cancelLoad}>Cancel</button>
    </div>
  );
}

/** What the browser says it has; once a model runs, it is known where. */
function Gpu({ probe }: Pick<State, 'probe'>) {
  return (
    <p class="gpu note">
      {!probe && 'Looking for a GPU …'}
      {probe?.ok && !probe.simulated && `This browser has WebGPU: ${probe.adapter}.`}
      {probe?.ok && probe.simulated && 'This browser’s WebGPU is simulated on the CPU. Models run on the CPU itself, which is faster.'}
      {probe && !probe.ok && `No GPU: ${probe.reason}. ${probe.hint ? sentence(probe.hint) : 'Models run on the CPU.'}`}
    </p>
  );
}

function Details({ state: { info, backend, progress, source, cached } }: { state: State }) {
  const choose = (event: Event) => {
    store.set({ backend: (event.target as HTMLSelectElement).value as State['backend'] });
    void unload();
  };
  return (
    <details class="details">
      <summary>
        Details
        <span class="note">{info ? `${millions(info.parameters)} parameters, trained with ${info.trainedLoops} loops` : 'choice of the device'}</span>
      </summary>
      {info && (
        <dl class="card">
          <dt>Size</dt>
          <dd>
            {megabytes(info.bytes.total)} in memory, of which {megabytes(info.bytes.cache)} cache
          </dd>
          <dt>Trained with</dt>
          <dd>
            {info.trainedLoops} loops at most; a token halts when Σ p reaches {info.haltingThreshold.toFixed(2)}
          </dd>
          <dt>Stable</dt>
          <dd>
            largest A {info.spectralRadius.toFixed(2)}
            {info.spectralRadius < 1 ? ', below 1' : ', not below 1: it may run away'}
          </dd>
          <dt>Weights</dt>
          <dd>
            {info.storage === 'opfs' ? 'kept in this browser' : 'in memory only'}
            {info.fromCache && '; nothing was fetched'}
            {info.storageNote && `: ${info.storageNote}`}
          </dd>
          {info.notes.length > 0 && (
            <>
              <dt>Notes</dt>
              <dd>{info.notes.join('; ')}</dd>
            </>
          )}
        </dl>
      )}
      <label class="field device">
        <span>Device</span>
        <select value={backend} onChange={choose} disabled={progress !== undefined}>
          <option value="auto">the best there is</option>
          <option value="webgpu">WebGPU, simulated too</option>
          <option value="cpu">CPU</option>
        </select>
      </label>
      {cached.includes(source) && (
        <button class="quiet" onClick={() => void forgetCached(source)}>
          Delete the copy kept in this browser
        </button>
      )}
    </details>
  );
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;
}
