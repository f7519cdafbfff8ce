import { type DepthChoice, STOPS } from '../state';
import { Choice } from './panel';

interface DepthProps {
  name: string;
  value: DepthChoice;
  trained: number;
  most: number;
  onChange: (value: DepthChoice) => void;
}

const MODES = [
  ['model', 'Model decides'],
  ['cap', 'Cap'],
  ['fixed', 'Fixed'],
] as const;

/** How deep: a mode, and a scale of stops with a tick at the trained depth and hatching beyond it. */
export function Depth({ name, value, trained, most, onChange }: DepthProps) {
  const { mode, loops } = value;
  const says = {
    model: `Each token stops by itself, at ${most} at the latest.`,
    cap: `Each token stops by itself, at ${loops} at the latest.`,
    fixed: `Each token runs ${loops}, whatever the model says.`,
  };
  const describe = (stop: number) =>
    `${stop} ${stop === 1 ? 'loop' : 'loops'}${stop === trained ? ', as trained' : stop > trained ? ', more than trained' : ''}`;
  return (
    <div class="depth">
      <Choice label={name} value={mode} options={MODES} onChange={(mode) => onChange({ mode, loops })} />
      <div class="stops" role="radiogroup" aria-label={`${name}: loops`} data-off={mode === 'model'}>
        {STOPS.map((stop) => (
          <label key={stop} class={stop > trained ? 'beyond' : stop === trained ? 'trained' : ''}>
            <input
              type="radio"
              name={`${name}: loops`}
              checked={mode !== 'model' && stop === loops}
              disabled={stop > most}
              aria-label={describe(stop)}
              onChange={() => onChange({ mode: mode === 'model' ? 'cap' : mode, loops: stop })}
            />
            <span>{stop}</span>
          </label>
        ))}
      </div>
      <p class="scale" aria-hidden="true">
        <span>trained to {trained}</span>
        <span>beyond training</span>
      </p>
      <p class="note">{says[mode]}</p>
    </div>
  );
}
