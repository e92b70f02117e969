/** The numbers of rooms whose messages another program deletes: none is given twice in an epoch, whoever races or dies. */

import { describe, expect, test } from "bun:test";
import { openMongoRepository } from "../../../src/repository/mongo/open.ts";
import { migrateMongo } from "../../../src/repository/mongo/migrate.ts";
import type { AppendResult } from "../../../src/repository/repository.ts";
import { draft, drafts, range, room, seq, seqs, stored, WIDE } from "../../contract/drafting.ts";
import { sharedMongo } from "../../fixture/mongodb.ts";
import { keptLog, mongoDatabaseOf, newEpoch, type OpenedMongo } from "./opening.ts";

const TEST_MS = 30_000;

const withDatabase = (body: (mongo: OpenedMongo) => Promise<void>) => async () => {
  const mongo = mongoDatabaseOf(await sharedMongo());
  try {
    await body(mongo);
  } finally {
    await mongo.db.dropDatabase();
    await mongo.dispose();
  }
};

const empty = ({ messages }: OpenedMongo, name: string) => messages.deleteMany({ room: name });
const claimsOf = async ({ db }: OpenedMongo) =>
  (await db.collection("room_ends").find().toArray()).flatMap((row) => Object.keys(row.claims ?? {}));

/** A service that was killed in the middle of its work: what it claimed stays claimed, and what it knew is lost. */
async function killedAfter(mongo: OpenedMongo, uri: string, name: string, count: number): Promise<void> {
  const program = `
    import { openMongoRepository } from "${import.meta.dir}/../../../src/repository/mongo/open.ts";
    import { drafts } from "${import.meta.dir}/../../contract/drafting.ts";
    import { keptLog, newEpoch } from "${import.meta.dir}/opening.ts";
    const [uri, databaseName, name, count] = process.argv.slice(-4);
    const repository = await openMongoRepository({ uri, databaseName, log: keptLog().log, newEpoch });
    const results = await repository.append(drafts(name, Number(count)));
    console.log(results.map(({ kind }) => kind).join());
    process.kill(process.pid, "SIGKILL");
  `;
  const child = Bun.spawn(["bun", "-e", program, uri, mongo.databaseName, name, `${count}`], {
    stdout: "pipe",
    stderr: "inherit",
  });
  expect((await new Response(child.stdout).text()).trim()).toBe(
    range(1, count)
      .map(() => "stored")
      .join(),
  );
  await child.exited;
}

