/** What an append to MongoDB tells when something happens between storing a message and telling of it. */

import { describe, expect, test } from "bun:test";
import type { Document } from "mongodb";
import { draft, duplicate, seq } from "../../contract/drafting.ts";
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
});
