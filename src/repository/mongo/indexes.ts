/**
 * The indexes on which numbering and harmless retries rest: made where they are missing, taken where another program made
 * an equal one under another name. Where documents or another index keep one from being made, these are named.
 */

import { type Db, type Document, type IndexDescription, MongoServerError } from "mongodb";
import { idText, INDEXES, MESSAGES, NUMBERED } from "./schema.ts";

/** How many clashes are named, and how many documents of each. */
const NAMED_MAX = 20;
const IDS_MAX = 10;

/** What keeps the indexes from being built, one line each, with what to do about it. */
export class IndexesClash extends Error {
  readonly clashes: readonly string[];

  constructor(clashes: readonly string[]) {
    super(clashes.join("\n"));
    this.clashes = clashes;
  }
}

/** @throws IndexesClash when one cannot be made */
export async function makeIndexes(db: Db): Promise<void> {
  const missing = await missingIndexes(db);
  if (missing.length === 0) return;
  await db
    .collection(MESSAGES)
    .createIndexes(missing)
    .catch(async (error: unknown) => {
      const clashes = error instanceof MongoServerError ? await findClashes(db) : [];
      throw clashes.length === 0 ? error : new IndexesClash(clashes);
    });
}

/** What `makeIndexes` would stumble over. Changes nothing. */
export async function findClashes(db: Db): Promise<string[]> {
  const [present, missing] = await Promise.all([presentIndexes(db), missingIndexes(db)]);
  const clashes = missing.flatMap((index) =>
    present
      .filter((other) => other.name === index.name || sameKeys(other, index))
      .map(
        (other) =>
          `the index ${other.name} of ${MESSAGES} is in the way of ${index.name}, which has other keys or options: ` +
          `drop it (db.${MESSAGES}.dropIndex(${JSON.stringify(other.name)})) and run this again`,
      ),
  );
  for (const { name } of missing) {
    const search = name === undefined ? undefined : DUPLICATES[name];
    if (search !== undefined) clashes.push(...(await search(db)));
  }
  return clashes;
}

async function missingIndexes(db: Db): Promise<IndexDescription[]> {
  const present = await presentIndexes(db);
  return INDEXES.filter((index) => !present.some((other) => isEqual(other, index)));
}

const NAMESPACE_NOT_FOUND = 26;

async function presentIndexes(db: Db): Promise<Document[]> {
  try {
    return await db.collection(MESSAGES).indexes();
  } catch (error) {
    if (error instanceof MongoServerError && error.code === NAMESPACE_NOT_FOUND) return [];
    throw error;
  }
}

/** In order, as the order of its keys is part of an index. */
const sameKeys = (one: Document, other: Document) =>
  JSON.stringify(Object.entries(one.key)) === JSON.stringify(Object.entries(other.key));

/** Options that change which documents an index holds, what it refuses, or what it finds. */
const MEANINGFUL = [
  "unique",
  "sparse",
  "partialFilterExpression",
  "collation",
  "hidden",
  "expireAfterSeconds",
];

const isEqual = (one: Document, other: Document) =>
  sameKeys(one, other) &&
  MEANINGFUL.every(
    (option) => JSON.stringify(one[option] ?? false) === JSON.stringify(other[option] ?? false),
  );

/** For each unique index: the documents that it would refuse, as lines. */
const DUPLICATES: Readonly<Record<string, (db: Db) => Promise<string[]>>> = {
  room_seq: async (db) =>
    (await duplicates(db, { seq: NUMBERED }, ["room", "seq"])).map(
      ({ key, ids }) =>
        `room ${JSON.stringify(key.room)}: seq ${key.seq} is on ${ids}: keep one, and remove seq from the others ` +
        "($unset; migrate then numbers them anew) or delete them",
    ),
  room_user_client: async (db) =>
    (await duplicates(db, { client_id: { $gt: "" } }, ["room", "user_id", "client_id"])).map(
      ({ key, ids }) =>
        `room ${JSON.stringify(key.room)}: client_id ${JSON.stringify(key.client_id)} of user ` +
        `${JSON.stringify(key.user_id)} is on ${ids}: keep one, and remove client_id from the others ($unset) or delete them`,
    ),
};

async function duplicates(
  db: Db,
  filter: Document,
  fields: readonly string[],
): Promise<{ key: Document; ids: string }[]> {
  // An index takes a field that is missing for null.
  const key = Object.fromEntries(fields.map((field) => [field, { $ifNull: [`$${field}`, null] }]));
  const rows = await db
    .collection(MESSAGES)
    .aggregate(
      [
        { $match: filter },
        { $group: { _id: key, ids: { $push: "$_id" }, count: { $sum: 1 } } },
        { $match: { count: { $gt: 1 } } },
        { $sort: { _id: 1 } },
        { $limit: NAMED_MAX },
      ],
      { allowDiskUse: true },
    )
    .toArray();
  return rows.map((row) => {
    const ids = row.ids.slice(0, IDS_MAX).map(idText).join(", ");
    return { key: row._id, ids: `${row.count} documents (_id ${ids}${row.count > IDS_MAX ? ", …" : ""})` };
  });
}
