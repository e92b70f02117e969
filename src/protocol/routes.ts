/** The HTTP face of the wire: what each route is asked, read strictly from the raw path and query, and how it answers. */

import * as v from "valibot";
import { type Epoch, parseSeq, type RoomName, type Seq, type UserId } from "../domain/ids.ts";
import type { Message, PastMessage } from "../domain/message.ts";
import type { RoomHead } from "../domain/sequence.ts";
import { formatTimestamp, type Millis, parseTimestamp } from "../domain/time.ts";
import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import {
  type Cursor,
  type RoomCursorPlace,
  type RoomsCursorPlace,
  roomCursor,
  roomsCursor,
  type UserCursorPlace,
  userCursor,
} from "./cursor.ts";
import { errorToWire, type SendMessage } from "./events.ts";
import {
  ClientIdSchema,
  EpochSchema,
  fields,
  messageToWire,
  parsedString,
  parseOrRefuse,
  RoomNameSchema,
  TextSchema,
  TimestampSchema,
  textBytesWithin,
  UserIdSchema,
} from "./wire.ts";

const wholeNumber = (text: string) => (/^\d{1,16}$/.test(text) ? Number(text) : Number.NaN);

const Limit = parsedString((text) => {
  const limit = wholeNumber(text);
  return limit >= 1 && limit <= LIMITS.pageMax ? limit : undefined;
}, `must be a whole number from 1 to ${LIMITS.pageMax}`);
const After = parsedString((text) => parseSeq(wholeNumber(text)), "must be a whole number from 0 on");
// A bare `+` in a query stands for a space, and no timestamp has one: `…T09:05+02:00` can be pasted as it is.
const Instant = parsedString(
  (text) => parseTimestamp(text.replace(" ", "+")),
  "must be an ISO-8601 date and time, like 2026-01-31T09:05:00.000Z",
);

const paging = { limit: v.optional(Limit, String(LIMITS.pageDefault)), cursor: v.optional(v.string()) };
const bounds = { from: v.optional(Instant), to: v.optional(Instant) };

const UserQuery = v.object({ ...paging, ...bounds, room: v.optional(RoomNameSchema) });
const RoomQuery = v.object({
  ...paging,
  ...bounds,
  after: v.optional(After),
  epoch: v.optional(EpochSchema),
});
const RoomsQuery = v.object(paging);

const PostBody = fields({
  user_id: v.optional(UserIdSchema),
  message: TextSchema,
  timestamp: v.optional(TimestampSchema),
});
// Header bytes reach us as Latin-1: beyond ASCII the same id would be another one than over Socket.IO.
const IdempotencyKey = v.pipe(v.string(), v.regex(/^[\x20-\x7e]*$/, "must be ASCII"), ClientIdSchema);

interface Range {
  readonly from?: Millis;
  readonly to?: Millis;
}

/** Writes the cursor of the page that goes on from there. */
export type WriteCursor<Place> = (place: Place) => string;

export interface UserHistoryQuery {
  readonly userId: UserId;
  readonly room?: RoomName;
  readonly before: UserCursorPlace | null;
  readonly messagesMax: number;
  readonly range: Range;
  readonly writeCursor: WriteCursor<UserCursorPlace>;
}

export interface RoomHistoryQuery {
  readonly room: RoomName;
  readonly start:
    | { readonly kind: "newest" }
    | RoomCursorPlace
    | { readonly kind: "after"; readonly seq: Seq; readonly epoch: Epoch | undefined };
  readonly messagesMax: number;
  readonly range: Range;
  readonly writeCursor: WriteCursor<RoomCursorPlace>;
}

export interface RoomsQuery {
  readonly before: RoomsCursorPlace | null;
  readonly roomsMax: number;
  readonly writeCursor: WriteCursor<RoomsCursorPlace>;
}

