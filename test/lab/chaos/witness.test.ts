import { afterAll, beforeAll, expect, test } from "bun:test";
import { MongoClient } from "mongodb";
import { freshDatabase, type MongoServer, ownServers, startMongo } from "../../fixture/mongodb.ts";
import { callWitness } from "./witness.ts";

const ROOM = "the hall";

let server: MongoServer;
beforeAll(async () => {
  if (ownServers) server = await startMongo();
});
afterAll(async () => {
  if (ownServers) await server.stop();
});

const waits = async (condition: () => boolean) => {
  while (!condition()) await Bun.sleep(20);
};

async function openWitness() {
  const databaseName = freshDatabase();
  const client = await MongoClient.connect(server.uri);
  const messages = client.db(databaseName).collection("messages");
  await messages.insertOne({ room: ROOM, seq: 1 });
  const hangs: number[] = [];
  const witness = callWitness({
    ...{ uri: server.uri, databaseName, room: ROOM, afterMs: 0 },
    onBack: (since) => hangs.push(since),
  });
  await waits(() => witness.answers() > 2);
  return {
    witness,
    messages,
    hangs,
    isWaiting: () => witness.waitingSince() !== null,
    async [Symbol.asyncDispose]() {
      await witness.end();
      await client.close();
    },
  };
}

async function waitsWithEverybody() {
  await using stand = await openWitness();
  const { witness, isWaiting, hangs, messages } = stand;
  expect([isWaiting(), hangs]).toEqual([false, []]);
  const before = performance.now();
  server.pause();
  await waits(isWaiting);
  const since = witness.waitingSince();
  server.resume();
  await waits(() => !isWaiting());
  // The moment of the question that had no answer, not of a later one.
  expect(hangs).toEqual([since as number]);
  expect(hangs[0]).toBeGreaterThan(before - ONE_QUESTION_MS);
  await witness.end();
  expect(await messages.countDocuments()).toBe(1);
}
/** A question that was asked before may still have been under way. */
const ONE_QUESTION_MS = 1_000;

/** The driver asks again by itself, and says only then that it had no answer. */
async function noticesFirst() {
  await using stand = await openWitness();
  const patience = { serverSelectionTimeoutMS: 2_000, connectTimeoutMS: 2_000, socketTimeoutMS: 2_000 };
  const other = await MongoClient.connect(server.uri, patience);
  await other.db("admin").command({ ping: 1 });
  server.pause();
  try {
    await expect(other.db("none").collection("none").findOne()).rejects.toThrow();
    expect(stand.isWaiting()).toBe(true);
  } finally {
    server.resume();
    await other.close();
  }
}

// They stall their server, which nobody may do to the user's own.
if (ownServers) {
  test("callWitness waits with everybody where the database hangs, and only then", waitsWithEverybody);
  test("callWitness notices a hang before a client whose driver asks again", noticesFirst);
}
