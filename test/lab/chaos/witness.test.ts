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

async function witnessTest() {
  const databaseName = freshDatabase();
  await using client = await MongoClient.connect(server.uri);
  const messages = client.db(databaseName).collection("messages");
  await messages.insertOne({ room: ROOM, seq: 1 });
  let times = 0;
  const witness = callWitness({
    ...{ uri: server.uri, databaseName, room: ROOM, afterMs: 0 },
    onBack: () => (times += 1),
  });
  await waits(() => witness.answers() > 2);
  expect([witness.isWaiting(), times]).toEqual([false, 0]);
  server.pause();
  await waits(witness.isWaiting);
  server.resume();
  await waits(() => !witness.isWaiting());
  expect(times).toBe(1);
  await witness.end();
  expect(await messages.countDocuments()).toBe(1);
}

// It stalls its server, which nobody may do to the user's own.
if (ownServers) test("a witness waits with everybody where the database hangs, and only then", witnessTest);
