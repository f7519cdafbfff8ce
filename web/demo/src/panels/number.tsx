import { useState } from 'preact/hooks';

interface NumberProps {
  label: string;
  value: number;
  min?: number;
  max: number;
  /** 1 for whole numbers. */
  step: number;
  onChange: (value: number) => void;
}

/** A number with a name. While it is typed it stays as it is typed; what it means then is the nearest that is allowed. */
export function NumberField({ label, value, min = 0, max, step, onChange }: NumberProps) {
  const [typed, setTyped] = useState<string>();
  const type = (event: preact.TargetedEvent<HTMLInputElement>) => {
    const text = event.currentTarget.value;
    setTyped(text);
    const meant = Number(text);
    if (text.trim() === '' || !Number.isFinite(meant)) return;
    const near = Math.min(Math.max(meant, min), max);
    onChange(step === 1 ? Math.round(near) : near);
  };
  return (
    <label class="field">
      <span>{label}</span>
      <input type="number" min={min} max={max} step={step} value={typed ?? value} onInput={type} onBlur={() => setTyped(undefined)} />
    </label>
  );
}
