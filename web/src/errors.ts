/** Codes of errors: the same as those of the crate and of the command line. */
export type Code =
  | 'file' | 'format' | 'checkpoint' | 'config' | 'tensor' | 'tokenizer' | 'unknown_word' | 'token' | 'empty_prompt' | 'context'
  | 'loops' | 'argument' | 'no_adapter' | 'too_small' | 'memory' | 'gpu' | 'device_lost' | 'non_finite' | 'mismatch' | 'wrong_answer'
  | 'usage' | 'hub' | 'cancelled';

/** An error as plain data, which outlives the way from a worker: a structured clone makes a plain `Error` of a class of one's own. */
export interface ErrorData {
  code: Code;
  message: string;
  hint?: string;
  details?: unknown;
}

/** What went wrong, with a stable code, and how to mend it where there is something to say. */
export class RefrainError extends Error {
  /** Stable: fit to branch on. */
  readonly code: Code;
  /** How to mend it, in one sentence. */
  readonly hint?: string;
  /** Facts for programs: the file, its status, sizes. */
  readonly details?: unknown;

  constructor(code: Code, message: string, more: { hint?: string; details?: unknown; cause?: unknown } = {}) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = 'RefrainError';
    this.code = code;
    if (more.hint !== undefined) this.hint = more.hint;
    if (more.details !== undefined) this.details = more.details;
  }

  /** Whether something thrown is an error of this package, with this code if one is given. Works across copies of the package, where `instanceof` does not. */
  static is(error: unknown, code?: Code): error is RefrainError {
    const found = error instanceof Error && error.name === 'RefrainError' ? (error as RefrainError).code : undefined;
    return found !== undefined && (code === undefined || found === code);
  }

  /** The error as plain data. */
  static data(error: unknown): ErrorData {
    if (RefrainError.is(error)) {
      return { code: error.code, message: error.message, hint: error.hint, details: error.details };
    }
    return { code: 'usage', message: error instanceof Error ? `${error.name}: ${error.message}` : String(error) };
  }

  /** The error that the data came from. */
  static from({ code, message, hint, details }: ErrorData): RefrainError {
    return new RefrainError(code, message, { hint, details });
  }
}
