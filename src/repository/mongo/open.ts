/** The store in MongoDB: shared with other services and other programs, and free to come and go. */

import type { Document } from "mongodb";
import { parseRoomName, parseSeq, type RoomName, SEQ_ZERO, type Seq, seqAfter } from "../../domain/ids.ts";
import type { Message } from "../../domain/message.ts";
import type { RoomHead } from "../../domain/sequence.ts";
import { assert } from "../../errors.ts";
import { createMongoAppend } from "./append.ts";
import { type MongoChoice, QUICK } from "./client.ts";
import { connectMongo, type MongoConnection } from "./connection.ts";
import type { StoreEpoch } from "./epoch.ts";
import { ANY_TIME, NEWEST_OF_EACH_ROOM, NUMBERED, readMessage, readTime } from "./schema.ts";
import { readUserRows } from "./user-history.ts";
import type {
  MessageRepository,
  PageBounds,
  RepositoryWorld,
  RoomPage,
  RoomPlace,
  RoomSummary,
  TimeRange,
} from "../repository.ts";

/**
 * Resolves at once, also while the server is away: it connects in the background, makes the indexes when it first can, and
 * recovers by itself.
 * @throws Error of one line without credentials, when the address cannot be one
 */
export async function openMongoRepository(world: RepositoryWorld & MongoChoice): Promise<MessageRepository> {
  const connection = connectMongo(world);
  const append = createMongoAppend(connection);
  const { documents } = connection;

  /** What the room holds in that stretch, in that direction, as of the newest number at the start. */
  const readRoom = (
    room: RoomName,
    stretch: { readonly $gt: number; readonly $lt?: number },
    direction: 1 | -1,
    bounds: PageBounds,
    range: TimeRange = {},
  ): Promise<RoomPage> =>
    connection.readShared(JSON.stringify([room, stretch, direction, bounds, range]), async (epoch, ended) => {
      const newest = await readNewest(connection, room, epoch);
      // On the server, not by search: along the numbers that `migrate` gave out, the time falls.
      const received = {
        ...(range.from === undefined ? {} : { $gte: new Date(range.from) }),
        ...(range.to === undefined ? {} : { $lt: new Date(range.to) }),
      };
      const cursor = documents
        .find(
          {
            room,
            seq: { ...stretch, $lte: newest },
            ...(Object.keys(received).length === 0 ? {} : { received_at: received }),
          },
          QUICK,
        )
        .sort({ seq: direction })
        .limit(bounds.messagesMax + 1)
        .batchSize(Math.min(bounds.messagesMax + 1, BATCH_ROWS_MAX));
      const { messages, more } = await takePage(cursor, bounds, readNumbered, ended);
      // After the page: what was deleted meanwhile then lies below `firstSeq`, and is never a silent hole.
      const [oldest] = await Promise.all([readEnd(connection, room, 1), connection.verify(epoch)]);
      return { head: toHead(epoch, newest, oldest), messages, more };
    });

  return {
    kind: "mongodb",
    shared: true,
    place: connection.place,
    status: connection.status,
    append: async (drafts) => (drafts.length === 0 ? [] : append(drafts)),

    head: (room) =>
      connection.readShared(JSON.stringify([room]), async (epoch) => {
        const newest = await readNewest(connection, room, epoch);
        const [oldest] = await Promise.all([readEnd(connection, room, 1), connection.verify(epoch)]);
        return toHead(epoch, newest, oldest);
      }),

    heads: (rooms) =>
      connection.read(async (epoch) => {
        const ends = await connection.numbers.ends(new Set(rooms), epoch);
        // After the ends: they are of this epoch then.
        await connection.verify(epoch);
        return { epoch: epoch.name, seqs: rooms.map((room) => ends.get(room)?.seq ?? SEQ_ZERO) };
      }),

    readAfter: (room, after, bounds, range) => readRoom(room, { $gt: after }, 1, bounds, range),

    readBefore: (room, before, bounds, range) =>
      readRoom(room, before === null ? NUMBERED : { ...NUMBERED, $lt: before }, -1, bounds, range),

    readByUser: ({ bounds, ...query }) =>
      connection.read(async (_epoch, ended) => {
        const rows = await readUserRows(connection, query, bounds.messagesMax + 1, ended);
        return takePage(rows, bounds, (message) => message, ended);
      }),

    readRooms: ({ before, roomsMax }) =>
      connection.read(async () => {
        const rows = await documents
          .aggregate(
            [
              // Says nothing about the names, but lets the index take part.
              { $match: { room: { $gt: "" }, seq: NUMBERED } },
              ...NEWEST_OF_EACH_ROOM,
              { $match: roomsAfter(before) },
              { $sort: { received_at: -1, _id: -1 } },
              { $limit: roomsMax + 1 },
            ],
            { ...QUICK, allowDiskUse: true },
          )
          .toArray();
        return { rooms: rows.slice(0, roomsMax).flatMap(toSummary), more: rows.length > roomsMax };
      }),

    // Other services write the same database.
    revision: () => null,

    close: connection.close,
  };
}

