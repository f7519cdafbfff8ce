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

/** Where a number of loops is on the scale, in percent: in the middle of its stop, or between two. */
function tick(loops: number): number {
  const above = STOPS.findIndex((stop) => stop >= loops);
  if (above <= 0) return ((above < 0 ? STOPS.length : 0.5) / STOPS.length) * 100;
  const [low, high] = [STOPS[above - 1] ?? 0, STOPS[above] ?? 1];
  return ((above - 0.5 + (loops - low) / (high - low)) / STOPS.length) * 100;
}

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
          <label key={stop} class={stop > trained ? 'beyond' : ''}>
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
        <i style={{ left: `${tick(trained)}%` }} />
        <span style={{ left: `${Math.min(Math.max(tick(trained), 14), 86)}%` }}>trained to {trained}</span>
        {trained < 16 && <span class="end">beyond training</span>}
      </p>
      <p class="note">{says[mode]}</p>
    </div>
  );
}
