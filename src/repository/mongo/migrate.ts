/**
 * Gives the messages of an older program their place: dates for text, and numbers by time after what each room has. May be
 * killed and run again, run twice, run by two, and run beside a service that appends: the unique index decides.
 */

import { type AnyBulkWriteOperation, type Collection, type Document, MongoServerError } from "mongodb";
import { type Epoch, type RoomName, type Seq, seqAfter } from "../../domain/ids.ts";
import { assert } from "../../errors.ts";
import { type MongoChoice, mongoClient, mongoDatabase } from "./client.ts";
import { DUPLICATE_KEY, prepareDatabase, type StoreEpoch } from "./epoch.ts";
import { findClashes, IndexesClash } from "./indexes.ts";
import { createRoomNumbers, type RoomEnd, type RoomNumbers } from "./room-numbers.ts";
import { ANY_TIME, isInRange, MESSAGES, readPastMessage, UNNUMBERED } from "./schema.ts";

export interface MigrationReport {
  /** Messages that got a number, or would. */
  readonly numbered: number;
  /** Rooms in which they stand. */
  readonly rooms: number;
  /** Messages that got a BSON date for `timestamp` or `received_at`, or would. */
  readonly dated: number;
  /** Documents that were left as they are: a name that cannot be one, no text, an unreadable time. */
  readonly unreadable: number;
}

/** Documents dated in one round trip. */
const DATED_MAX = 500;
/** Messages numbered before a service that appends to the same room is let in, and for how long. */
const NUMBERED_IN_A_ROW = 64;
const LET_IN_MS = 25;
/** Between two looks at an end that another writer has moved, but a majority does not have yet. */
const MAJORITY_MS = 5;

/**
 * @param dryRun counts what would be done, and changes nothing
 * @throws IndexesClash when documents or indexes keep the service's indexes from being built: names them, changes nothing
 * @throws Error of the driver where the server cannot be reached or goes away: run it again
 */
export async function migrateMongo(
  choice: MongoChoice & { readonly dryRun: boolean; readonly newEpoch: () => Epoch },
): Promise<MigrationReport> {
  // Building an index, or sorting a large collection, may take the server as long as it needs.
  const client = mongoClient(choice.uri, 0);
  try {
    await client.connect();
    const db = mongoDatabase(client, choice.databaseName);
    const documents = db.collection(MESSAGES);
    const clashes = await findClashes(db);
    if (clashes.length > 0) throw new IndexesClash(clashes);
    const epoch = choice.dryRun ? undefined : await prepareDatabase(db, choice.newEpoch);
    const { readable, rooms, dated, unreadable } = await dateMessages(documents, choice.dryRun);
    if (epoch === undefined) return { numbered: readable, rooms: rooms.size, dated, unreadable };
    // Every number is kept before the next is given, so that nothing is written in the background that could fail unheard.
    const numbers = createRoomNumbers(db, () => {});
    return { ...(await numberMessages(documents, numbers, epoch)), dated, unreadable };
  } finally {
    await client.close();
  }
}

/** First all times become dates, so that the server can sort by them, whatever the amount. */
async function dateMessages(documents: Collection, dryRun: boolean) {
  const rooms = new Set<RoomName>();
  let readable = 0;
  let dated = 0;
  let unreadable = 0;
  let updates: AnyBulkWriteOperation<Document>[] = [];
  const flush = async () => {
    if (updates.length > 0 && !dryRun) await documents.bulkWrite(updates, { ordered: false });
    updates = [];
  };
  for await (const row of documents.find({ seq: UNNUMBERED })) {
    const message = readPastMessage(row);
    if (message === undefined || !isInRange(row.timestamp) || !isInRange(row.received_at)) {
      unreadable++;
      continue;
    }
    readable++;
    rooms.add(message.room);
    if (row.timestamp instanceof Date && row.received_at instanceof Date) continue;
    dated++;
    updates.push({
      updateOne: {
        filter: { _id: row._id, timestamp: row.timestamp },
        update: {
          $set: { timestamp: new Date(message.timestamp), received_at: new Date(message.receivedAt) },
        },
      },
    });
    if (updates.length === DATED_MAX) await flush();
  }
  await flush();
  return { rooms, readable, dated, unreadable };
}

/**
 * One after the other: the next number is given only when a majority has the one before it, so that no hole can come from
 * a message that was deleted meanwhile, from an end in the middle, or from another primary.
 */
async function numberMessages(
  documents: Collection,
  roomNumbers: RoomNumbers,
  epoch: StoreEpoch,
): Promise<{ numbered: number; rooms: number }> {
  const readEnd = async (room: RoomName): Promise<RoomEnd> => {
    const end = (await roomNumbers.ends([room], epoch)).get(room);
    assert(end !== undefined, "the end of every room is read");
    return end;
  };
  const rooms = new Set<RoomName>();
  let numbered = 0;
  let end: ({ room: RoomName } & RoomEnd) | undefined;
  const sorted = documents.aggregate(
    [{ $match: { seq: UNNUMBERED, received_at: ANY_TIME } }, { $sort: { room: 1, received_at: 1, _id: 1 } }],
    { allowDiskUse: true },
  );
  for await (const row of sorted) {
    const message = readPastMessage(row);
    if (message === undefined) continue;
    const { room } = message;
    if (room !== end?.room) {
      end = { room, ...(await readEnd(room)) };
    }
    const given = await giveNumber(documents, row._id, end, readEnd);
    end = { ...end, seq: given.seq };
    if (!given.taken) continue;
    await roomNumbers.keep(new Map([[room, end]]), epoch);
    rooms.add(room);
    numbered++;
    if (numbered % NUMBERED_IN_A_ROW === 0) await Bun.sleep(LET_IN_MS);
  }
  return { numbered, rooms: rooms.size };
}

/** Gives the document the number after `end`, or a later one where others were first; `taken: false` where it has one. */
async function giveNumber(
  documents: Collection,
  id: unknown,
  { room, seq }: { readonly room: RoomName; readonly seq: Seq },
  readEnd: (room: RoomName) => Promise<RoomEnd>,
): Promise<{ seq: Seq; taken: boolean }> {
  for (let last = seq; ;) {
    const next = seqAfter(last);
    try {
      const { matchedCount } = await documents.updateOne({ _id: id, room, seq: UNNUMBERED } as Document, {
        $set: { seq: next },
      });
      return matchedCount === 1 ? { seq: next, taken: true } : { seq: last, taken: false };
    } catch (error) {
      if (!(error instanceof MongoServerError && error.code === DUPLICATE_KEY)) throw error;
      const before = last;
      last = (await readEnd(room)).seq;
      if (last === before) await Bun.sleep(MAJORITY_MS);
    }
  }
}