/** Documents of one round trip: a long page of long texts must not be sent at once when few of them fit. */
const BATCH_ROWS_MAX = 256;

/** Takes what the bounds let through; `more` when something was left. */
async function takePage<Row, M extends { readonly text: string }>(
  rows: AsyncIterable<Row> | Iterable<Row>,
  { messagesMax, textBytesMax }: PageBounds,
  read: (row: Row) => M,
  ended: AbortSignal,
): Promise<{ messages: M[]; more: boolean }> {
  const messages: M[] = [];
  let textBytes = 0;
  for await (const row of rows) {
    ended.throwIfAborted();
    if (messages.length === messagesMax || textBytes >= textBytesMax) return { messages, more: true };
    const message = read(row);
    messages.push(message);
    textBytes += Buffer.byteLength(message.text);
  }
  return { messages, more: false };
}

/** The newest number of the room (-1), or the oldest (1). */
async function readEnd(
  { documents }: MongoConnection,
  room: RoomName,
  direction: 1 | -1,
): Promise<Seq | undefined> {
  const row = await documents.findOne(
    { room, seq: NUMBERED },
    { ...QUICK, sort: { seq: direction }, projection: { _id: 0, seq: 1 } },
  );
  return row === null ? undefined : seqOf(row.seq);
}

/** The newest number of the room, also when its messages are gone. */
async function readNewest(connection: MongoConnection, room: RoomName, epoch: StoreEpoch): Promise<Seq> {
  return (
    (await readEnd(connection, room, -1)) ??
    (await connection.numbers.ends([room], epoch)).get(room)?.seq ??
    SEQ_ZERO
  );
}

/** Read in this order: the oldest may be gone, or even lie above the newest that was, when the room was emptied meanwhile. */
function toHead({ name }: StoreEpoch, seq: Seq, oldest: Seq | undefined): RoomHead {
  return { epoch: name, seq, firstSeq: oldest === undefined || oldest > seq ? seqAfter(seq) : oldest };
}

function seqOf(value: unknown): Seq {
  const seq = parseSeq(Number(value));
  assert(seq !== undefined, "a number that the index holds is a place in a room");
  return seq;
}

/** A numbered document that cannot be read is a hole that another program made: said aloud, never passed over. */
function readNumbered(row: Document): Message {
  const message = readMessage(row);
  if (message === undefined)
    throw new Error(`the document ${String(row._id)} has a number, but is no message: repair or renumber it`);
  return message;
}

const roomsAfter = (before: RoomPlace | null): Document =>
  before === null
    ? { received_at: ANY_TIME }
    : {
        $or: [
          { received_at: { ...ANY_TIME, $lt: new Date(before.lastMessageAt) } },
          { received_at: new Date(before.lastMessageAt), _id: { $lt: before.room } },
        ],
      };

function toSummary(row: Document): RoomSummary[] {
  const room = parseRoomName(String(row._id));
  const lastMessageAt = readTime(row.received_at);
  return room === undefined || lastMessageAt === undefined
    ? []
    : [{ room, seq: seqOf(row.seq), lastMessageAt }];
}