/** Every reader below refuses with `invalid_request`; segments and queries come as they were sent, still encoded. */
export function parseUserHistory(rawUserId: string, rawQuery: string): UserHistoryQuery {
  const userId = parseSegment("user_id", UserIdSchema, rawUserId);
  const { limit, cursor: text, ...given } = parseQuery(UserQuery, rawQuery);
  const cursor = userCursor(userId);
  const { place, asked } = resumed(cursor, text, given);
  return {
    userId,
    ...(asked.room !== undefined && { room: asked.room }),
    before: place,
    messagesMax: limit,
    range: rangeOf(asked),
    writeCursor: (next) => cursor.write(next, asked),
  };
}

export function parseRoomHistory(rawRoom: string, rawQuery: string): RoomHistoryQuery {
  const room = parseSegment("room", RoomNameSchema, rawRoom);
  const { epoch, limit, cursor: text, ...given } = parseQuery(RoomQuery, rawQuery);
  const cursor = roomCursor(room);
  const { place, asked } = resumed(cursor, text, given);
  const { after } = asked;
  if (epoch !== undefined && after === undefined) throw faultAt("epoch", "can only go with after");
  if (epoch !== undefined && place !== null && epoch !== place.epoch) throw unlikeCursor("epoch");
  const first =
    after === undefined ? ({ kind: "newest" } as const) : ({ kind: "after", seq: after, epoch } as const);
  return {
    room,
    start: place ?? first,
    messagesMax: limit,
    range: rangeOf(asked),
    writeCursor: (next) => cursor.write(next, asked),
  };
}

export function parseRooms(rawQuery: string): RoomsQuery {
  const { limit, cursor: text } = parseQuery(RoomsQuery, rawQuery);
  const cursor = roomsCursor();
  const { place, asked } = resumed(cursor, text, {});
  return { before: place, roomsMax: limit, writeCursor: (next) => cursor.write(next, asked) };
}

/**
 * Where a list goes on, and what its first request asked for: as the cursor has it, and without a cursor as it is given now.
 * What is given beside a cursor must be the same.
 */
function resumed<Place, Asked extends object>(
  cursor: Cursor<Place, Asked>,
  text: string | undefined,
  given: Asked,
): { readonly place: Place | null; readonly asked: Asked } {
  if (text === undefined) return { place: null, asked: given };
  const read = cursor.read(text);
  for (const name of Object.keys(given) as (keyof Asked & string)[]) {
    if (given[name] !== undefined && given[name] !== read.asked[name]) throw unlikeCursor(name);
  }
  return read;
}

const unlikeCursor = (path: string) =>
  faultAt(path, "must be as in the request that the cursor's list began with, or left out");

/** Refuses with `payload_too_large` too, where only the text's length is at fault. */
export function parsePostMessage(
  sent: { readonly rawRoom: string; readonly idempotencyKey: string | undefined; readonly body: unknown },
  textBytesMax: number,
): SendMessage {
  const room = parseSegment("room", RoomNameSchema, sent.rawRoom);
  const key = parseOrRefuse(
    v.object({ "Idempotency-Key": v.optional(IdempotencyKey) }),
    { "Idempotency-Key": sent.idempotencyKey },
    "invalid_request",
  );
  const body = parseOrRefuse(PostBody, sent.body, "invalid_request");
  return {
    room,
    userId: body.user_id,
    text: body.message,
    textBytes: textBytesWithin(body.message, textBytesMax),
    timestamp: body.timestamp,
    clientId: key["Idempotency-Key"] ?? null,
  };
}

/** The value of a JSON body, or a refusal; deep nesting is refused before anything walks it. */
export function parseJsonBody(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw faultAt("", "must be JSON");
  }
  const children = (node: unknown) => (typeof node === "object" && node !== null ? Object.values(node) : []);
  let level = children(value);
  for (let depth = 1; level.length > 0; depth += 1) {
    if (depth > LIMITS.jsonDepthMax)
      throw faultAt("", `must not be nested deeper than ${LIMITS.jsonDepthMax}`);
    level = level.flatMap(children);
  }
  return value;
}

