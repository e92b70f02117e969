/** The embedded store's reads: each runs on the calling thread, bounded, by an index, on a read-only connection. */

import type { Database } from "bun:sqlite";
import type { Epoch, RoomName, Seq, UserId } from "../../domain/ids.ts";
import { SEQ_ZERO, seqAfter } from "../../domain/ids.ts";
import type { Message } from "../../domain/message.ts";
import type { RoomHead } from "../../domain/sequence.ts";
import type { Millis } from "../../domain/time.ts";
import type {
  MessageRepository,
  PageBounds,
  RoomPage,
  RoomSummary,
  TimeRange,
  UserPlace,
} from "../repository.ts";
import { LIMITS } from "../../limits.ts";
import { SEQ_BITS, SEQ_MAX } from "./schema.ts";

type Port = MessageRepository;
type Sync<F> = F extends (...args: infer A) => Promise<infer R> ? (...args: A) => R : never;

/** The port's reads without the waiting. Each must run inside one transaction, so that head and rows are one view. */
export type Reads = {
  readonly [K in "head" | "heads" | "readAfter" | "readBefore" | "readRooms"]: Sync<Port[K]>;
} & {
  readByUser(query: UserQuery): UserPage;
  /**
   * The same in one room. Each step looks at a bounded number of the user's messages, newest first, and gives the page
   * when it is known.
   */
  pickByUserInRoom(query: UserQuery & { readonly room: RoomName }): { step(): UserPage | undefined };
  finalize(): void;
};

type UserQuery = Omit<Parameters<Port["readByUser"]>[0], "room">;
type UserPage = { readonly messages: readonly Message[]; readonly more: boolean };

/** What is above every place in time. */
const NEVER = Number.MAX_SAFE_INTEGER;
const LONG_AGO = Number.MIN_SAFE_INTEGER;

const COLUMNS = "m.id, m.seq, m.user_id, m.text, m.timestamp, m.received_at";
interface Row {
  readonly id: string;
  readonly seq: Seq;
  readonly user_id: UserId;
  readonly text: string;
  readonly timestamp: Millis;
  readonly received_at: Millis;
}
interface RowOfRoom extends Row {
  readonly name: RoomName;
}
const within = (room: string, from: string, to: string) =>
  `place BETWEEN (${room} << ${SEQ_BITS}) | ${from} AND (${room} << ${SEQ_BITS}) | ${to}`;
const BY_USER = `SELECT ${COLUMNS}, r.name FROM messages m JOIN rooms r ON r.id = m.room_id`;
const OF_USER = `FROM messages WHERE user_id = ?1 AND (received_at, id) < (?2, ?3) AND received_at >= ?4
  ORDER BY received_at DESC, id DESC`;

/** Every statement of the reads, for the test that asks SQLite how it would run them. */
export const READ_STATEMENTS = {
  findRoom: "SELECT id, seq FROM rooms WHERE name = ?1",
  firstSeq: `SELECT seq FROM messages WHERE ${within("?1", "0", `${SEQ_MAX}`)} ORDER BY place LIMIT 1`,
  receivedAt: `SELECT seq, received_at FROM messages WHERE ${within("?1", "?2", `${SEQ_MAX}`)} ORDER BY place LIMIT 1`,
  upwards: `SELECT ${COLUMNS} FROM messages m WHERE ${within("?1", "?2", "?3")} ORDER BY place LIMIT ?4`,
  downwards: `SELECT ${COLUMNS} FROM messages m WHERE ${within("?1", "?2", "?3")} ORDER BY place DESC LIMIT ?4`,
  byUser: `${BY_USER} WHERE m.user_id = ?1 AND (m.received_at, m.id) < (?2, ?3) AND m.received_at >= ?4
    ORDER BY m.received_at DESC, m.id DESC LIMIT ?5`,
  // Picked from the index alone: it carries the place, and with it the room.
  pick: `SELECT place & ${SEQ_MAX} FROM (SELECT place, received_at, id ${OF_USER} LIMIT ?5)
    WHERE ${within("?6", "0", `${SEQ_MAX}`)} ORDER BY received_at DESC, id DESC LIMIT ?7`,
  pickOn: `SELECT received_at, id ${OF_USER} LIMIT 1 OFFSET ?5`,
  atPlace: `SELECT ${COLUMNS} FROM messages m WHERE place = (?1 << ${SEQ_BITS}) | ?2`,
  rooms: `SELECT name, seq, last_received_at FROM rooms r WHERE (last_received_at, name) < (?1, ?2)
    AND EXISTS (SELECT 1 FROM messages WHERE ${within("r.id", "0", `${SEQ_MAX}`)})
    ORDER BY last_received_at DESC, name DESC LIMIT ?3`,
} as const;

