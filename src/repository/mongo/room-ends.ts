/**
 * Where rooms end, also when another program has deleted their newest messages: a room keeps its number. The messages
 * themselves say where a room ends, so an append writes no counter. Beside them `room_ends` keeps, for each room, a number
 * that was given for good, raised in the background. A service that appends to a room claims it there first: a claim says
 * that higher numbers may have been given than the document knows. A room without messages that nobody claims ends exactly
 * where its document says. One that another service claims is waited for; where that service is dead, nobody can know the
 * number any more, and the store's epoch changes (docs/adr/0009-keep-the-number-of-an-emptied-room.md).
 */

import type { AnyBulkWriteOperation, Collection, Db, Document } from "mongodb";
import { type Epoch, parseSeq, type RoomName, SEQ_ZERO, type Seq } from "../../domain/ids.ts";
import { type Millis, toMillis } from "../../domain/time.ts";
import { assert } from "../../errors.ts";
import { QUICK } from "./client.ts";
import type { StoreEpoch } from "./epoch.ts";
import {
  MESSAGES,
  NEWEST_OF_EACH_ROOM,
  NUMBERED,
  readTime,
  ROOM_ENDS,
  type RoomEndDocument,
} from "./schema.ts";

/** The end of a room, after which the next message goes. */
export interface RoomEnd {
  seq: Seq;
  receivedAt: Millis;
}

export interface RoomEnds {
  /** Keeps the claims on these rooms until the result is called. */
  use(rooms: ReadonlySet<RoomName>): () => void;
  /**
   * The ends of these rooms, which are claimed from now on. `contested` are rooms whose newest messages are gone and that
   * other services claim, with those claims: nobody knows their ends. Ask again after `release`.
   */
  claim(
    rooms: ReadonlySet<RoomName>,
    epoch: StoreEpoch,
  ): Promise<{
    readonly ends: ReadonlyMap<RoomName, RoomEnd>;
    readonly contested: ReadonlyMap<RoomName, Claims>;
  }>;
  /** A message of a claimed room is stored for good. */
  stored(message: { readonly room: RoomName } & RoomEnd): void;
  /** It is unknown what was stored in this room: its messages are looked at before the claim on it is given up. */
  unsure(room: RoomName): void;
  /** Writes down where these rooms end, and gives up the claims on them. */
  release(rooms: Iterable<RoomName>): Promise<void>;
  /** The last numbers of rooms that have no messages. */
  numbersOf(rooms: readonly RoomName[], epoch: StoreEpoch): Promise<ReadonlyMap<RoomName, Seq>>;
  /** Gives up all claims. */
  close(): Promise<void>;
}

/** Services that claim a room, each with a count that rises while it lives. */
export type Claims = Readonly<Record<string, number>>;

interface Claim {
  /** The newest message that is known to be stored for good. */
  end: RoomEnd;
  /** The database knows of the claim. */
  claimed: boolean;
  /** Used since the last round. */
  used: boolean;
  unsure: boolean;
  /** This service stored a message in the room since it claimed it. */
  stored: boolean;
  /** The claims of other services when this one was made, and the rounds since: an old claim that stays the same is dead. */
  others: Claims;
  rounds: number;
}

/** How long to leave a contested room alone, at least and at most: two services that wait for each other must part. */
const CONTEST_MS = { min: 50, max: 150 } as const;
/** Looks at the same claims, each after such a pause, after which the services that made them count as dead. */
const LOOKS_MAX = 30;

/** How often ends are written down and claims renewed; a room that was not used meanwhile is released. */
const ROUND_MS = 1_000;
/** Rounds after which a claim that was not renewed counts as a dead service's. */
const ROUNDS_MAX = 4;
/** Rooms in one bulk write. */
const BULK_MAX = 1_000;

const NO_END: RoomEnd = { seq: SEQ_ZERO, receivedAt: toMillis(Number.NEGATIVE_INFINITY) };
const freshClaim = (): Claim => ({
  end: NO_END,
  claimed: false,
  used: true,
  unsure: false,
  stored: false,
  others: {},
  rounds: 0,
});
const NO_EPOCH: StoreEpoch = { name: "none" as Epoch, collection: "" };

/**
 * @param newName a name that nobody has used, for the claims of one epoch
 * @param onError hears why the ends could not be written down in the background: the next round tries again
 */
