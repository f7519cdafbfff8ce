import type { Answer } from '../state';

/** Whether an answer is right; nothing where nobody knows. */
export function Verdict({ right, cut }: Answer) {
  if (right === undefined) return null;
  return <span class={`verdict ${right ? 'right' : 'wrong'}`}> {right ? (cut ? '✓ right, though cut off' : '✓ right') : '✗ wrong'}</span>;
}
