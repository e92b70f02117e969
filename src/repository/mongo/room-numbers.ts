/**
 * Where rooms end. Their messages say so, and an append writes no counter. A room whose messages another program has deleted
 * keeps its number all the same: `room_numbers` holds, for each room, a number that none given so far exceeds. It is raised by
 * many at once, when a message that exceeds it is stored and before anything of that message is told. A room without messages
 * goes on after it: some numbers are never given, and none is given twice (docs/adr/0009).
 */

import type { AnyBulkWriteOperation, Db } from "mongodb";
import { parseSeq, type RoomName, SEQ_ZERO, type Seq } from "../../domain/ids.ts";
import { type Millis, toMillis } from "../../domain/time.ts";
import { assert } from "../../errors.ts";
import { QUICK } from "./client.ts";
import type { StoreEpoch } from "./epoch.ts";
import {
  COUNTED,
  MESSAGES,
  NEWEST_OF_EACH_ROOM,
  numberOf,
  readTime,
  ROOM_NUMBERS,
  type RoomNumberDocument,
} from "./schema.ts";

/** The end of a room, after which the next message goes. */
export interface RoomEnd {
  seq: Seq;
  receivedAt: Millis;
}

export interface RoomNumbers {
  /** Where these rooms end, as a majority has them; number 0 for one that never had a message. */
  ends(rooms: Iterable<RoomName>, epoch: StoreEpoch): Promise<ReadonlyMap<RoomName, RoomEnd>>;
  /**
   * The same for an append, which also goes on after the numbers that this service has kept: another program may have deleted
   * only the newest messages, and members have seen them.
   */
  endsToGoOn(rooms: Iterable<RoomName>, epoch: StoreEpoch): Promise<ReadonlyMap<RoomName, RoomEnd>>;
  /** To be called with what was stored for good, before anything of it is told. Resolves when no number exceeds what is kept. */
  keep(stored: ReadonlyMap<RoomName, RoomEnd>, epoch: StoreEpoch): Promise<void>;
}

/** Numbers of a room that one write makes room for; the next write goes out, and is not waited for, when half are given. */
const RAISED_BY = 1_000;
/** Rooms whose kept number this service remembers; beyond, it forgets all and asks for a write more. */
const ROOMS_MAX = 100_000;

/** Rooms in one write, where all are kept. */
const KEPT_TOGETHER = 1_000;

const NO_END: RoomEnd = { seq: SEQ_ZERO, receivedAt: toMillis(Number.NEGATIVE_INFINITY) };

