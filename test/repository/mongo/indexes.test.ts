/** The indexes of a collection that other programs had first: equal ones are taken, and what is in the way is named. */

import { describe, expect, test } from "bun:test";
import { openMongoRepository } from "../../../src/repository/mongo/open.ts";
import { findClashes, IndexesClash, makeIndexes } from "../../../src/repository/mongo/indexes.ts";
import { migrateMongo } from "../../../src/repository/mongo/migrate.ts";
import { draft, drafts, range, stored } from "../../contract/drafting.ts";
import { sharedMongo } from "../../fixture/mongodb.ts";
import { keptLog, mongoDatabaseOf, newEpoch, type OpenedMongo } from "./opening.ts";

const CLI = `${import.meta.dir}/../../../src/cli.ts`;

const withDatabase = (body: (mongo: OpenedMongo) => Promise<void>) => async () => {
  const mongo = mongoDatabaseOf(await sharedMongo());
  try {
    await body(mongo);
  } finally {
    await mongo.db.dropDatabase();
    await mongo.dispose();
  }
};

const namesOf = async ({ messages }: OpenedMongo) =>
  (await messages.indexes()).map((index) => String(index.name)).toSorted();

const OURS = ["_id_", "room_seq", "room_user_client", "user_received"];
const NUMBERED = { seq: { $gt: 0 } };
const old = (_id: string, more: Record<string, unknown>) => ({
  _id: _id as never,
  room: "a",
  user_id: "ann",
  message: _id,
  timestamp: "2020-01-01T00:00:00Z",
  ...more,
});

describe("makeIndexes", () => {
  test(
    "makes what is missing, once",
    withDatabase(async (mongo) => {
      await makeIndexes(mongo.db);
      expect(await namesOf(mongo)).toEqual(OURS);
      await makeIndexes(mongo.db);
      expect(await namesOf(mongo)).toEqual(OURS);
      expect(await findClashes(mongo.db)).toEqual([]);
    }),
  );

  test(
    "takes an equal index of another name, by which services that race are told apart",
    withDatabase(async (mongo) => {
      const options = { unique: true, partialFilterExpression: NUMBERED, name: "theirs" };
      await mongo.messages.createIndex({ room: 1, seq: 1 }, options);
      const services = await Promise.all([mongo.open(), mongo.open()]);
      await Promise.all(
        services.map(async (repository) => {
          for (const _ of range(1, 5)) (await repository.append(drafts("a", 2))).map(stored);
        }),
      );
      expect(await namesOf(mongo)).toEqual(["_id_", "room_user_client", "theirs", "user_received"]);
      const rows = await mongo.messages.find().sort({ seq: 1 }).toArray();
      expect(rows.map((row) => row.seq)).toEqual(range(1, 20));
    }),
  );

  test(
    "names an index that is in the way, and how to go on",
    withDatabase(async (mongo) => {
      await mongo.messages.createIndex({ room: 1, seq: 1 }, { name: "theirs" });
      await mongo.messages.createIndex({ room: 1, message: 1 }, { name: "user_received" });
      const clashes = await findClashes(mongo.db);
      expect(clashes.length).toBe(2);
      expect(clashes[0]).toMatch(/^the index theirs .* room_seq.*db\.messages\.dropIndex\("theirs"\)/);
      expect(clashes[1]).toMatch(/^the index user_received .*dropIndex\("user_received"\)/);
      await mongo.messages.dropIndex("theirs");
      await mongo.messages.dropIndex("user_received");
      await makeIndexes(mongo.db);
      expect(await namesOf(mongo)).toEqual(OURS);
    }),
  );
});

describe("documents that keep an index from being built", () => {
  const clashing = [
    old("m1", { seq: 4 }),
    old("m2", { seq: 4 }),
    old("m3", { seq: 5 }),
    old("m4", { client_id: "c" }),
    old("m5", { client_id: "c" }),
    old("m6", { room: "b", client_id: "c" }),
  ];

  test(
    "are named by migrate and by its dry run, with what to do, and nothing is changed",
    withDatabase(async (mongo) => {
      await mongo.messages.insertMany(clashing);
      const before = await mongo.messages.find().sort({ _id: 1 }).toArray();
      const uri = await sharedMongo();
      for (const dryRun of [true, false]) {
        const choice = { uri, databaseName: mongo.databaseName, dryRun, newEpoch };
        const thrown = await migrateMongo(choice).catch((error: unknown) => error);
        if (!(thrown instanceof IndexesClash)) throw new Error(Bun.inspect(thrown));
        expect(thrown.clashes.length).toBe(2);
        expect(thrown.clashes[0]).toMatch(/^room "a": seq 4 is on 2 documents \(_id m1, m2\): keep one/);
        expect(thrown.clashes[1]).toMatch(
          /^room "a": client_id "c" of user "ann" is on 2 documents \(_id m4, m5\): keep one/,
        );
        expect(await namesOf(mongo)).toEqual(["_id_"]);
        expect(await mongo.messages.find().sort({ _id: 1 }).toArray()).toEqual(before);
      }
      await mongo.messages.updateOne({ _id: "m2" as never }, { $unset: { seq: "" } });
      await mongo.messages.updateOne({ _id: "m5" as never }, { $unset: { client_id: "" } });
      const choice = { uri, databaseName: mongo.databaseName, newEpoch };
      const planned = await migrateMongo({ ...choice, dryRun: true });
      expect(planned.numbered).toBe(4);
      expect(await migrateMongo({ ...choice, dryRun: false })).toEqual(planned);
    }),
  );

  test(
    "are named on the command line, which fails for a dry run too",
    withDatabase(async (mongo) => {
      await mongo.messages.insertMany(clashing);
      const env = { ...process.env, MONGODB_URI: await sharedMongo(), MONGODB_DB_NAME: mongo.databaseName };
      for (const args of [["migrate", "--dry-run"], ["migrate"]]) {
        const child = Bun.spawn(["bun", CLI, ...args], { env, stdout: "pipe", stderr: "pipe" });
        const said = await new Response(child.stderr).text();
        expect([await child.exited, said.split("\n").length]).toEqual([1, 4]);
        expect(said).toMatch(
          /^cannot migrate, nothing was changed:\n- room "a": seq 4 .*\n- room "a": client_id/,
        );
      }
    }),
  );

  test(
    "keep the store down, which says where they are named, until they are put right",
    withDatabase(async (mongo) => {
      await mongo.messages.insertMany(clashing.slice(0, 2));
      const { log } = keptLog();
      const uri = await sharedMongo();
      const repository = await openMongoRepository({ uri, databaseName: mongo.databaseName, log, newEpoch });
      try {
        const reason = () => {
          const status = repository.status();
          return status.up ? "up" : status.reason;
        };
        while (!reason().includes("migrate --dry-run")) await Bun.sleep(5);
        await mongo.messages.updateOne({ _id: "m2" as never }, { $unset: { seq: "" } });
        while (reason() !== "up") await Bun.sleep(5);
        expect(stored((await repository.append([draft("a")]))[0])).toMatchObject({ seq: 5 });
      } finally {
        await repository.close();
      }
    }),
  );
});