export function createRoomEnds(db: Db, newName: () => string, onError: (error: unknown) => void): RoomEnds {
  const collection = db.collection<RoomEndDocument>(ROOM_ENDS);
  /** Of one epoch, which has its own name for this service: clearing a dead service's claims touches no later one. */
  let held = { epoch: NO_EPOCH, run: newName(), claims: new Map<RoomName, Claim>() };
  const inUse = new Map<RoomName, number>();
  let beat = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  /** Writes go out one after the other: a claim must not overtake the release before it. */
  let writing: Promise<unknown> = Promise.resolve();

  const inOrder = <T>(work: () => Promise<T>): Promise<T> => {
    const mine = writing.then(work);
    writing = mine.catch(() => {});
    return mine;
  };

  /** Gives the rooms that had no document before. */
  async function write(
    { epoch, claims }: typeof held,
    rooms: Iterable<RoomName>,
    update: (claim: Claim, room: RoomName) => Document,
  ): Promise<RoomName[]> {
    const operations: AnyBulkWriteOperation<RoomEndDocument>[] = [];
    const names: RoomName[] = [];
    for (const room of rooms) {
      const claim = claims.get(room);
      if (claim === undefined) continue;
      const filter = { _id: keyOf(epoch.collection, room) };
      operations.push({ updateOne: { filter, update: update(claim, room), upsert: true } });
      names.push(room);
    }
    const made: RoomName[] = [];
    for (let from = 0; from < operations.length; from += BULK_MAX) {
      const some = operations.slice(from, from + BULK_MAX);
      const { upsertedIds } = await collection.bulkWrite(some, { ordered: false });
      for (const index of Object.keys(upsertedIds)) made.push(names[from + Number(index)] as RoomName);
    }
    return made;
  }

  const raised = ({ end }: Claim) =>
    end.seq === SEQ_ZERO ? {} : { $max: { seq: end.seq, received_at: new Date(end.receivedAt) } };

  async function giveUp(holding: typeof held, rooms: readonly RoomName[]): Promise<void> {
    const { claims, run } = holding;
    const unsure = rooms.filter((room) => claims.get(room)?.unsure === true);
    for (const [room, end] of unsure.length === 0 ? [] : await readNewest(db, unsure)) {
      const claim = claims.get(room);
      if (claim !== undefined) claim.end = later(claim.end, end);
    }
    await write(holding, rooms, (claim) => {
      // Also when it fails: nobody knows then whether the claim is still there.
      claim.claimed = false;
      return { ...raised(claim), $unset: { [`claims.${run}`]: "" } };
    });
    for (const room of rooms) claims.delete(room);
  }

  /** Writes down what was stored since the last round, renews the claims on rooms in use and gives up the others. */
  async function round(): Promise<void> {
    const holding = held;
    const [used, idle, watched]: [RoomName[], RoomName[], RoomName[]] = [[], [], []];
    for (const [room, claim] of holding.claims) {
      claim.rounds += 1;
      const watches = hasAny(claim.others);
      if (watches && claim.rounds >= ROUNDS_MAX) watched.push(room);
      (claim.claimed && (claim.used || inUse.has(room) || watches) ? used : idle).push(room);
      claim.used = false;
    }
    beat += 1;
    await write(holding, used, (claim) => ({ ...raised(claim), $set: { [`claims.${holding.run}`]: beat } }));
    await giveUp(holding, idle);
    await forgetDead(holding, watched);
  }

  /**
   * Removes claims that were not renewed for some rounds, where this service has stored a message since: its number, which is
   * written down, is higher than all that the dead service gave.
   */
  async function forgetDead(holding: typeof held, rooms: readonly RoomName[]): Promise<void> {
    const marks = await readMarks(collection, holding.epoch, rooms);
    const dead = new Map<RoomName, string[]>();
    for (const room of rooms) {
      const [claim, claims] = [holding.claims.get(room), marks.get(room)?.claims ?? {}];
      const runs = Object.entries(claim?.others ?? {}).filter(([run, beat]) => claims[run] === beat);
      if (claim?.stored === true && runs.length > 0)
        dead.set(
          room,
          runs.map(([run]) => `claims.${run}`),
        );
      if (claim !== undefined) claim.others = {};
    }
    await write(holding, dead.keys(), (_claim, room) => ({
      $unset: Object.fromEntries((dead.get(room) ?? []).map((field) => [field, ""])),
    }));
  }

  function arm(): void {
    if (timer !== undefined || held.claims.size === 0) return;
    timer = setTimeout(async () => {
      await inOrder(round).catch(onError);
      timer = undefined;
      arm();
    }, ROUND_MS);
    timer.unref();
  }

  /** In another epoch what was stored in the former one says nothing, but for the claims, which must not stay behind. */
  function enter(epoch: StoreEpoch): void {
    if (held.epoch.name === epoch.name && held.epoch.collection === epoch.collection) return;
    const former = held;
    held = { epoch, run: newName(), claims: new Map() };
    const clear = () =>
      write(former, former.claims.keys(), () => ({ $unset: { [`claims.${former.run}`]: "" } }));
    void inOrder(clear).catch(onError);
  }

  /** Gives the rooms that no service had claimed before. */
  async function take(rooms: readonly RoomName[]): Promise<ReadonlySet<RoomName>> {
    const fresh: RoomName[] = [];
    for (const room of rooms) {
      const claim = held.claims.get(room) ?? freshClaim();
      held.claims.set(room, claim);
      claim.used = true;
      if (!claim.claimed) fresh.push(room);
    }
    arm();
    if (fresh.length === 0) return new Set();
    beat += 1;
    const made = await write(held, fresh, () => ({ $set: { [`claims.${held.run}`]: beat } }));
    for (const room of fresh) (held.claims.get(room) as Claim).claimed = true;
    return new Set(made);
  }

  const ownEnd = (room: RoomName) => held.claims.get(room)?.end ?? NO_END;

  function learn(room: RoomName, end: RoomEnd | undefined): void {
    const claim = held.claims.get(room);
    if (claim !== undefined && end !== undefined) claim.end = { ...later(claim.end, end) };
  }

  const othersOf = (mark: Mark | undefined): Claims => {
    const { [held.run]: _own, ...others } = mark?.claims ?? {};
    return others;
  };

  return {
    use(rooms) {
      for (const room of rooms) inUse.set(room, (inUse.get(room) ?? 0) + 1);
      return () => {
        for (const room of rooms) {
          const uses = (inUse.get(room) ?? 1) - 1;
          if (uses === 0) inUse.delete(room);
          else inUse.set(room, uses);
        }
      };
    },

    async claim(rooms, epoch) {
      enter(epoch);
      const names = [...rooms];
      const unknown = names.filter((room) => held.claims.get(room)?.claimed !== true);
      const [newest, marks, made] = await Promise.all([
        readNewest(db, names),
        readMarks(collection, epoch, unknown),
        inOrder(() => take(names)),
      ]);
      const ends = new Map<RoomName, RoomEnd>();
      const emptied: RoomName[] = [];
      for (const room of unknown) {
        const [claim, mark] = [held.claims.get(room), marks.get(room)];
        learn(room, mark?.end);
        if (claim !== undefined) [claim.others, claim.rounds] = [othersOf(mark), 0];
      }
      for (const room of names) {
        const end = newest.get(room);
        // A new room: a service that claims it later finds this claim, and waits until there is a message.
        if (end === undefined && made.has(room)) ends.set(room, { ...ownEnd(room) });
        else if (end === undefined || end.seq < ownEnd(room).seq) emptied.push(room);
        else ends.set(room, { ...end });
      }
      const contested = new Map<RoomName, Claims>();
      if (emptied.length === 0) return { ends, contested };
      // After the look at the messages, and while this service's claim stands: a service that claims the room from now on
      // sees this claim or a newer message.
      const [again, fresh] = await Promise.all([
        readNewest(db, emptied),
        readMarks(collection, epoch, emptied),
      ]);
      for (const room of emptied) {
        const mark = fresh.get(room);
        learn(room, mark?.end);
        const last = ownEnd(room);
        const end = again.get(room);
        const others = othersOf(mark);
        if (end !== undefined && end.seq >= last.seq) ends.set(room, { ...end });
        else if (!hasAny(others)) ends.set(room, { ...last });
        else contested.set(room, others);
      }
      return { ends, contested };
    },

    stored({ room, seq, receivedAt }) {
      learn(room, { seq, receivedAt });
      const claim = held.claims.get(room);
      if (claim !== undefined) claim.stored = true;
    },

    unsure(room) {
      const claim = held.claims.get(room);
      if (claim !== undefined) claim.unsure = true;
    },

    release: (rooms) => inOrder(() => giveUp(held, [...rooms])),

    async numbersOf(rooms, epoch) {
      const marks = await readMarks(collection, epoch, rooms);
      const own = held.epoch.name === epoch.name ? ownEnd : () => NO_END;
      return new Map(rooms.map((room) => [room, later(own(room), marks.get(room)?.end ?? NO_END).seq]));
    },

    async close() {
      await inOrder(() => giveUp(held, [...held.claims.keys()])).catch(onError);
      held.claims.clear();
      clearTimeout(timer);
    },
  };
}

