/** Which epoch of the store a database holds: told by a name of ours and the server's own name for the collection. */

import { type Db, MongoServerError } from "mongodb";
import { type Epoch, parseEpoch } from "../../domain/ids.ts";
import { QUICK } from "./client.ts";
import { makeIndexes } from "./indexes.ts";
import { keepAllRooms } from "./room-numbers.ts";
import { MESSAGES, META, type MetaDocument, ROOM_NUMBERS } from "./schema.ts";

/** An epoch as a connection found it. */
export interface StoreEpoch {
  readonly name: Epoch;
  /** The server's name for the collection of messages in this epoch. */
  readonly collection: string;
}

/** The database was dropped, or its epoch changed, under a running operation: begin the operation again. */
export class EpochChanged extends Error {}

/**
 * Makes what is missing: indexes, the epoch's name, and the numbers of rooms that were there before. Harmless when it is
 * repeated, or done by two services at once.
 * @throws IndexesClash when documents or indexes of another program keep an index from being built
 */
export async function prepareDatabase(db: Db, newEpoch: () => Epoch): Promise<StoreEpoch> {
  await makeIndexes(db);
  const collection = await collectionName(db);
  if (collection === undefined) throw new EpochChanged("the collection went as soon as it was made");
  const meta = db.collection<MetaDocument>(META);
  const found = await meta.findOne({ _id: "store" });
  if (found === null) {
    // Two services that start at once: the first insert wins, both then read it.
    await meta
      .updateOne({ _id: "store" }, { $setOnInsert: { epoch: newEpoch(), collection } }, { upsert: true })
      .catch(ignoreDuplicate);
  } else if (found.collection !== collection) {
    await meta.updateOne({ _id: "store", epoch: found.epoch }, { $set: { epoch: newEpoch(), collection } });
    // Numbers of a former collection mean nothing in this one.
    await db.collection(ROOM_NUMBERS).deleteMany({ "_id.collection": { $ne: collection } });
  }
  if (found?.kept !== collection) {
    await keepAllRooms(db, collection);
    await meta.updateOne({ _id: "store", collection }, { $set: { kept: collection } });
  }
  const epoch = await readEpoch(db);
  if (epoch === undefined || epoch.collection !== collection)
    throw new EpochChanged("the epoch changed meanwhile");
  return epoch;
}

async function readEpoch(db: Db): Promise<StoreEpoch | undefined> {
  const row = await db.collection<MetaDocument>(META).findOne({ _id: "store" }, QUICK);
  const name = typeof row?.epoch === "string" ? parseEpoch(row.epoch) : undefined;
  return name === undefined || row === null ? undefined : { name, collection: row.collection };
}

/** The server's name for the collection of messages; a server that gives none always has the same one. */
async function collectionName(db: Db): Promise<string | undefined> {
  const [entry] = await db.listCollections({ name: MESSAGES }, { nameOnly: false }).toArray();
  if (entry === undefined) return undefined;
  const uuid = entry.info?.uuid;
  return uuid === undefined ? "unnamed" : String(uuid);
}

/**
 * Throws EpochChanged unless the store still has that epoch. Callers that ask before a look begins share it: what it sees
 * is then no older than their question.
 */
export function createEpochCheck(db: Db): (epoch: StoreEpoch) => Promise<void> {
  let running: Promise<StoreEpoch | undefined> | undefined;
  let next: Promise<StoreEpoch | undefined> | undefined;

  const begin = (): Promise<StoreEpoch | undefined> => {
    const mine = look(db).finally(() => {
      if (running === mine) running = undefined;
    });
    running = mine;
    return mine;
  };
  const afterRunning = async (): Promise<StoreEpoch | undefined> => {
    await Promise.allSettled([running]);
    next = undefined;
    return begin();
  };

  return async (epoch) => {
    if (running !== undefined) next ??= afterRunning();
    const now = await (running === undefined ? begin() : next);
    if (now?.name !== epoch.name || now.collection !== epoch.collection)
      throw new EpochChanged("the database was dropped or replaced");
  };
}

/** What is there now: the epoch as written down, under the server's name for the collection. */
async function look(db: Db): Promise<StoreEpoch | undefined> {
  const [written, collection] = await Promise.all([readEpoch(db), collectionName(db)]);
  return written === undefined || collection === undefined ? undefined : { name: written.name, collection };
}

/** The server's code for a value that a unique index holds already. */
export const DUPLICATE_KEY = 11_000;

function ignoreDuplicate(error: unknown): void {
  if (!(error instanceof MongoServerError && error.code === DUPLICATE_KEY)) throw error;
}
