/** What every answer must be, whatever was asked: of the contract's form, never `internal`, never the input again. */

import { REFUSALS } from "../../../src/errors.ts";
import { MARK } from "./hostile.ts";
import { must } from "./surface.ts";
import type { HttpAnswer } from "./wire.ts";

type Facts = Readonly<Record<string, unknown>>;

const isFacts = (value: unknown): value is Facts =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const ERROR_KEYS = new Set([
  "code",
  "message",
  "retryable",
  "retry_after_ms",
  "issues",
  "epoch",
  "first_seq",
]);
/** What no mistake of a client may cause. */
const NOT_FOR_INPUT = new Set(["internal", "storage_unavailable", "draining"]);

/** Judges a refusal in wire form; says it in short. */
export function judgedError(error: unknown): string {
  must(isFacts(error), "an error is no object");
  const { code, message, retryable, issues } = error;
  must(typeof code === "string" && Object.hasOwn(REFUSALS, code), `an error has the code ${String(code)}`);
  must(!NOT_FOR_INPUT.has(code), `input was answered with ${code}`);
  must(typeof message === "string" && message !== "", "an error says nothing");
  must(
    retryable === REFUSALS[code as keyof typeof REFUSALS].retryable,
    `${code} has retryable ${String(retryable)}`,
  );
  for (const key of Object.keys(error)) must(ERROR_KEYS.has(key), `an error has a field ${key}`);
  must(!JSON.stringify(error).includes(MARK), `${code} repeats the input`);
  if (issues === undefined) return code;
  must(Array.isArray(issues) && issues.length > 0 && issues.length <= 16, `${code} has no list of issues`);
  const told = issues.map((issue: unknown) => {
    must(
      isFacts(issue) && typeof issue.path === "string" && typeof issue.message === "string",
      "an issue is odd",
    );
    must(issue.message.length < 200 && /^[a-z]/.test(issue.message), "an issue is not of our words");
    return `${issue.path} ${issue.message}`;
  });
  return `${code}: ${told.sort().join("; ")}`;
}

/** Judges an answer to an event; says it in short. */
export function judgedAck(answer: unknown): string {
  must(isFacts(answer), "an ack carries no object");
  if (answer.ok === true) {
    return `ok ${Object.entries(answer)
      .map(([key, value]) => (typeof value === "boolean" ? `${key}=${value}` : key))
      .join()}`;
  }
  must(answer.ok === false, "an ack has no ok");
  return judgedError(answer.error);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Judges an HTTP answer; says it in short. No answer means that the server closed: a refusal too. */
export function judgedHttp(answer: HttpAnswer | undefined): string {
  if (answer === undefined) return "closed";
  const { status, headers, body, isBare } = answer;
  // 505 is the runtime's word for another version of HTTP.
  must(
    status >= 101 && (status < 500 || (status === 505 && body === "")),
    `a request was answered with ${status}`,
  );
  if (status < 400) return `${status} ${(headers.get("content-type") ?? "").split(";")[0]}`;
  must(!body.includes(MARK), `${status} repeats the input`);
  if (isBare) return `${status} bare`;
  // The runtime's own refusals of what is no HTTP say nothing.
  if (body === "") {
    must([400, 404, 405, 411, 413, 414, 431, 505].includes(status), `${status} without a word`);
    return `${status} empty`;
  }
  const value = parsed(body);
  must(isFacts(value), `${status} is not JSON`);
  if (isFacts(value.error)) {
    const told = judgedError(value.error);
    must(REFUSALS[value.error.code as keyof typeof REFUSALS].status === status, `${status} says ${told}`);
    return `${status} ${told}`;
  }
  must(typeof value.message === "string" && "code" in value, `${status} is of no known form`);
  return `${status} engine ${String(value.code)}`;
}
