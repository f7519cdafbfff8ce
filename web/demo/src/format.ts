/** A token as it is shown: a space before a word is left out, what cannot be seen is named. */
export function shown(text: string): string {
  if (text === '') return '∅';
  const word = text
    .replace(/^ (?=\S)/, '')
    .replace(/\n/g, '↵')
    .replace(/\t/g, '⇥');
  return /^ +$/.test(word) ? '␣'.repeat(Math.min(word.length, 4)) : word;
}

export function count(value: number, noun: string): string {
  return `${value.toLocaleString('en')} ${noun}${value === 1 ? '' : 's'}`;
}

export function megabytes(bytes: number): string {
  return bytes < 10e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.round(bytes / 1e6).toLocaleString('en')} MB`;
}

export function millions(value: number): string {
  return value < 1e6 ? `${Math.round(value / 1e3).toLocaleString('en')} thousand` : `${(value / 1e6).toFixed(1)} million`;
}

export function milliseconds(ms: number): string {
  return ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString('en');
}

/** A probability with as many digits as say something. */
export function share(value: number): string {
  if (value >= 0.9995) return '1.00';
  if (value >= 0.01) return value.toFixed(2);
  return value < 1e-4 ? '<0.0001' : value.toFixed(4);
}

/** Two or three digits that count, for a value of any size. */
export function short(value: number): string {
  if (value === 0) return '0';
  return Math.abs(value) >= 0.01 && Math.abs(value) < 1000 ? value.toPrecision(3) : value.toExponential(1);
}