export function createReads(db: Database, epoch: Epoch): Reads {
  const statements = {
    findRoom: db.prepare(READ_STATEMENTS.findRoom),
    firstSeq: db.prepare(READ_STATEMENTS.firstSeq),
    receivedAt: db.prepare(READ_STATEMENTS.receivedAt),
    upwards: db.prepare(READ_STATEMENTS.upwards),
    downwards: db.prepare(READ_STATEMENTS.downwards),
    byUser: db.prepare(READ_STATEMENTS.byUser),
    pick: db.prepare(READ_STATEMENTS.pick),
    pickOn: db.prepare(READ_STATEMENTS.pickOn),
    atPlace: db.prepare(READ_STATEMENTS.atPlace),
    rooms: db.prepare(READ_STATEMENTS.rooms),
  };
  const emptyHead: RoomHead = { epoch, seq: SEQ_ZERO, firstSeq: seqAfter(SEQ_ZERO) };

  const findRoom = (name: RoomName) => statements.findRoom.values(name)[0] as [number, Seq] | undefined;

  function boundsOf([id, seq]: [number, Seq]): RoomHead {
    const first = statements.firstSeq.values(id)[0] as [Seq] | undefined;
    return { epoch, seq, firstSeq: first?.[0] ?? seqAfter(seq) };
  }

  /** The first number at or after which `receivedAt` is not below `at`: halves the room, because it never falls. */
  function firstSeqAt(roomId: number, head: RoomHead, at: Millis): number {
    let low: number = head.firstSeq;
    let high: number = head.seq + 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      // The message at `middle`, or the next one where that was deleted.
      const row = statements.receivedAt.values(roomId, middle)[0] as [number, number] | undefined;
      if (row === undefined || row[1] >= at) high = middle;
      else low = row[0] + 1;
    }
    return low;
  }

  type Stretch = readonly [from: number, to: number];
  function page(
    room: RoomName,
    direction: "upwards" | "downwards",
    [from, to]: Stretch,
    bounds: PageBounds,
    range: TimeRange = {},
  ): RoomPage {
    const found = findRoom(room);
    if (found === undefined) return { head: emptyHead, messages: [], more: false };
    const [id] = found;
    const head = boundsOf(found);
    const first = range.from === undefined ? from : Math.max(from, firstSeqAt(id, head, range.from));
    const last = range.to === undefined ? to : Math.min(to, firstSeqAt(id, head, range.to) - 1);
    if (first > last) return { head, messages: [], more: false };
    const rows = statements[direction].iterate(id, first, last, bounds.messagesMax + 1) as Iterable<Row>;
    return { head, ...cut(rows, bounds, () => room) };
  }

  return {
    head(room) {
      const found = findRoom(room);
      return found === undefined ? emptyHead : boundsOf(found);
    },
    heads: (rooms) => ({ epoch, seqs: rooms.map((room) => findRoom(room)?.[1] ?? SEQ_ZERO) }),
    readAfter: (room, after, bounds, range) =>
      page(room, "upwards", [Math.min(after, SEQ_MAX) + 1, SEQ_MAX], bounds, range),
    readBefore: (room, before, bounds, range) =>
      page(room, "downwards", [1, Math.min(before ?? NEVER, SEQ_MAX + 1) - 1], bounds, range),
    readByUser({ userId, before, bounds, range = {} }) {
      const { receivedAt, id } = placeBelow(before, range.to);
      const rows = statements.byUser.iterate(
        userId,
        receivedAt,
        id,
        range.from ?? LONG_AGO,
        bounds.messagesMax + 1,
      ) as Iterable<RowOfRoom>;
      return cut(rows, bounds, (row) => row.name);
    },
    pickByUserInRoom({ userId, room, before, bounds, range = {} }) {
      let from: UserPlace | undefined = placeBelow(before, range.to);
      const rows: Row[] = [];
      const lowest = range.from ?? LONG_AGO;
      return {
        step() {
          const found = findRoom(room);
          if (found === undefined || from === undefined) return { messages: [], more: false };
          const span = [userId, from.receivedAt, from.id, lowest] as const;
          const wanted = bounds.messagesMax + 1 - rows.length;
          const picked = statements.pick.values(...span, LIMITS.pickedRowsMax, found[0], wanted);
          for (const [seq] of picked) rows.push(statements.atPlace.get(found[0], seq as Seq) as Row);
          const [next] = statements.pickOn.values(...span, LIMITS.pickedRowsMax - 1);
          from = next && { receivedAt: next[0] as Millis, id: next[1] as string };
          return from === undefined || rows.length > bounds.messagesMax
            ? cut(rows, bounds, () => room)
            : undefined;
        },
      };
    },
    readRooms({ before, roomsMax }) {
      const rows = statements.rooms.values(before?.lastMessageAt ?? NEVER, before?.room ?? "", roomsMax + 1);
      const rooms = (rows as [RoomName, Seq, Millis][])
        .slice(0, roomsMax)
        .map(([room, seq, lastMessageAt]): RoomSummary => ({ room, seq, lastMessageAt }));
      return { rooms, more: rows.length > roomsMax };
    },
    finalize() {
      for (const statement of Object.values(statements)) statement.finalize();
    },
  };
}

/** The lower of a place and the end of a range: every id stands above the empty one. */
function placeBelow(before: UserPlace | null, to: Millis | undefined): UserPlace {
  if (to !== undefined && (before === null || before.receivedAt >= to)) return { receivedAt: to, id: "" };
  return before ?? { receivedAt: NEVER as Millis, id: "" };
}

/** Takes rows up to the bounds; one row beyond them says that there is more. */
function cut<R extends Row>(
  rows: Iterable<R>,
  { messagesMax, textBytesMax }: PageBounds,
  roomOf: (row: R) => RoomName,
): { messages: Message[]; more: boolean } {
  const messages: Message[] = [];
  let textBytes = 0;
  for (const row of rows) {
    if (messages.length === messagesMax || (messages.length > 0 && textBytes >= textBytesMax))
      return { messages, more: true };
    const { id, seq, user_id: userId, text, timestamp, received_at: receivedAt } = row;
    messages.push({ id, room: roomOf(row), seq, userId, text, timestamp, receivedAt });
    textBytes += Buffer.byteLength(text);
  }
  return { messages, more: false };
}
