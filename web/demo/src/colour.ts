/** Cividis at ten even steps: it reads the same with and without colour vision, and its lightness only rises. */
const CIVIDIS = ['#00204d', '#00336f', '#39486b', '#575c6d', '#707173', '#8a8779', '#a69d75', '#c4b56c', '#e4cf5b', '#ffea46'].map((hex) =>
  [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);

/** Red, green, blue at a share from 0 to 1 of the ramp. */
export function ramp(share: number): number[] {
  const at = Math.min(Math.max(Number.isFinite(share) ? share : 0, 0), 1) * (CIVIDIS.length - 1);
  const below = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const [low, high] = [CIVIDIS[below] ?? [], CIVIDIS[below + 1] ?? []];
  return low.map((value, i) => Math.round(value + ((high[i] ?? 0) - value) * (at - below)));
}

export function cividis(share: number): string {
  return `rgb(${ramp(share).join(' ')})`;
}

/** Black or white, whichever is read more easily on the ramp's colour: never below 4.5:1. */
export function inkOn(share: number): string {
  const linear = ramp(share).map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  const [r = 0, g = 0, b = 0] = linear;
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? '#000' : '#fff';
}

/** Loops on the ramp: each doubling is a step of the same size, up to `most`. */
export function loopShare(loops: number, most: number): number {
  return most <= 1 ? 0 : Math.log2(Math.max(loops, 1)) / Math.log2(Math.max(most, 2));
}

/** Surprise in bits on the ramp: 16 bits and more are its end. */
export function surpriseShare(logprob: number | null): number {
  return logprob === null ? 0 : Math.min(bits(logprob) / 16, 1);
}

export function bits(logprob: number): number {
  return Math.max(-logprob / Math.LN2, 0);
}
