/** What the contract says about each way to be refused, written down once more: the service's own table may be wrong. */

export interface Refusal {
  readonly code: string;
  /** Undefined where the face need not say it: over HTTP the code and the status do. */
  readonly retryable: boolean | undefined;
  /** When to come again; over HTTP as `Retry-After` says. Null where nothing was said. */
  readonly retryAfterMs: number | null;
  /** Null where an event was refused. */
  readonly status: number | null;
}

interface Rule {
  /** Null: no HTTP request is refused so. */
  readonly status: number | null;
  readonly retryable: boolean;
  /** Says when to come again. */
  readonly isTimed?: true;
  /** The other face has a word of its own. */
  readonly face?: "events" | "http";
}

const RULES: Readonly<Record<string, Rule>> = {
  invalid_payload: { status: null, retryable: false, face: "events" },
  invalid_request: { status: 400, retryable: false, face: "http" },
  payload_too_large: { status: 413, retryable: false },
  not_in_room: { status: null, retryable: false, face: "events" },
  unknown_event: { status: null, retryable: false, face: "events" },
  conflict: { status: 409, retryable: false },
  epoch_changed: { status: 409, retryable: false },
  method_not_allowed: { status: 405, retryable: false, face: "http" },
  unsupported_media_type: { status: 415, retryable: false, face: "http" },
  unauthorized: { status: 401, retryable: false },
  token_expired: { status: 401, retryable: false },
  forbidden: { status: 403, retryable: false },
  not_found: { status: 404, retryable: false, face: "http" },
  history_truncated: { status: 410, retryable: false },
  rate_limited: { status: 429, retryable: true, isTimed: true },
  overloaded: { status: 503, retryable: true, isTimed: true },
  storage_unavailable: { status: 503, retryable: true },
  draining: { status: 503, retryable: true },
  internal: { status: 500, retryable: true },
};

/** Whether to say it again makes sense. */
export const isRetryable = (code: string): boolean => RULES[code]?.retryable === true;

/** After these it is unknown whether a message is stored. */
export const leavesUnknown = (code: string): boolean => code === "storage_unavailable" || code === "internal";

/** What is wrong with a refusal, whatever was asked for; undefined when nothing is. */
export function faultOfRefusal({ code, retryable, retryAfterMs, status }: Refusal): string | undefined {
  const rule = RULES[code];
  if (rule === undefined) return "there is no such code";
  if (code === "internal") return "no fault of the ground is one of the service";
  if (rule.face === (status === null ? "http" : "events")) return `the code is one of ${rule.face}`;
  if (status !== null && status !== rule.status) return `the status is ${status}`;
  if (retryable !== rule.retryable && (status === null || retryable !== undefined))
    return `it says retryable: ${retryable}`;
  if (rule.isTimed && !(retryAfterMs !== null && retryAfterMs > 0))
    return "it does not say when to come again";
  return undefined;
}

/** How a refused HTTP request reads. */
export async function readRefusal(response: Response): Promise<Refusal> {
  const { error } = (await response.json()) as { error: { code: string; retryable?: boolean } };
  const seconds = response.headers.get("retry-after");
  return {
    code: error.code,
    retryable: error.retryable,
    retryAfterMs: seconds === null ? null : 1_000 * Number(seconds),
    status: response.status,
  };
}
