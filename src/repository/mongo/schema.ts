/** The shape of what is kept in MongoDB: documents as the wire has them, so that other programs can read them, and indexes. */

import { BSON, type Document, type IndexDescription, ObjectId } from "mongodb";
import { parseRoomName, parseSeq, parseUserId } from "../../domain/ids.ts";
import type { Draft, Message, PastMessage } from "../../domain/message.ts";
import type { Seq } from "../../domain/ids.ts";
import { type Millis, parseTimestamp, toMillis } from "../../domain/time.ts";
import type { UserPlace } from "../repository.ts";

export const MESSAGES = "messages";
export const META = "meta";
export const ROOM_NUMBERS = "room_numbers";

/** One message of ours. Another program's may lack `seq`, `received_at`, have a text `timestamp` and any `_id`. */
export interface MessageDocument {
  /** The message's id, UUIDv7. */
  readonly _id: string;
  readonly room: string;
  readonly seq: number;
  readonly user_id: string;
  readonly message: string;
  readonly timestamp: Date;
  readonly received_at: Date;
  readonly client_id?: string;
}

/** The one document of `meta`: which epoch of the store this is. */
export interface MetaDocument {
  readonly _id: "store";
  readonly epoch: string;
  /** The server's own name for the collection; another one means that `messages` was made anew, or put back. */
  readonly collection: string;
  /** The collection of which `room_numbers` knows every room. */
  readonly kept?: string;
}

/** What a room's number is once its messages are gone. */
export interface RoomNumberDocument {
  /** The collection, as `MetaDocument` names it: what was written down about one says nothing about the next. */
  readonly _id: { readonly collection: string; readonly room: string };
  /** No message of the room had a higher number. */
  readonly seq: number;
  /** Of the newest message when this was written. */
  readonly received_at: Date;
}

/** A filter that MongoDB recognises as implied by the partial index on `(room, seq)`. */
export const NUMBERED = { $gt: 0 };
/**
 * Of documents that have numbers the newest of each room. Both keys fall: the order of the index backwards, so that the
 * server jumps from room to room (DISTINCT_SCAN).
 */
export const NEWEST_OF_EACH_ROOM = [
  { $sort: { room: -1, seq: -1 } },
  { $group: { _id: "$room", seq: { $first: "$seq" }, received_at: { $first: "$received_at" } } },
];
/** Documents without a number yet. */
export const UNNUMBERED = { $not: NUMBERED };

/** Any receipt that was: a BSON date up to the year 9999. From the year 1 on, as some programs know no year 0. */
export const ANY_TIME = {
  $gte: new Date("0001-01-01T00:00:00Z"),
  $lte: new Date("9999-12-31T23:59:59.999Z"),
};

export const ROOM_SEQ = "room_seq";

// The numbering of rooms and harmless retries rest on the first two: without them nothing may be appended. Both filters are
// of the kind that every server both accepts in an index and recognises in a query ($exists and $type are not).
export const INDEXES: IndexDescription[] = [
  {
    name: ROOM_SEQ,
    key: { room: 1, seq: 1 },
    unique: true,
    partialFilterExpression: { seq: NUMBERED },
  },
  {
    name: "room_user_client",
    key: { room: 1, user_id: 1, client_id: 1 },
    unique: true,
    partialFilterExpression: { client_id: { $gt: "" } },
  },
  // Without `_id`, whose order is not the order of ids as text. Also finds what has no `received_at` yet.
  { name: "user_received", key: { user_id: 1, received_at: -1 } },
];

export const toDocument = (draft: Draft, seq: Seq, receivedAt: Millis): MessageDocument => ({
  _id: draft.id,
  room: draft.room,
  seq,
  user_id: draft.userId,
  message: draft.text,
  timestamp: new Date(draft.timestamp),
  received_at: new Date(receivedAt),
  ...(draft.clientId === null ? {} : { client_id: draft.clientId }),
});

/** An `_id` as text: an ObjectId's 24 hexadecimal digits, a text as it is, anything else in extended JSON. */
export function idText(id: unknown): string {
  if (typeof id === "string") return id;
  return id instanceof ObjectId ? id.toHexString() : BSON.EJSON.stringify(id, { relaxed: false });
}

/**
 * A point in time as another program may have written it: a date, or ISO-8601 text. A date before the first year or after the
 * last that a message can have is shown as the first or last moment: it must not make a whole room unreadable.
 */
export function readTime(value: unknown): Millis | undefined {
  if (typeof value === "string") return parseTimestamp(value);
  return value instanceof Date && !Number.isNaN(value.getTime()) ? toMillis(value.getTime()) : undefined;
}

/** False for a date that `readTime` would change. */
export const isInRange = (value: unknown): boolean =>
  !(value instanceof Date) || (readTime(value) as number | undefined) === value.getTime();

/**
 * What a document of any program says as a message of a user's past. A document without `received_at` was received at its
 * `timestamp`. Undefined when it cannot be shown: a name that cannot be one, no text, an unreadable time.
 */
export function readPastMessage(row: Document): PastMessage | undefined {
  const room = typeof row.room === "string" ? parseRoomName(row.room) : undefined;
  const userId = typeof row.user_id === "string" ? parseUserId(row.user_id) : undefined;
  const text: unknown = row.message;
  const timestamp = readTime(row.timestamp);
  const receivedAt = row.received_at instanceof Date ? readTime(row.received_at) : timestamp;
  if (room === undefined || userId === undefined || typeof text !== "string" || text === "") return undefined;
  if (timestamp === undefined || receivedAt === undefined) return undefined;
  return { id: idText(row._id), room, seq: readSeq(row.seq), userId, text, timestamp, receivedAt };
}

const readSeq = (value: unknown): Seq | null =>
  typeof value === "number" && value > 0 ? (parseSeq(value) ?? null) : null;

/** As readPastMessage, for a document that has its place in a room. */
export function readMessage(row: Document): Message | undefined {
  const past = readPastMessage(row);
  return past === undefined || past.seq === null ? undefined : { ...past, seq: past.seq };
}

/** Newest first by `(receivedAt, id)`, ids as UTF-8 bytes. Negative when `a` comes first. */
export const newestFirst = (a: UserPlace, b: UserPlace): number =>
  b.receivedAt - a.receivedAt || Buffer.compare(Buffer.from(b.id), Buffer.from(a.id));