/** A page as JSON text, as are all that have messages in them: it may be kept. */
export const encodeUserPage = (
  page: { readonly messages: readonly PastMessage[]; readonly next: UserCursorPlace | null },
  writeCursor: WriteCursor<UserCursorPlace>,
) =>
  JSON.stringify({
    messages: page.messages.map(messageToWire),
    next_cursor: page.next === null ? null : writeCursor(page.next),
  });

export const encodeRoomPage = (
  page: {
    readonly head: RoomHead;
    readonly messages: readonly Message[];
    readonly next: RoomCursorPlace | null;
  },
  writeCursor: WriteCursor<RoomCursorPlace>,
) =>
  JSON.stringify({
    messages: page.messages.map(messageToWire),
    next_cursor: page.next === null ? null : writeCursor(page.next),
    epoch: page.head.epoch,
    first_seq: page.head.firstSeq,
    seq: page.head.seq,
  });

export const roomsPageToWire = (
  page: {
    readonly rooms: readonly (RoomsCursorPlace & { readonly seq: Seq })[];
    readonly next: RoomsCursorPlace | null;
  },
  writeCursor: WriteCursor<RoomsCursorPlace>,
) => ({
  rooms: page.rooms.map(({ room, seq, lastMessageAt }) => ({
    room,
    seq,
    last_message_at: formatTimestamp(lastMessageAt),
  })),
  next_cursor: page.next === null ? null : writeCursor(page.next),
});

/** How a refusal reads over HTTP: what an event calls an invalid payload is an invalid request here. */
export function refusalToWire(error: ChatError) {
  const told = error.code === "invalid_payload" ? new ChatError("invalid_request", error.details) : error;
  return { error: { ...errorToWire(told), ...told.details.facts } };
}

const faultAt = (path: string, message: string) =>
  new ChatError("invalid_request", { issues: [{ path, message }] });

/**
 * U+FFFD as the runtime writes it in the place of raw bytes that are not UTF-8. Taken, it would name another room than the
 * one that was asked for. A client that means the character itself writes it in small letters.
 */
const REPLACED_BYTES = "%EF%BF%BD";

/** Percent-encoding, strictly: what is not UTF-8 is refused. */
function decoded(raw: string, path: string): string {
  if (raw.includes(REPLACED_BYTES))
    throw faultAt(path, "must be UTF-8; the character U+FFFD is written %ef%bf%bd");
  try {
    return decodeURIComponent(raw);
  } catch {
    throw faultAt(path, "must be percent-encoded UTF-8");
  }
}

function parseSegment<T>(name: string, schema: v.GenericSchema<unknown, T>, raw: string): T {
  const segment = v.object({ [name]: schema });
  return parseOrRefuse(segment, { [name]: decoded(raw, name) }, "invalid_request")[name] as T;
}

/** The parameters that the schema names. Others are ignored; one that comes twice is refused, and so is bad encoding. */
function parseQuery<E extends v.ObjectEntries>(schema: v.ObjectSchema<E, undefined>, rawQuery: string) {
  const given = new Map<string, string>();
  for (const part of rawQuery.split("&")) {
    if (part === "") continue;
    const [rawKey = "", ...rest] = part.replaceAll("+", " ").split("=");
    const key = decoded(rawKey, "query");
    const known = Object.hasOwn(schema.entries, key);
    const value = decoded(rest.join("="), known ? key : "query");
    if (!known) continue;
    if (given.has(key)) throw faultAt(key, "must be given once");
    given.set(key, value);
  }
  return parseOrRefuse(schema, Object.fromEntries(given), "invalid_request");
}

const rangeOf = ({ from, to }: { from?: Millis | undefined; to?: Millis | undefined }): Range => ({
  ...(from !== undefined && { from }),
  ...(to !== undefined && { to }),
});