/** Waits before contested rooms are claimed again. */
export const pauseForClaims = () =>
  Bun.sleep(CONTEST_MS.min + Math.random() * (CONTEST_MS.max - CONTEST_MS.min));

/**
 * Tells which services are dead, of those whose claims it is shown again and again with such pauses: a service that lives
 * renews its claims every round. One that was only slow finds that the epoch has changed.
 */
export function watchClaims(): (contested: ReadonlyMap<RoomName, Claims>) => readonly string[] {
  const seen = new Map<string, { beat: number; looks: number }>();
  return (contested) => {
    const dead: string[] = [];
    for (const [room, claims] of contested) {
      for (const [run, beat] of Object.entries(claims)) {
        const key = JSON.stringify([room, run]);
        const before = seen.get(key);
        const looks = before?.beat === beat ? before.looks + 1 : 1;
        seen.set(key, { beat, looks });
        if (looks === LOOKS_MAX) dead.push(run);
      }
    }
    return dead;
  };
}

const hasAny = (claims: Claims) => Object.keys(claims).length > 0;

const keyOf = (collection: string, room: string) => ({ collection, room });

const later = (one: RoomEnd, other: RoomEnd): RoomEnd => (one.seq < other.seq ? other : one);

/**
 * The newest messages of these rooms, as a majority has them: what a majority has, the next primary has too, so that no number
 * can come to stand after one that is rolled back. A number that is too low meets the unique index.
 */