/** @param onError hears why a write in the background failed: a later write is waited for */
export function createRoomNumbers(db: Db, onError: (error: unknown) => void): RoomNumbers {
  const numbers = db.collection<RoomNumberDocument>(ROOM_NUMBERS);
  /** Of this collection: at least so much is kept; and the last numbers that this service told of. */
  const nothingOf = (collection: string) => ({
    collection,
    rooms: new Map<RoomName, number>(),
    told: new Map<RoomName, RoomEnd>(),
  });
  let kept = nothingOf("");
  /** Raised in the background just now. */
  const raising = new Set<RoomName>();
  const idOf = (room: RoomName, { collection }: StoreEpoch) => ({ collection, room });

  async function readKept(rooms: readonly RoomName[], epoch: StoreEpoch) {
    if (rooms.length === 0) return [];
    const rows = await numbers
      .find({ _id: { $in: rooms.map((room) => idOf(room, epoch)) } }, QUICK)
      .toArray();
    return rows.map((row) => [row._id.room as RoomName, toEnd(row)] as const);
  }

  async function raise(ends: readonly (readonly [RoomName, RoomEnd])[], epoch: StoreEpoch): Promise<void> {
    await numbers.bulkWrite(
      ends.map(([room, { seq, receivedAt }]) => ({
        updateOne: {
          filter: { _id: idOf(room, epoch) },
          update: { $max: { seq: seq + RAISED_BY, received_at: new Date(receivedAt) } },
          upsert: true,
        },
      })),
      { ordered: false },
    );
    if (kept.collection !== epoch.collection || kept.rooms.size > ROOMS_MAX)
      kept = nothingOf(epoch.collection);
    for (const [room, { seq }] of ends)
      kept.rooms.set(room, Math.max(seq + RAISED_BY, kept.rooms.get(room) ?? 0));
  }

  async function ends(asked: Iterable<RoomName>, epoch: StoreEpoch): Promise<Map<RoomName, RoomEnd>> {
    const rooms = [...asked];
    const found = new Map(await readNewest(db, rooms));
    const gone = await readKept(
      rooms.filter((room) => !found.has(room)),
      epoch,
    );
    for (const [room, end] of gone) found.set(room, end);
    // A room's first message may have been stored between the two looks: its number is kept then, and it is there.
    const again = await readNewest(
      db,
      gone.map(([room]) => room),
    );
    for (const [room, end] of again) found.set(room, end);
    return new Map(rooms.map((room) => [room, found.get(room) ?? { ...NO_END }]));
  }

  return {
    ends,

    async endsToGoOn(asked, epoch) {
      const found = await ends(asked, epoch);
      if (kept.collection !== epoch.collection) return found;
      for (const [room, { seq }] of found) {
        const told = kept.told.get(room);
        if (told !== undefined && told.seq > seq) found.set(room, { ...told });
      }
      return found;
    },

    async keep(stored, epoch) {
      const known = kept.collection === epoch.collection ? kept.rooms : new Map<RoomName, number>();
      const left = (room: RoomName, { seq }: RoomEnd) => (known.get(room) ?? 0) - seq;
      const exceeding = [...stored].filter(([room, end]) => left(room, end) < 0);
      const soon = [...stored].filter(
        ([room, end]) => left(room, end) >= 0 && left(room, end) < RAISED_BY / 2 && !raising.has(room),
      );
      if (soon.length > 0) {
        for (const [room] of soon) raising.add(room);
        void raise(soon, epoch)
          .catch(onError)
          .finally(() => {
            for (const [room] of soon) raising.delete(room);
          });
      }
      if (exceeding.length > 0) await raise(exceeding, epoch);
      if (kept.collection !== epoch.collection) return;
      for (const [room, { seq, receivedAt }] of stored)
        if (seq > (kept.told.get(room)?.seq ?? 0)) kept.told.set(room, { seq, receivedAt });
    },
  };
}

/**
 * Keeps the number of every room of a collection: once, for rooms that an older version wrote or that were put back: they may
 * be emptied before any service appends to them. Harmless when it is repeated, or done beside services that append.
 */
export async function keepAllRooms(db: Db, collection: string): Promise<void> {
  const numbers = db.collection<RoomNumberDocument>(ROOM_NUMBERS);
  let raises: AnyBulkWriteOperation<RoomNumberDocument>[] = [];
  const flush = async () => {
    if (raises.length > 0) await numbers.bulkWrite(raises, { ordered: false });
    raises = [];
  };
  const all = [{ $match: { room: { $gt: "" }, seq: COUNTED } }, ...NEWEST_OF_EACH_ROOM];
  for await (const row of db.collection(MESSAGES).aggregate(all, { allowDiskUse: true })) {
    const { seq, receivedAt } = toEnd(row);
    const received_at = new Date(receivedAt);
    const filter = { _id: { collection, room: String(row._id) } };
    raises.push({ updateOne: { filter, update: { $max: { seq, received_at } }, upsert: true } });
    if (raises.length === KEPT_TOGETHER) await flush();
  }
  await flush();
}

/**
 * The newest messages of these rooms: what a majority has, the next primary has too, so that no number can come to stand after
 * one that is rolled back. A number that is too low meets the unique index.
 */
async function readNewest(db: Db, rooms: readonly RoomName[]): Promise<(readonly [RoomName, RoomEnd])[]> {
  if (rooms.length === 0) return [];
  const rows = await db
    .collection(MESSAGES)
    .aggregate([{ $match: { room: { $in: [...rooms] }, seq: COUNTED } }, ...NEWEST_OF_EACH_ROOM], QUICK)
    .toArray();
  return rows.map((row) => [row._id as RoomName, toEnd(row)] as const);
}

function toEnd(row: { readonly seq?: unknown; readonly received_at?: unknown }): RoomEnd {
  // A fraction, of another program, lies between two numbers.
  const seq = parseSeq(Math.floor(numberOf(row.seq)));
  assert(seq !== undefined, "a room's newest number can be one");
  return { seq, receivedAt: readTime(row.received_at) ?? NO_END.receivedAt };
}
