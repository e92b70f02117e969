/** The catalogue of refusals: every way in which the service says no, with its status and its retry advice. */

export const REFUSALS = {
  invalid_payload: { status: 400, retryable: false, text: "The payload is not valid." },
  invalid_request: { status: 400, retryable: false, text: "The request is not valid." },
  payload_too_large: { status: 413, retryable: false, text: "The message is too long." },
  not_in_room: { status: 409, retryable: false, text: "This connection has not joined the room." },
  unknown_event: { status: 400, retryable: false, text: "There is no such event." },
  conflict: { status: 409, retryable: false, text: "This client_id was used for another message." },
  epoch_changed: { status: 409, retryable: false, text: "The store was reset; reload from the beginning." },
  method_not_allowed: { status: 405, retryable: false, text: "The method is not allowed here." },
  unsupported_media_type: { status: 415, retryable: false, text: "The body must be application/json." },
  unauthorized: { status: 401, retryable: false, text: "A valid token is needed." },
  token_expired: { status: 401, retryable: false, text: "The token has expired." },
  forbidden: { status: 403, retryable: false, text: "This is not allowed." },
  not_found: { status: 404, retryable: false, text: "There is nothing here." },
  history_truncated: { status: 410, retryable: false, text: "This part of the history is no longer kept." },
  rate_limited: { status: 429, retryable: true, text: "Too many at once; wait a moment." },
  overloaded: {
    status: 503,
    retryable: true,
    retryAfterMs: 1_000,
    text: "The service has too much to do; try again.",
  },
  storage_unavailable: {
    status: 503,
    retryable: true,
    text: "The store cannot be reached; whether a message that was being sent is stored is unknown.",
  },
  draining: { status: 503, retryable: true, text: "This server is going away; connect again." },
  internal: { status: 500, retryable: true, text: "Something went wrong on our side." },
} as const satisfies Record<string, Refusal>;

interface Refusal {
  /** Over HTTP. */
  readonly status: number;
  readonly retryable: boolean;
  /** When a retry makes sense where nobody knows better, in milliseconds. */
  readonly retryAfterMs?: number;
  readonly text: string;
}

export type RefusalCode = keyof typeof REFUSALS;

/** One fault of an input: where it is (dotted path, empty for the whole) and what is asked for, never the input itself. */
export interface Issue {
  readonly path: string;
  readonly message: string;
}

export interface RefusalDetails {
  readonly issues?: readonly Issue[];
  /** When a retry makes sense, in milliseconds; without it the catalogue's advice stands. */
  readonly retryAfterMs?: number;
  /** A fact that the client needs to go on, in wire form: `{ first_seq: 12 }`. */
  readonly facts?: Readonly<Record<string, string | number>>;
  /** What really happened; for the log, never for the wire. */
  readonly cause?: unknown;
  /** A text that says more than the catalogue's; must be safe to show to anyone. */
  readonly text?: string;
}

/** A refusal on its way to the caller. Only the two faces turn one into an answer. */
export class ChatError extends Error {
  override readonly name = "ChatError";
  readonly code: RefusalCode;
  readonly details: RefusalDetails;

  constructor(code: RefusalCode, details: RefusalDetails = {}) {
    super(
      details.text ?? REFUSALS[code].text,
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.code = code;
    const { retryAfterMs }: Refusal = REFUSALS[code];
    this.details =
      retryAfterMs === undefined || details.retryAfterMs !== undefined
        ? details
        : { ...details, retryAfterMs };
  }
}

/** When a retry makes sense, as HTTP's `Retry-After` says it: in whole seconds. Undefined where nothing is advised. */
export const retryAfterSeconds = ({ details: { retryAfterMs } }: ChatError): string | undefined =>
  retryAfterMs === undefined ? undefined : String(Math.ceil(retryAfterMs / 1_000));

/** Whatever was thrown as a refusal: a fault that nobody foresaw is `internal`, with the cause for the log only. */
export const asChatError = (thrown: unknown): ChatError =>
  thrown instanceof ChatError ? thrown : new ChatError("internal", { cause: thrown });

/** A value of the environment that turned out to be wrong only when it was used: one line that names its variable. */
export class SettingError extends Error {
  override readonly name = "SettingError";
}

/** What cannot be otherwise. A failure is our defect, and loud. */
export function assert(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${what}`);
}
