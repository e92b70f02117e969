/** The numbers of rooms whose messages another program deletes: none is given twice. */

import { describe, expect, test } from "bun:test";
import { migrateMongo } from "../../../src/repository/mongo/migrate.ts";
import type { Document } from "mongodb";
import { assured, draft, drafts, range, room, seq, seqs, stored, WIDE } from "../../contract/drafting.ts";
import { startLaggingReplica } from "../../fixture/mongo-replica.ts";
import { sharedMongo } from "../../fixture/mongodb.ts";
import { mongoDatabaseOf, newEpoch, type OpenedMongo } from "./opening.ts";

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
describe("a room of MongoDB whose messages another program deleted", () => {
  test(
    "goes on after every number that it gave, for this service and the next, and says that the rest is gone",
    withDatabase(async (mongo) => {
      let repository = await mongo.open();
      const { epoch } = await repository.head(room("a"));
      let last = 0;
      for (const round of range(1, 4)) {
        const said = (await repository.append(drafts("a", 3))).map(stored);
        expect(Number(said[0]?.seq)).toBeGreaterThan(last);
        const given = Number(said.at(-1)?.seq);
        expect(seqs(said)).toEqual(range(given - 2, given));
        await empty(mongo, "a");
        const head = await repository.head(room("a"));
        expect(Number(head.seq)).toBeGreaterThanOrEqual(given);
        expect(head).toEqual({ epoch, seq: head.seq, firstSeq: seq(head.seq + 1) });
        expect((await repository.readAfter(room("a"), seq(1), WIDE)).head).toEqual(head);
        expect(await repository.heads([room("b"), room("a")])).toEqual({ epoch, seqs: [seq(0), head.seq] });
        last = Number(head.seq);
        if (round % 2 === 0) repository = await mongo.open();
      }
    }),
    TEST_MS,
  );

  test(
    "keeps a number that exceeds all, however many it gave",
    withDatabase(async (mongo) => {
      const repository = await mongo.open();
      let given = 0;
      for (const _ of range(1, 3)) {
        given = Number((await repository.append(drafts("a", 900))).map(stored).at(-1)?.seq);
        const kept = await mongo.db.collection("room_numbers").findOne({ "_id.room": "a" } as Document);
        expect(kept?.seq).toBeGreaterThanOrEqual(given);
      }
      expect(given).toBe(2_700);
      await empty(mongo, "a");
      const next = await mongo.open();
      expect(Number(stored((await next.append([draft("a")]))[0]).seq)).toBeGreaterThan(given);
    }),
    TEST_MS,
  );

  test(
    "but for older ones goes on after every number that this service gave, each batch whole",
    withDatabase(async (mongo) => {
      const repository = await mongo.open();
      await repository.append([...drafts("a", 5), ...drafts("b", 1)]);
      for (const [deleted, next] of [
        [[5], [6, 7]],
        [
          [4, 6, 7],
          [8, 9],
        ],
      ] as const) {
        await mongo.messages.deleteMany({ room: "a", seq: { $in: [...deleted] } });
        expect(seqs((await repository.append(drafts("a", 2))).map(stored))).toEqual([...next]);
      }
      expect(stored((await repository.append(drafts("b", 1)))[0]).seq).toBe(seq(2));
      const { head, messages } = await repository.readAfter(room("a"), seq(0), WIDE);
      expect([seqs(messages), head.seq]).toEqual([[1, 2, 3, 8, 9], seq(9)]);
      await mongo.messages.drop();
      expect(stored((await repository.append(drafts("a", 1)))[0]).seq).toBe(seq(1));
    }),
    TEST_MS,
  );

  test(
    "is not one whose first message was stored between the looks at its messages and at its number",
    withDatabase(async (mongo) => {
      const writer = await mongo.open();
      const names = ["head", "heads", "append"];
      let stores = async (_name: string) => {};
      const proxy = await startLaggingReplica(Number(new URL(await sharedMongo()).port), async (command) => {
        if (command.find !== "room_numbers") return;
        for (const name of names)
          if (JSON.stringify(command.filter).includes(`"${name}"`)) await stores(name);
      });
      const between = mongoDatabaseOf(proxy.uri, mongo.databaseName);
      try {
        const reader = await between.open();
        const first = new Set<string>();
        stores = async (name) => {
          if (first.has(name)) return;
          first.add(name);
          await writer.append(drafts(name, 2));
        };
        expect(await reader.head(room("head"))).toMatchObject({ seq: 2, firstSeq: 1 });
        expect((await reader.heads([room("heads")])).seqs).toEqual([seq(2)]);
        expect(stored((await reader.append([draft("append")]))[0]).seq).toBe(seq(3));
        expect([...first]).toEqual(names);
      } finally {
        await between.dispose();
        proxy.stop();
      }
    }),
    TEST_MS,
  );

  test(
    "gives no number twice to two services that race before and after each deletion",
    withDatabase(async (mongo) => {
      const services = await Promise.all([mongo.open(), mongo.open()]);
      const given: number[] = [];
      for (const _ of range(1, 8)) {
        const writers = services.map(async (repository, index) => {
          for (const batch of range(1, 4))
            for (const result of await repository.append(drafts("a", 1 + ((batch + index) % 3))))
              given.push(Number(stored(result).seq));
        });
        await Promise.all(writers);
        const kept = seqs((await assured(services[0]).readAfter(room("a"), seq(0), WIDE)).messages);
        expect(kept).toEqual(range(assured(kept[0]), assured(kept.at(-1))));
        await empty(mongo, "a");
      }
      expect(new Set(given).size).toBe(given.length);
    }),
    TEST_MS,
  );

  test(
    "goes on after its numbers where an older version gave them, or a collection was put back",
    withDatabase(async (mongo) => {
      const before = await mongo.open();
      await before.append([...drafts("a", 4), ...drafts("b", 2)]);
      const { epoch } = await before.head(room("a"));
      await before.close();
      const [first] = await mongo.messages.find().toArray();
      await mongo.messages.insertOne({ ...first, _id: "odd" as never, room: "c", seq: 1.5 });
      const rows = await mongo.messages.find().toArray();
      await mongo.db.collection("room_numbers").drop();
      await mongo.db.collection("meta").updateOne({}, { $unset: { kept: "" } });
      const older = await mongo.open();
      expect((await older.head(room("a"))).epoch).toBe(epoch);
      await empty(mongo, "a");
      expect(await older.head(room("a"))).toEqual({ epoch, seq: seq(4), firstSeq: seq(5) });
      await older.close();

      await mongo.messages.drop();
      await mongo.messages.insertMany(rows);
      const putBack = await mongo.open();
      expect((await putBack.head(room("a"))).epoch).not.toBe(epoch);
      await empty(mongo, "a");
      expect(await putBack.head(room("a"))).toMatchObject({ seq: 4, firstSeq: 5 });
      expect(stored((await putBack.append([draft("a")]))[0])).toMatchObject({ seq: 5 });
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
      const numbers = (await mongo.messages.find().sort({ seq: 1 }).toArray()).map((row) => Number(row.seq));
      expect(numbers[0]).toBeGreaterThan(4);
      expect(numbers[1]).toBe((numbers[0] ?? 0) + 1);
      await empty(mongo, "a");
      expect(Number((await (await mongo.open()).head(room("a"))).seq)).toBeGreaterThanOrEqual(
        numbers[1] ?? 0,
      );
    }),
    TEST_MS,
  );

  test(
    "begins at 1 in a collection that was made anew, which is another epoch",
    withDatabase(async (mongo) => {
      const repository = await mongo.open();
      await repository.append(drafts("a", 4));
      const { epoch } = await repository.head(room("a"));
      await mongo.messages.drop();
      const [result] = await repository.append([draft("a")]);
      expect(stored(result).seq).toBe(seq(1));
      const head = await repository.head(room("a"));
      expect(head.epoch).not.toBe(epoch);
      await empty(mongo, "a");
      expect(Number((await repository.head(room("a"))).seq)).toBeGreaterThanOrEqual(1);
      expect(await mongo.db.collection("room_numbers").countDocuments()).toBe(1);
    }),
    TEST_MS,
  );
});
