/** The MongoDB store under more reads than it can take at once: slow is not down, and waiting costs no memory for ever. */

import { describe, expect, test } from "bun:test";
import { heapStats } from "bun:jsc";
import { LIMITS } from "../../../src/limits.ts";
import { openMongoRepository } from "../../../src/repository/mongo/open.ts";
import { draft, range, room, seq, stored } from "../../contract/drafting.ts";
import { startLaggingReplica } from "../../fixture/mongo-replica.ts";
import { sharedMongo } from "../../fixture/mongodb.ts";
import { keptLog, mongoDatabaseOf, newEpoch } from "./opening.ts";

const TEST_MS = 20_000;

const outcomeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "answered",
    (error: { code?: string }) => `${error.code}`,
  );

describe("reads from MongoDB", () => {
  test(
    "wait for their turn, share the looks at the store's life, and let appends pass",
    async () => {
      const uri = await sharedMongo();
      const { promise: released, resolve: release } = Promise.withResolvers<void>();
      let [reading, readingMost, looks] = [0, 0, 0];
      const slow = await startLaggingReplica(Number(new URL(uri).port), async (command) => {
        if (command.listCollections !== undefined) looks++;
        if (command.find !== "messages") return;
        readingMost = Math.max(readingMost, ++reading);
        await released;
        reading--;
      });
      const direct = mongoDatabaseOf(uri);
      const mongo = mongoDatabaseOf(slow.uri, direct.databaseName);
      try {
        const repository = await mongo.open();
        looks = 0;
        const outcomes = range(1, 300).map((n) => outcomeOf(repository.head(room(`a${n}`))));
        while (reading < LIMITS.storeReadsMax) await Bun.sleep(1);
        expect(stored((await repository.append([draft("b")]))[0])).toMatchObject({ seq: 1 });
        release();
        expect(new Set(await Promise.all(outcomes))).toEqual(new Set(["answered"]));
        expect(repository.status()).toEqual({ up: true });
        expect(readingMost).toBe(LIMITS.storeReadsMax);
        expect(looks).toBeLessThan(150);
      } finally {
        release();
        await mongo.dispose();
        await direct.db.dropDatabase();
        await direct.dispose();
        slow.stop();
      }
    },
    TEST_MS,
  );

  test(
    "of one thing that a crowd asks for at once are a few, and none is older than its question",
    async () => {
      let finds = 0;
      const uri = await sharedMongo();
      const counting = await startLaggingReplica(Number(new URL(uri).port), async (command) => {
        if (command.find === "messages") finds += 1;
      });
      const direct = mongoDatabaseOf(uri);
      const mongo = mongoDatabaseOf(counting.uri, direct.databaseName);
      try {
        const repository = await mongo.open();
        const crowd = (after: number) =>
          range(1, 500).map(async () => {
            const bounds = { messagesMax: 100, textBytesMax: 100_000 };
            const page = await repository.readAfter(room("a"), seq(after), bounds);
            return `${page.head.seq}: ${page.messages.map((message) => message.seq)}`;
          });
        for (const n of range(1, 5)) {
          await repository.append([draft("a")]);
          finds = 0;
          expect(new Set(await Promise.all(crowd(n - 1)))).toEqual(new Set([`${n}: ${n}`]));
          // One page takes three.
          expect(finds).toBe(3);
        }
      } finally {
        await mongo.dispose();
        await direct.db.dropDatabase();
        await direct.dispose();
        counting.stop();
      }
    },
    TEST_MS,
  );
});

describe("a MongoDB store that is down", () => {
  const away = { uri: "mongodb://127.0.0.1:1/", databaseName: "away", newEpoch };

  test(
    "keeps nothing of those whom it refused",
    async () => {
      const { log } = keptLog();
      const repository = await openMongoRepository({ ...away, log });
      const refuse = async (count: number) => {
        const outcomes = await Promise.all(range(1, count).map(() => outcomeOf(repository.head(room("a")))));
        expect(new Set(outcomes)).toEqual(new Set(["storage_unavailable"]));
        outcomes.length = 0;
      };
      const objects = () => {
        Bun.gc(true);
        return heapStats().objectCount;
      };
      try {
        await refuse(2_000);
        const before = objects();
        await refuse(10_000);
        expect(objects() - before).toBeLessThan(10_000);
      } finally {
        await repository.close();
      }
    },
    TEST_MS,
  );

  test(
    "refuses at once when too many wait already",
    async () => {
      const { log } = keptLog();
      const repository = await openMongoRepository({ ...away, log });
      try {
        const waiting = range(1, LIMITS.storeWaitersMax).map((n) =>
          outcomeOf(repository.head(room(`a${n}`))),
        );
        const first = Promise.race(waiting).then(() => "the first that waits");
        const one = outcomeOf(repository.readRooms({ before: null, roomsMax: 1 }));
        expect(await Promise.race([one, first])).toBe("storage_unavailable");
        await Promise.all(waiting);
      } finally {
        await repository.close();
      }
    },
    TEST_MS,
  );
});
