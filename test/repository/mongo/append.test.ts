/** What an append to MongoDB tells when something happens between storing a message and telling of it. */

import { describe, expect, test } from "bun:test";
import type { Document } from "mongodb";
import { MONGO_TIMES } from "../../../src/repository/mongo/client.ts";
import { draft, drafts, duplicate, room, seq, seqs, stored } from "../../contract/drafting.ts";
import { type LaggingReplica, startLaggingReplica } from "../../fixture/mongo-replica.ts";
import { sharedMongo } from "../../fixture/mongodb.ts";
import { mongoDatabaseOf, type OpenedMongo } from "./opening.ts";

const TEST_MS = 30_000;

interface Between {
  /** The database as a service sees it whose commands the test hears of first. */
  readonly between: OpenedMongo;
  /** The same database for others. */
  readonly mongo: OpenedMongo;
  readonly proxy: LaggingReplica;
  /** Called before each command from now on. */
  hear(before: (command: Document) => Promise<void> | void): void;
}

const withBetween = (body: (all: Between) => Promise<void>) => async () => {
  const uri = await sharedMongo();
  const mongo = mongoDatabaseOf(uri);
  let heard: (command: Document) => Promise<void> | void = () => {};
  const proxy = await startLaggingReplica(Number(new URL(uri).port), (command) => heard(command));
  const between = mongoDatabaseOf(proxy.uri, mongo.databaseName);
  try {
    await body({
      between,
      mongo,
      proxy,
      hear(before) {
        heard = before;
      },
    });
  } finally {
    await between.dispose();
    proxy.stop();
    await mongo.db.dropDatabase();
    await mongo.dispose();
  }
};

const kept = async ({ db }: OpenedMongo, name: string) =>
  Number((await db.collection("room_numbers").findOne({ "_id.room": name } as Document))?.seq ?? 0);

describe("createMongoAppend", () => {
  test(
    "tells nothing of a message whose room's number was not kept, and keeps it before a retry is told",
    withBetween(async ({ between, mongo, proxy, hear }) => {
      const repository = await between.open();
      hear((command) => {
        if (command.update === "room_numbers") proxy.stop();
      });
      const [named, other] = [draft("a", { client: "c" }), draft("a")];
      const results = await repository.append([named, other, { ...named, id: Bun.randomUUIDv7() }]);
      expect(results.map(({ kind }) => kind)).toEqual(["unknown", "unknown", "unknown"]);
      expect(await mongo.messages.countDocuments()).toBe(2);
      expect(await kept(mongo, "a")).toBe(0);
      const next = await mongo.open();
      const [again] = await next.append([{ ...named, id: Bun.randomUUIDv7() }]);
      expect(duplicate(again).seq).toBe(seq(1));
      expect(await kept(mongo, "a")).toBeGreaterThanOrEqual(1);
    }),
    TEST_MS,
  );

  test(
    "tells all once a store that went away after the insert is back, however long that takes within the append's time",
    withBetween(async ({ between, mongo, hear }) => {
      const repository = await between.open();
      let refusals = 0;
      // Longer than an append waits that has stored nothing.
      const until = performance.now() + 1.5 * MONGO_TIMES.comeUpMs;
      hear((command) => {
        if (command.update === "room_numbers" || (refusals > 0 && command.ping === undefined)) {
          if (performance.now() > until) return;
          refusals += 1;
          throw new Error("the server is away");
        }
      });
      const [result] = await repository.append([draft("a")]);
      expect(stored(result).seq).toBe(seq(1));
      expect(refusals).toBeGreaterThan(0);
      expect(await kept(mongo, "a")).toBeGreaterThanOrEqual(1);
    }),
    TEST_MS,
  );

  test.each([
    ["its room's number was to be kept", { isKept: false, isAnew: true }],
    ["its room's number was kept", { isKept: true, isAnew: true }],
    ["its insert made the collection anew", { isKept: true, isAnew: false }],
  ])(
    "tells of a message that came into the next epoch what is true there, where %s",
    (_, { isKept, isAnew }) =>
      withBetween(async ({ between, mongo, hear }) => {
        const others = await mongo.open();
        await others.append(drafts("a", 5));
        const repository = await between.open();
        if (isKept) await repository.append(drafts("a", 1));
        const former = (await repository.head(room("a"))).epoch;
        const inserting = Promise.withResolvers<void>();
        const opened = Promise.withResolvers<void>();
        hear(async (command) => {
          if (command.insert !== "messages") return;
          inserting.resolve();
          await opened.promise;
        });
        const named = draft("a", { client: "c" });
        const going = repository.append([named, { ...named, id: Bun.randomUUIDv7() }, draft("b")]);
        await inserting.promise;
        hear(() => {});
        await mongo.db.dropDatabase();
        if (isAnew) expect(seqs((await others.append(drafts("a", 3))).map(stored))).toEqual([1, 2, 3]);
        opened.resolve();
        const results = await going;
        expect(results.map(({ kind }) => kind)).toEqual(["stored", "duplicate", "stored"]);
        const { epoch } = await others.head(room("a"));
        expect(epoch).not.toBe(former);
        for (const result of results) {
          if (result.kind !== "stored" && result.kind !== "duplicate") continue;
          const { id, seq: number } = result.message;
          expect(result.epoch).toBe(epoch);
          expect(await mongo.messages.findOne({ _id: id as never })).toMatchObject({ seq: number });
        }
        expect(await mongo.messages.countDocuments()).toBe(isAnew ? 5 : 2);
        expect(await kept(mongo, "b")).toBeGreaterThanOrEqual(1);
      })(),
    TEST_MS,
  );
});
