import type { ComponentChildren } from 'preact';

interface PanelProps {
  id: string;
  title: string;
  /** What can be changed about it, on the right of its title. */
  tools?: ComponentChildren;
  note?: ComponentChildren;
  children: ComponentChildren;
}

export function Panel({ id, title, tools, note, children }: PanelProps) {
  return (
    <section class="panel" id={id} aria-labelledby={`${id}-title`}>
      <header>
        <h2 id={`${id}-title`}>{title}</h2>
        {tools && <div class="tools">{tools}</div>}
      </header>
      {note && <p class="note">{note}</p>}
      {children}
    </section>
  );
}

export function Failure({ message, hint }: { message: string; hint?: string }) {
  return (
    <div class="failure" role="alert">
      <p>{message}</p>
      {hint && <p class="hint">{hint}</p>}
    </div>
  );
}

interface ChoiceProps<T extends string> {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  onChange: (value: T) => void;
}

/** One of a few, side by side: a radio group, so that arrow keys work. */
export function Choice<T extends string>({ label, value, options, onChange }: ChoiceProps<T>) {
  return (
    <div class="choice" role="radiogroup" aria-label={label}>
      {options.map(([each, title]) => (
        <label key={each}>
          <input type="radio" name={label} checked={each === value} onChange={() => onChange(each)} />
          <span>{title}</span>
        </label>
      ))}
    </div>
  );
}
