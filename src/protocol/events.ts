/** The Socket.IO face of the wire: what each event carries, and how acks and server events look. */

import * as v from "valibot";
import {
  type ClientId,
  type Epoch,
  parseClientId,
  parseRoomName,
  parseUserId,
  type RoomName,
  type Seq,
  type UserId,
} from "../domain/ids.ts";
import { type Message, textFault } from "../domain/message.ts";
import type { LostReason, RoomHead } from "../domain/sequence.ts";
import { formatTimestamp, type Millis } from "../domain/time.ts";
import { type ChatError, REFUSALS } from "../errors.ts";
import {
  ClientIdSchema,
  EpochSchema,
  fields,
  parseOrRefuse,
  RoomNameSchema,
  SeqSchema,
  TextSchema,
  TimestampSchema,
  textBytesWithin,
  UserIdSchema,
  type EncodedEntry,
  type WireError,
  type WireMessage,
} from "./wire.ts";

const SendMessage = fields({
  room: RoomNameSchema,
  user_id: v.optional(UserIdSchema),
  message: TextSchema,
  timestamp: v.optional(TimestampSchema),
  client_id: v.optional(ClientIdSchema),
});

const JoinRoom = fields({
  room: RoomNameSchema,
  user_id: v.optional(UserIdSchema),
  since: v.optional(SeqSchema),
  epoch: v.optional(EpochSchema),
});

const LeaveRoom = fields({ room: RoomNameSchema, user_id: v.optional(UserIdSchema) });

export interface SendMessage {
  readonly room: RoomName;
  readonly userId: UserId | undefined;
  readonly text: string;
  /** UTF-8 length of the text. */
  readonly textBytes: number;
  readonly timestamp: Millis | undefined;
  readonly clientId: ClientId | null;
}

export interface JoinRoom {
  readonly room: RoomName;
  readonly userId: UserId | undefined;
  readonly since: Seq | undefined;
  readonly epoch: Epoch | undefined;
}

export interface LeaveRoom {
  readonly room: RoomName;
}

type SentFields = v.InferOutput<typeof SendMessage>;

/**
 * What the schema would give, for the payload that nearly everyone sends: a fifth of its time. Undefined for whatever else: the
 * schema has the last word, and the words for what is wrong (`test/protocol/events.test.ts` holds the two together).
 */
function plainSend(input: unknown): SentFields | undefined {
  if (typeof input !== "object" || input === null) return undefined;
  const { room, user_id, message, timestamp, client_id } = input as Record<string, unknown>;
  if (typeof room !== "string" || typeof user_id !== "string" || typeof message !== "string")
    return undefined;
  if (timestamp !== undefined || (client_id !== undefined && typeof client_id !== "string")) return undefined;
  const [name, userId] = [parseRoomName(room), parseUserId(user_id)];
  const clientId = client_id === undefined ? undefined : parseClientId(client_id);
  const isFit = name !== undefined && userId !== undefined && textFault(message) === undefined;
  if (!isFit || (clientId === undefined && client_id !== undefined)) return undefined;
  return { room: name, user_id: userId, message, ...(clientId !== undefined && { client_id: clientId }) };
}

/** Refuses with `invalid_payload`, or `payload_too_large` where only the text's length is at fault. */
export function parseSendMessage(input: unknown, textBytesMax: number): SendMessage {
  const sent = plainSend(input) ?? parseOrRefuse(SendMessage, input, "invalid_payload");
  return {
    room: sent.room,
    userId: sent.user_id,
    text: sent.message,
    textBytes: textBytesWithin(sent.message, textBytesMax),
    timestamp: sent.timestamp,
    clientId: sent.client_id ?? null,
  };
}

/** Takes the plain room name too. */
export function parseJoinRoom(input: unknown): JoinRoom {
  const join = parseOrRefuse(JoinRoom, namedRoom(input), "invalid_payload");
  return { room: join.room, userId: join.user_id, since: join.since, epoch: join.epoch };
}

/** Takes the plain room name too. */
export function parseLeaveRoom(input: unknown): LeaveRoom {
  return { room: parseOrRefuse(LeaveRoom, namedRoom(input), "invalid_payload").room };
}

const namedRoom = (input: unknown) => (typeof input === "string" ? { room: input } : input);

/** The server's events. */
export const SERVER_EVENTS = {
  /** Carries a WireMessage. */
  receiveMessage: "receive_message",
  /** Carry a WirePresence. */
  userJoined: "user_joined",
  userLeft: "user_left",
  /** Carries a WireError and `event`, the name of the event that was refused. */
  error: "error",
} as const;

export interface WirePresence {
  readonly room: string;
  readonly user_id: string;
  readonly timestamp: string;
}

export const presenceToWire = (room: RoomName, userId: UserId, at: Millis): WirePresence => ({
  room,
  user_id: userId,
  timestamp: formatTimestamp(at),
});

export const sentToWire = (message: Message, duplicate: boolean) => ({
  ok: true as const,
  id: message.id,
  room: message.room,
  seq: message.seq,
  timestamp: formatTimestamp(message.timestamp),
  received_at: formatTimestamp(message.receivedAt),
  duplicate,
});

/** The same as JSON text: put together by hand, as there is one for each message. */
export function encodeSent(message: Message, duplicate: boolean): string {
  const { id, room, seq, timestamp, receivedAt } = message;
  return `{"ok":true,"id":${JSON.stringify(id)},"room":${JSON.stringify(room)},"seq":${seq},"timestamp":"${formatTimestamp(timestamp)}","received_at":"${formatTimestamp(receivedAt)}","duplicate":${duplicate}}`;
}

/**
 * What a join found of the past: nothing was asked for, all of it (or its beginning), or why it cannot be told.
 * @typeParam M how its messages are there
 */
export type Replay<M> =
  | { readonly kind: "none" }
  | {
      readonly kind: "recovered";
      readonly messages: readonly M[];
      /** The number up to which this tells all. */
      readonly through: Seq;
    }
  | { readonly kind: "lost"; readonly reason: LostReason };

export const joinedToWire = (room: RoomName, head: RoomHead, replay: Replay<WireMessage>) => ({
  ok: true as const,
  room,
  epoch: head.epoch,
  seq: head.seq,
  first_seq: head.firstSeq,
  ...(replay.kind === "recovered" && {
    recovered: true,
    through: replay.through,
    complete: replay.through === head.seq,
    // Last: see `encodeJoined`.
    messages: replay.messages,
  }),
  ...(replay.kind === "lost" && { recovered: false, reason: replay.reason }),
});

/** The same as JSON text, of messages that are JSON texts already. */
export function encodeJoined(room: RoomName, head: RoomHead, replay: Replay<EncodedEntry>): string {
  if (replay.kind !== "recovered") return JSON.stringify(joinedToWire(room, head, replay));
  const { through, messages } = replay;
  const around = JSON.stringify(joinedToWire(room, head, { kind: "recovered", through, messages: [] }));
  return `${around.slice(0, -"]}".length)}${messages.map(({ json }) => json).join(",")}]}`;
}

export const leftToWire = (room: RoomName) => ({ ok: true as const, room });

export const errorToWire = (error: ChatError): WireError => ({
  code: error.code,
  message: error.message,
  retryable: REFUSALS[error.code].retryable,
  ...(error.details.retryAfterMs !== undefined && { retry_after_ms: error.details.retryAfterMs }),
  ...(error.details.issues !== undefined && { issues: error.details.issues }),
});