describe("a room of MongoDB whose messages another program deleted", () => {
  test(
    "keeps its number while a service is on it, and in the next one",
    withDatabase(async (mongo) => {
      const repository = await mongo.open();
      const { epoch } = await repository.head(room("a"));
      for (const round of range(1, 4)) {
        const first = 3 * (round - 1) + 1;
        const said = (await repository.append(drafts("a", 3))).map(stored);
        expect(seqs(said)).toEqual(range(first, first + 2));
        await empty(mongo, "a");
        const head = { epoch, seq: seq(first + 2), firstSeq: seq(first + 3) };
        expect(await repository.head(room("a"))).toEqual(head);
        expect((await repository.readAfter(room("a"), seq(1), WIDE)).head).toEqual(head);
        expect(await repository.heads([room("b"), room("a")])).toEqual({ epoch, seqs: [seq(0), head.seq] });
      }
      await repository.close();
      expect(await claimsOf(mongo)).toEqual([]);
      const next = await mongo.open();
      expect(await next.head(room("a"))).toEqual({ epoch, seq: seq(12), firstSeq: seq(13) });
      expect(stored((await next.append([draft("a")]))[0])).toMatchObject({ seq: 13 });
    }),
    TEST_MS,
  );

  test(
    "keeps its number when only the newest are gone",
    withDatabase(async (mongo) => {
      const repository = await mongo.open();
      await repository.append(drafts("a", 5));
      await mongo.messages.deleteMany({ room: "a", seq: { $gt: 3 } });
      expect(stored((await repository.append([draft("a")]))[0])).toMatchObject({ seq: 6 });
      await mongo.messages.deleteMany({ room: "a", seq: { $gt: 3 } });
      await repository.close();
      expect(stored((await (await mongo.open()).append([draft("a")]))[0])).toMatchObject({ seq: 7 });
    }),
    TEST_MS,
  );

  test(
    "of an older version, that wrote down no ends, keeps its number too",
    withDatabase(async (mongo) => {
      const before = await mongo.open();
      await before.append([...drafts("a", 4), ...drafts("b", 2)]);
      const { epoch } = await before.head(room("a"));
      await before.close();
      await mongo.db.collection("room_ends").drop();
      await mongo.db.collection("meta").updateOne({}, { $unset: { marked: "" } });
      const repository = await mongo.open();
      expect((await repository.head(room("a"))).epoch).toBe(epoch);
      await empty(mongo, "a");
      expect(await repository.head(room("a"))).toEqual({ epoch, seq: seq(4), firstSeq: seq(5) });
      expect(stored((await repository.append([draft("a")]))[0])).toMatchObject({ seq: 5 });
    }),
    TEST_MS,
  );

  test(
    "keeps its number for migrate",
    withDatabase(async (mongo) => {
      const repository = await mongo.open();
      await repository.append(drafts("a", 4));
      await repository.close();
      await empty(mongo, "a");
      const old = { room: "a", user_id: "ann", message: "old", timestamp: new Date("2020-01-01T00:00:00Z") };
      await mongo.messages.insertMany([{ ...old }, { ...old }]);
      const choice = { uri: await sharedMongo(), databaseName: mongo.databaseName, dryRun: false, newEpoch };
      expect(await migrateMongo(choice)).toMatchObject({ numbered: 2 });
      await empty(mongo, "a");
      expect(await claimsOf(mongo)).toEqual([]);
      expect((await (await mongo.open()).head(room("a"))).seq).toBe(seq(6));
    }),
    TEST_MS,
  );

  test(
    "while two services race gives no number twice in an epoch, and waits for no dead service",
    withDatabase(async (mongo) => {
      const services = await Promise.all([mongo.open(), mongo.open()]);
      const given = new Map<string, string>();
      const repeated: string[] = [];
      const epochs = new Set<string>();
      let writing = true;
      const take = (result: AppendResult) => {
        if (result.kind !== "stored") throw new Error(Bun.inspect(result));
        const { message, epoch } = result;
        const place = `${epoch} ${message.room} ${message.seq}`;
        if (given.has(place)) repeated.push(place);
        given.set(place, message.id);
        epochs.add(epoch);
      };
      const writers = services.map(async (repository, index) => {
        for (let batch = 0; writing; batch++) {
          const said = [...drafts("a", 1 + ((batch + index) % 3)), ...drafts("b", 1)];
          for (const result of await repository.append(said)) take(result);
        }
      });
      for (const n of range(1, 12)) {
        const target = given.size + 12;
        while (given.size < target) await Bun.sleep(1);
        await empty(mongo, n % 3 === 0 ? "b" : "a");
      }
      writing = false;
      await Promise.all(writers);
      expect(repeated).toEqual([]);
      expect(epochs.size).toBe(1);
      const kept = await mongo.messages.find({ room: "a" }).sort({ seq: 1 }).toArray();
      const numbers = kept.map((row) => Number(row.seq));
      expect(numbers).toEqual(range(numbers[0] ?? 1, numbers.at(-1) ?? 0));
    }),
    TEST_MS,
  );

  test(
    "after a service that died with numbers that nobody else knows, has another epoch",
    withDatabase(async (mongo) => {
      const uri = await sharedMongo();
      await killedAfter(mongo, uri, "a", 5);
      expect((await claimsOf(mongo)).length).toBe(1);
      const { log, lines } = keptLog();
      const repository = await openMongoRepository({ uri, databaseName: mongo.databaseName, log, newEpoch });
      try {
        // While its messages are there they say where the room ends.
        const { epoch, seq: last } = await repository.head(room("a"));
        expect(last).toBe(seq(5));
        await empty(mongo, "a");
        const [result] = await repository.append([draft("a")]);
        if (result?.kind !== "stored") throw new Error(Bun.inspect(result));
        expect(result.epoch).not.toBe(epoch);
        expect((await repository.head(room("a"))).epoch).toBe(result.epoch);
        expect(lines.filter((line) => line.includes("store_epoch_ended")).length).toBe(1);
        await repository.close();
        expect(await claimsOf(mongo)).toEqual([]);
      } finally {
        await repository.close();
      }
    }),
    TEST_MS,
  );

  test(
    "after a service that died keeps its number once another has stored a message in it",
    withDatabase(async (mongo) => {
      await killedAfter(mongo, await sharedMongo(), "a", 3);
      const repository = await mongo.open();
      const { epoch } = await repository.head(room("a"));
      expect(stored((await repository.append([draft("a")]))[0])).toMatchObject({ seq: 4 });
      while ((await claimsOf(mongo)).length > 0) await Bun.sleep(10);
      await empty(mongo, "a");
      expect(await repository.head(room("a"))).toEqual({ epoch, seq: seq(4), firstSeq: seq(5) });
      expect(stored((await repository.append([draft("a")]))[0])).toMatchObject({ seq: 5 });
      expect((await repository.head(room("a"))).epoch).toBe(epoch);
    }),
    TEST_MS,
  );
});