async function readNewest(db: Db, rooms: readonly RoomName[]): Promise<ReadonlyMap<RoomName, RoomEnd>> {
  const rows = await db
    .collection(MESSAGES)
    .aggregate([{ $match: { room: { $in: [...rooms] }, seq: NUMBERED } }, ...NEWEST_OF_EACH_ROOM], QUICK)
    .toArray();
  return new Map(rows.map((row) => [row._id as RoomName, readEnd(row)]));
}

interface Mark {
  readonly end: RoomEnd;
  readonly claims: Claims;
}

async function readMarks(
  collection: Collection<RoomEndDocument>,
  epoch: StoreEpoch,
  rooms: readonly RoomName[],
): Promise<ReadonlyMap<RoomName, Mark>> {
  if (rooms.length === 0) return new Map();
  const keys = rooms.map((room) => keyOf(epoch.collection, room));
  const rows = await collection.find({ _id: { $in: keys } }, QUICK).toArray();
  return new Map(
    rows.map((row) => [
      row._id.room as RoomName,
      { end: row.seq === undefined ? NO_END : readEnd(row), claims: row.claims ?? {} },
    ]),
  );
}

function readEnd(row: Document): RoomEnd {
  const seq = parseSeq(Number(row.seq));
  assert(seq !== undefined, "a room's newest number can be one");
  return { seq, receivedAt: readTime(row.received_at) ?? NO_END.receivedAt };
}

/**
 * Writes down where all rooms of a collection end: once, for those that were there before `room_ends` was, or that were put
 * back. What was written down about former collections goes. Harmless when repeated.
 */
export async function markRooms(db: Db, collection: string): Promise<void> {
  const marks = db.collection<RoomEndDocument>(ROOM_ENDS);
  let operations: AnyBulkWriteOperation<RoomEndDocument>[] = [];
  const flush = async () => {
    if (operations.length > 0) await marks.bulkWrite(operations, { ordered: false });
    operations = [];
  };
  const ends = db
    .collection(MESSAGES)
    .aggregate([{ $match: { room: { $gt: "" }, seq: NUMBERED } }, ...NEWEST_OF_EACH_ROOM], {
      allowDiskUse: true,
    });
  for await (const row of ends) {
    const { seq, receivedAt } = readEnd(row);
    const update = { $max: { seq, received_at: new Date(receivedAt) } };
    const filter = { _id: keyOf(collection, String(row._id)) };
    operations.push({ updateOne: { filter, update, upsert: true } });
    if (operations.length === BULK_MAX) await flush();
  }
  await flush();
  await marks.deleteMany({ "_id.collection": { $ne: collection } });
}

/** Removes the claims of services that are dead, from all rooms: with the epoch, what they may have known is over. */
export async function clearClaims(db: Db, runs: readonly string[]): Promise<void> {
  for (const run of runs)
    await db
      .collection(ROOM_ENDS)
      .updateMany({ [`claims.${run}`]: { $exists: true } }, { $unset: { [`claims.${run}`]: "" } });
}
