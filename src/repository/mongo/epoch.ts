/** Which life of the store a database holds: told by a name of ours and the server's own name for the collection. */

import { type Db, MongoServerError } from "mongodb";
import { type Epoch, parseEpoch } from "../../domain/ids.ts";
import { QUICK } from "./client.ts";
import { INDEXES, MESSAGES, META, type MetaDocument } from "./schema.ts";

/** One life of the store. */
export interface Life {
  readonly epoch: Epoch;
  /** The server's name for the collection of messages in this life. */
  readonly collection: string;
}

/** The database was dropped, or another life began, under a running operation: it starts afresh. */
export class LifeChanged extends Error {}

/** Makes what is missing: indexes, and the name of this life of the store. Harmless when repeated, or done by two. */
export async function prepareDatabase(db: Db, newEpoch: () => Epoch): Promise<Life> {
  await db.collection(MESSAGES).createIndexes(INDEXES);
  const collection = await collectionName(db);
  if (collection === undefined) throw new LifeChanged("the collection went as soon as it was made");
  const meta = db.collection<MetaDocument>(META);
  const found = await meta.findOne({ _id: "store" });
  if (found === null) {
    // Two services that start at once: the first insert wins, both then read it.
    await meta
      .updateOne({ _id: "store" }, { $setOnInsert: { epoch: newEpoch(), collection } }, { upsert: true })
      .catch(ignoreDuplicate);
  } else if (found.collection !== collection) {
    await meta.updateOne({ _id: "store", epoch: found.epoch }, { $set: { epoch: newEpoch(), collection } });
  }
  const life = await readLife(db);
  if (life === undefined || life.collection !== collection)
    throw new LifeChanged("another life began meanwhile");
  return life;
}

async function readLife(db: Db): Promise<Life | undefined> {
  const row = await db.collection<MetaDocument>(META).findOne({ _id: "store" }, QUICK);
  const epoch = typeof row?.epoch === "string" ? parseEpoch(row.epoch) : undefined;
  return epoch === undefined || row === null ? undefined : { epoch, collection: row.collection };
}

/** The server's name for the collection of messages; a server that gives none always has the same one. */
async function collectionName(db: Db): Promise<string | undefined> {
  const [entry] = await db.listCollections({ name: MESSAGES }, { nameOnly: false }).toArray();
  if (entry === undefined) return undefined;
  const uuid = entry.info?.uuid;
  return uuid === undefined ? "unnamed" : String(uuid);
}

/**
 * Throws LifeChanged unless the store still has that life. All who ask before a look begins share what it sees: what it
 * sees is then no older than their question.
 */
export function createLifeCheck(db: Db): (life: Life) => Promise<void> {
  let running: Promise<Life | undefined> | undefined;
  let next: Promise<Life | undefined> | undefined;

  const begin = (): Promise<Life | undefined> => {
    const mine = look(db).finally(() => {
      if (running === mine) running = undefined;
    });
    running = mine;
    return mine;
  };
  const afterRunning = async (): Promise<Life | undefined> => {
    await Promise.allSettled([running]);
    next = undefined;
    return begin();
  };

  return async (life) => {
    if (running !== undefined) next ??= afterRunning();
    const now = await (running === undefined ? begin() : next);
    if (now?.epoch !== life.epoch || now.collection !== life.collection)
      throw new LifeChanged("the database was dropped or replaced");
  };
}

/** What is there now: the epoch as written down, under the server's name for the collection. */
async function look(db: Db): Promise<Life | undefined> {
  const [written, collection] = await Promise.all([readLife(db), collectionName(db)]);
  return written === undefined || collection === undefined ? undefined : { epoch: written.epoch, collection };
}

/** The server's code for a value that a unique index holds already. */
export const DUPLICATE_KEY = 11_000;

function ignoreDuplicate(error: unknown): void {
  if (!(error instanceof MongoServerError && error.code === DUPLICATE_KEY)) throw error;
}
