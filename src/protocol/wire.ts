/** The parts that events and routes share: field schemas, faults in words, and how a message looks on the wire. */

import * as v from "valibot";
import {
  NAME_RULE,
  parseClientId,
  parseEpoch,
  parseRoomName,
  parseSeq,
  parseUserId,
  type Seq,
} from "../domain/ids.ts";
import { type Message, type PastMessage, textFault } from "../domain/message.ts";
import { formatTimestamp, parseTimestamp } from "../domain/time.ts";
import { ChatError, type Issue, type RefusalCode } from "../errors.ts";
import { LIMITS } from "../limits.ts";

/** An object with these fields; others are ignored. */
export const fields = <E extends v.ObjectEntries>(entries: E) =>
  v.object(entries, (issue) => (issue.expected === "Object" ? "must be an object" : "is required"));

/** A string that a domain parser accepts; what is not says `rule`, never the input. */
export const parsedString = <T>(parse: (text: string) => T | undefined, rule: string) =>
  v.pipe(
    v.string("must be a string"),
    v.rawTransform<string, T>(({ dataset, addIssue, NEVER }) => {
      const parsed = parse(dataset.value);
      if (parsed !== undefined) return parsed;
      addIssue({ message: rule });
      return NEVER;
    }),
  );

export const RoomNameSchema = parsedString(parseRoomName, NAME_RULE);
export const UserIdSchema = parsedString(parseUserId, NAME_RULE);
export const ClientIdSchema = parsedString(parseClientId, NAME_RULE);
export const EpochSchema = parsedString(parseEpoch, "must be an epoch that the server gave");
export const TimestampSchema = parsedString(
  parseTimestamp,
  "must be an ISO-8601 date and time, like 2026-01-31T09:05:00.000Z",
);
export const SeqSchema = v.pipe(
  v.number("must be a whole number"),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const parsed = parseSeq(dataset.value);
    if (parsed !== undefined) return parsed;
    addIssue({ message: "must be a whole number from 0 on" });
    return NEVER;
  }),
);
export const TextSchema = v.pipe(
  v.string("must be a string"),
  v.rawCheck(({ dataset, addIssue }) => {
    const fault = dataset.typed ? textFault(dataset.value) : undefined;
    if (fault !== undefined) addIssue({ message: fault });
  }),
);

/** The parsed value, or a refusal that lists each fault by its path. */
export function parseOrRefuse<S extends v.GenericSchema>(
  schema: S,
  input: unknown,
  code: "invalid_payload" | "invalid_request",
): v.InferOutput<S> {
  const result = v.safeParse(schema, input);
  if (result.success) return result.output;
  throw new ChatError(code, { issues: result.issues.slice(0, LIMITS.issuesMax).map(issueOf) });
}

// The library's own texts show what was received: only a text of ours may pass, and ours start with a small letter.
const issueOf = (issue: v.BaseIssue<unknown>): Issue => ({
  path: v.getDotPath(issue) ?? "",
  message: /^[a-z]/.test(issue.message) ? issue.message : "is missing or not of the right form",
});

const encoder = new TextEncoder();

/** The text's length as UTF-8, in bytes; refuses one over the ceiling. */
export function textBytesWithin(text: string, textBytesMax: number): number {
  // UTF-8 takes one to three bytes for each UTF-16 unit.
  const bytes = text.length > textBytesMax ? text.length : encoder.encode(text).length;
  if (bytes <= textBytesMax) return bytes;
  throw new ChatError("payload_too_large", { text: `The message is longer than ${textBytesMax} bytes.` });
}

/** A message as clients see it. */
export interface WireMessage {
  readonly id: string;
  readonly room: string;
  readonly seq: number | null;
  readonly user_id: string;
  readonly message: string;
  readonly timestamp: string;
  readonly received_at: string;
}

export const messageToWire = (message: Message | PastMessage): WireMessage => ({
  id: message.id,
  room: message.room,
  seq: message.seq,
  user_id: message.userId,
  message: message.text,
  timestamp: formatTimestamp(message.timestamp),
  received_at: formatTimestamp(message.receivedAt),
});

/** A message as JSON text, the same as of `messageToWire`: put together by hand, as there is one for each message. */
export function encodeMessage({ id, room, seq, userId, text, timestamp, receivedAt }: PastMessage): string {
  return `{"id":${JSON.stringify(id)},"room":${JSON.stringify(room)},"seq":${seq},"user_id":${JSON.stringify(userId)},"message":${JSON.stringify(text)},"timestamp":"${formatTimestamp(timestamp)}","received_at":"${formatTimestamp(receivedAt)}"}`;
}

/** An entry that has its number in a room, encoded once for all who are told. */
export interface EncodedEntry {
  readonly seq: Seq;
  /** As in `encodeMessage`. */
  readonly json: string;
  /** Of the JSON text as UTF-8. */
  readonly bytes: number;
}

export function encodeEntry(message: Message): EncodedEntry {
  const json = encodeMessage(message);
  // Which makes one flat string of the pieces, too: it may be kept for long.
  return { seq: message.seq, json, bytes: Buffer.byteLength(json) };
}

/** A refusal as clients see it. */
export interface WireError {
  readonly code: RefusalCode;
  readonly message: string;
  readonly retryable: boolean;
  readonly retry_after_ms?: number;
  readonly issues?: readonly Issue[];
}
