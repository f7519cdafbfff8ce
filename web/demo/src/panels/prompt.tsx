import { problemOf, runPrompt } from '../engine';
import { isNarrow } from '../size';
import { type State, store } from '../state';
import { taskOf } from '../tasks';
import { show } from '../tour';
import { Depth } from './depth';
import { Go } from './go';
import { NumberField } from './number';
import { Panel } from './panel';

export function Prompt({ state }: { state: State }) {
  const { prompt, source, depth, info, notice, fromLink } = state;
  const task = taskOf(source);
  // On a phone the tokens are out of sight from here.
  const look = () => isNarrow() && show('#tokens');
  const setPrompt = (prompt: string) => store.set({ prompt, at: undefined, notice: '' });
  const preset = task?.presets.findIndex((each) => each.prompt === prompt) ?? -1;
  return (
    <Panel id="prompt" title="Prompt">
      {task && (
        <div class="presets">
          <label class="field">
            <span>Preset</span>
            <select value={String(preset)} onChange={(event) => setPrompt(task.presets[Number(event.currentTarget.value)]?.prompt ?? prompt)}>
              {preset < 0 && <option value="-1">one of your own</option>}
              {task.presets.map(({ title }, i) => (
                <option key={title} value={String(i)}>
                  {title}
                </option>
              ))}
            </select>
          </label>
          <button class="quiet" onClick={() => void another(source)}>
            Another of the model’s 100 problems
          </button>
        </div>
      )}
      <textarea
        aria-label="Prompt"
        aria-describedby="prompt-how"
        rows={3}
        spellcheck={false}
        autocapitalize="off"
        value={prompt}
        onInput={(event) => setPrompt(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (!(event.ctrlKey || event.metaKey) || event.key !== 'Enter') return;
          void runPrompt();
          look();
        }}
      />
      <p class="note" id="prompt-how">
        {task ? task.how : 'The model goes on from here.'}
      </p>
      <h2>Depth</h2>
      <Depth name="Depth" value={depth} trained={info?.trainedLoops ?? 8} most={info?.maxLoops ?? 32} onChange={(depth) => store.set({ depth })} />
      <Go state={state} starts="run" class="wide go" then={look}>
        {info ? 'Run' : 'Load the model and run'}
      </Go>
      {fromLink && !info && <p class="note">This is a shared link: it has set everything above, and fetches no weights until you run it.</p>}
      {notice && (
        <p class="note" role="status">
          {notice}
        </p>
      )}
      <Sampling state={state} />
    </Panel>
  );
}

function Sampling({ state }: { state: State }) {
  const { seed, temperature, maxTokens, trace, source } = state;
  const inPlace = state.info?.inPlace ?? taskOf(source) !== undefined;
  return (
    <details class="sampling">
      <summary>
        Sampling
        <span class="note">
          temperature {temperature}, seed {seed}
          {maxTokens > 0 ? `, ${maxTokens} new tokens` : ''}
        </span>
      </summary>
      <div class="fields">
        <NumberField label="Temperature" value={temperature} max={2} step={0.1} onChange={(temperature) => store.set({ temperature })} />
        <NumberField label="Seed" value={seed} max={Number.MAX_SAFE_INTEGER} step={1} onChange={(seed) => store.set({ seed })} />
        <NumberField label="New tokens" value={maxTokens} max={1024} step={1} onChange={(maxTokens) => store.set({ maxTokens })} />
      </div>
      <p class="note">
        {inPlace
          ? 'With 0 new tokens the model answers at the prompt’s own tokens, which is all it was trained for: always the likeliest, so that temperature and seed play no part.'
          : 'With 0 it writes up to 64. At temperature 0 the likeliest token is taken and the seed plays no part.'}
      </p>
      <label class="check">
        <input type="checkbox" checked={trace} onChange={(event) => store.set({ trace: event.currentTarget.checked })} />
        <span>Record every loop, for the map and the inspector (slower)</span>
      </label>
    </details>
  );
}

let at = 0;
const problems = new Map<string, string[]>();

/** The next of the problems that lie beside the shipped models. */
async function another(source: string): Promise<void> {
  try {
    if (!problems.has(source)) {
      const response = await fetch(new URL(`models/${source.replace('refrain:', '')}/problems.jsonl`, document.baseURI));
      if (!response.ok) throw new Error(`problems.jsonl: expected a file, found status ${response.status}`);
      const lines = (await response.text()).trim().split('\n');
      problems.set(
        source,
        lines.map((line) => (JSON.parse(line) as { prompt: string }).prompt),
      );
    }
    const all = problems.get(source) ?? [];
    const prompt = all[at % all.length];
    at += 1;
    if (prompt !== undefined && source === store.get().source) store.set({ prompt, at: undefined, notice: '' });
  } catch (error) {
    store.set({ notice: `The model’s problems could not be read: ${problemOf(error).message}` });
  }
}
