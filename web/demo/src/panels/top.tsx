import { useState } from 'preact/hooks';
import { toHash } from '../share';
import type { State } from '../state';
import { chooseTheme } from '../theme';
import { goTo } from '../tour';
import { Choice } from './panel';

const THEMES = [
  ['auto', 'Auto'],
  ['light', 'Light'],
  ['dark', 'Dark'],
] as const;

export function Top({ state }: { state: State }) {
  return (
    <header class="top">
      <div>
        <h1>refrain</h1>
        <p class="lead">
          Watch a model decide how long to think. A looped transformer has one block, and runs it again and again for each token until it halts. These
          are real models, running in this page.
        </p>
      </div>
      <div class="actions">
        <button class="next" id="start-tour" onClick={() => void goTo(0)}>
          Two-minute tour
        </button>
        <Share state={state} />
        <Choice label="Theme" value={state.theme} options={THEMES} onChange={chooseTheme} />
      </div>
    </header>
  );
}

/** Copies a link to what is set here; where copying is not allowed it is shown, to be copied by hand. */
function Share({ state }: { state: State }) {
  const [said, setSaid] = useState('');
  const [shown, setShown] = useState(false);
  const link = new URL(toHash(state), location.href).href;
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(link);
      setSaid('Copied');
      setTimeout(() => setSaid(''), 2000);
    } catch {
      setShown(true);
    }
  };
  const own = state.source === 'files';
  return (
    <>
      <button
        class="share"
        onClick={() => void copy()}
        disabled={own}
        title={own ? 'Files of your own cannot be in a link' : 'A link to this prompt and these settings'}
      >
        <span aria-live="polite">{said || 'Copy link'}</span>
      </button>
      {shown && (
        <div class="link">
          <label class="field">
            <span>This browser does not let the page copy. The link:</span>
            <input type="text" readOnly value={link} onFocus={(event) => event.currentTarget.select()} />
          </label>
          <button onClick={() => setShown(false)}>Close</button>
        </div>
      )}
    </>
  );
}

export function Foot() {
  return (
    <footer class="page-note">
      <p>
        The shipped models are small (about 0.3 million parameters) and trained for one task each; they know no language, and both the steps and the
        halting were shown to them in training. What they do by themselves is to go on beyond the lengths that they were shown.
      </p>
      <p>Everything runs in this browser. Prompts and files go nowhere, and a model’s weights are fetched only when you ask.</p>
    </footer>
  );
}
