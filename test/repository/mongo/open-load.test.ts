/** The MongoDB store under more reads than it can take at once: slow is not down, and waiting costs no memory for ever. */

import { describe, expect, test } from "bun:test";
import { heapStats } from "bun:jsc";
import type { Document } from "mongodb";
import { LIMITS } from "../../../src/limits.ts";
import { openMongoRepository } from "../../../src/repository/mongo/open.ts";
import type { MessageRepository } from "../../../src/repository/repository.ts";
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

interface Proxied {
  readonly repository: MessageRepository;
  /** Another service, past the proxy. */
  readonly other: MessageRepository;
  /** From now on this comes before each question of the repository for messages. */
  onFind(before: (command: Document) => Promise<void>): void;
}

const throughProxy = (body: (proxied: Proxied) => Promise<void>) => async () => {
  let before = async (_command: Document) => {};
  const uri = await sharedMongo();
  const proxy = await startLaggingReplica(Number(new URL(uri).port), async (command) => {
    if (command.find === "messages") await before(command);
  });
  const direct = mongoDatabaseOf(uri);
  const mongo = mongoDatabaseOf(proxy.uri, direct.databaseName);
  try {
    const [repository, other] = await Promise.all([mongo.open(), direct.open()]);
    await body({
      repository,
      other,
      onFind(hear) {
        before = hear;
      },
    });
  } finally {
    await mongo.dispose();
    await direct.db.dropDatabase();
    await direct.dispose();
    proxy.stop();
  }
};

async function pageAfter(repository: MessageRepository, after: number): Promise<string> {
  const bounds = { messagesMax: 100, textBytesMax: 100_000 };
  const page = await repository.readAfter(room("a"), seq(after), bounds);
  return `${page.head.seq}: ${page.messages.map((message) => message.seq)}`;
}

describe("reads from MongoDB", () => {
  test(
    "wait for their turn, share the looks at the store's epoch, and let appends pass",
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
    "of one thing that a crowd asks for at once are a few",
    throughProxy(async ({ repository, onFind }) => {
      let finds = 0;
      // An append looks back at the message before its own, by its number: that is no read of a page.
      onFind(async ({ filter }) => {
        if (filter?.$or === undefined) finds += 1;
      });
      for (const n of range(1, 5)) {
        await repository.append([draft("a")]);
        finds = 0;
        const crowd = range(1, 500).map(() => pageAfter(repository, n - 1));
        expect(new Set(await Promise.all(crowd))).toEqual(new Set([`${n}: ${n}`]));
        // One page takes three.
        expect(finds).toBe(3);
      }
    }),
    TEST_MS,
  );

  test(
    "are never older than their question where the same is being read, and are a few then too",
    throughProxy(async ({ repository, other, onFind }) => {
      await repository.append([draft("a")]);
      const [reached, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      // The first page has what it shows by then: the last thing that it asks for is the oldest message.
      let finds = 0;
      onFind(async ({ filter, limit, sort }) => {
        if (filter?.$or === undefined) finds += 1;
        if (Number(limit) !== 1 || Number(sort?.seq) !== 1) return;
        reached.resolve();
        await released.promise;
      });
      const before = pageAfter(repository, 0);
      await reached.promise;
      await other.append([draft("a")]);
      const after: Promise<string>[] = [];
      for (let turn = 0; turn < 5; turn += 1) {
        after.push(pageAfter(repository, 0));
        await new Promise((resolve) => setImmediate(resolve));
      }
      released.resolve();
      expect(await before).toBe("1: 1");
      expect(new Set(await Promise.all(after))).toEqual(new Set(["2: 1,2"]));
      expect(finds).toBe(2 * 3);
    }),
    TEST_MS,
  );

  test(
    "that wait for a turn are shared by those who ask meanwhile",
    throughProxy(async ({ repository, onFind }) => {
      const released = Promise.withResolvers<void>();
      let [busy, finds] = [0, 0];
      onFind(async ({ filter }) => {
        if (filter?.room === "a") finds += 1;
        else {
          busy += 1;
          await released.promise;
        }
      });
      const others = range(1, LIMITS.storeReadsMax).map((n) => repository.head(room(`b${n}`)));
      while (busy < LIMITS.storeReadsMax) await Bun.sleep(1);
      const waiting: Promise<string>[] = [];
      for (let turn = 0; turn < 5; turn += 1) {
        waiting.push(pageAfter(repository, 0));
        await new Promise((resolve) => setImmediate(resolve));
      }
      released.resolve();
      expect(new Set(await Promise.all(waiting))).toEqual(new Set(["0: "]));
      // One page takes three.
      expect(finds).toBe(3);
      await Promise.all(others);
    }),
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
      let refused = 0;
      const refuse = async (count: number) => {
        const outcomes = await Promise.all(
          range(1, count).map(() => outcomeOf(repository.head(room(`a${refused++}`)))),
        );
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
