/** The MongoDB store when its server is away, dies, stalls, or fails on purpose: nothing acked is lost, nothing hangs. */

import { describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Document, MongoClient } from "mongodb";
import type { Message } from "../../../src/domain/message.ts";
import { LIMITS } from "../../../src/limits.ts";
import { openMongoRepository } from "../../../src/repository/mongo/open.ts";
import type { AppendResult, MessageRepository } from "../../../src/repository/repository.ts";
import { draft, drafts, range, room, seq, stored, user, WIDE } from "../../contract/drafting.ts";
import { type MongoServer, ownServers, startMongo } from "../../fixture/mongodb.ts";
import { keptLog, mongoDatabaseOf, newEpoch, type OpenedMongo } from "./opening.ts";

/** Failures take as long as the ceilings on them. */
const TEST_MS = 20_000;

/** Resolves when the store says so; the limit of the test is the only clock. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(5);
}

const elapsed = async (work: () => Promise<unknown>): Promise<{ ms: number; outcome: string }> => {
  const began = performance.now();
  const outcome = await work().then(
    (value) => (Array.isArray(value) ? value.map(({ kind }: AppendResult) => kind).join() : "answered"),
    (error: { code?: string }) => `${error.code}`,
  );
  return { ms: performance.now() - began, outcome };
};

const operations = (repository: MessageRepository): (() => Promise<unknown>)[] => [
  () => repository.append([draft("a"), draft("b", { client: "c" })]),
  () => repository.head(room("a")),
  () => repository.heads([room("a"), room("b")]),
  () => repository.readAfter(room("a"), seq(0), WIDE),
  () => repository.readBefore(room("a"), null, WIDE),
  () => repository.readByUser({ userId: user("ann"), before: null, bounds: WIDE }),
  () => repository.readRooms({ before: null, roomsMax: 5 }),
];

/** Every acked message is there once, at the number that was acked, and every room counts 1, 2, 3. */
async function expectKept({ messages }: OpenedMongo, acked: readonly Message[]): Promise<void> {
  const rows = await messages.find().sort({ room: 1, seq: 1 }).toArray();
  for (const name of new Set(rows.map((row) => String(row.room)))) {
    const numbers = rows.filter((row) => row.room === name).map((row) => row.seq);
    expect(numbers).toEqual(range(1, numbers.length));
  }
  const kept = new Map(rows.map((row) => [String(row._id), [row.room, row.seq]]));
  for (const message of acked) expect(kept.get(message.id)).toEqual([message.room, message.seq]);
}

async function withServer(
  options: Parameters<typeof startMongo>[0],
  body: (server: MongoServer, mongo: OpenedMongo) => Promise<void>,
): Promise<void> {
  const server = await startMongo(options);
  const mongo = mongoDatabaseOf(server.uri);
  try {
    await body(server, mongo);
  } finally {
    server.resume();
    await mongo.dispose();
    await server.stop();
  }
}

function failureTests(): void {
  describe("openMongoRepository", () => {
    test(
      "resolves while the server is away, refuses, and recovers by itself",
      async () => {
        const { port } = await freed();
        const { log, lines } = keptLog();
        const uri = `mongodb://127.0.0.1:${port}/`;
        const began = performance.now();
        const repository = await openMongoRepository({ uri, databaseName: "away", log, newEpoch });
        expect(performance.now() - began).toBeLessThan(200);
        for (const { ms, outcome } of await Promise.all(operations(repository).map(elapsed))) {
          // Nothing was sent: of each draft it is certain that it was not stored.
          expect(outcome).toMatch(/^(storage_unavailable|rejected,rejected)$/);
          expect(ms).toBeLessThan(2_000);
        }
        // Clients may rely on these words (docs/PROTOCOL.md).
        const [refused] = await repository.append([draft("a")]);
        expect((refused as { error: Error }).error.message).toContain("the message was not stored");
        await until(
          () => !repository.status().up && lines.some((line) => line.includes("store_unreachable")),
        );
        expect(repository.status()).toEqual({ up: false, reason: "MongoDB cannot be reached" });
        expect(lines.filter((line) => line.includes("store_unreachable")).length).toBe(1);
        const server = await startMongo({ port });
        try {
          await until(() => repository.status().up);
          expect(stored((await repository.append([draft("a")]))[0])).toMatchObject({ seq: 1 });
        } finally {
          await repository.close();
          await server.stop();
        }
      },
      TEST_MS,
    );
  });

  describe("a MongoDB store whose server is killed in the middle", () => {
    test(
      "loses nothing acked, says that it is down, and goes on with the next server",
      async () => {
        const storagePath = await mkdtemp(join(tmpdir(), "chat-mongodb-kept-"));
        let server = await startMongo({ storagePath });
        const mongo = mongoDatabaseOf(server.uri);
        try {
          const repository = await mongo.open();
          const acked: Message[] = [];
          let writing = true;
          const write = async () => {
            for (let batch = 0; writing; batch++) {
              const results = await repository
                .append(drafts(`r${batch % 2}`, 1 + (batch % 3)))
                .catch(() => []);
              for (const result of results) if (result.kind === "stored") acked.push(result.message);
            }
          };
          const writer = write();
          for (const round of range(1, 2)) {
            const target = acked.length + 60;
            await until(() => acked.length >= target);
            await server.kill();
            const killed = performance.now();
            await until(() => !repository.status().up);
            expect(performance.now() - killed).toBeLessThan(2_000);
            server = await startMongo({ storagePath, port: server.port });
            await until(() => repository.status().up);
            if (round === 2) await until(() => acked.length >= target + 20);
          }
          writing = false;
          await writer;
          await expectKept(mongo, acked);
        } finally {
          await mongo.dispose();
          await server.stop();
          await rm(storagePath, { recursive: true, force: true });
        }
      },
      TEST_MS,
    );

    test(
      "says that it is down without any traffic",
      async () => {
        await withServer({}, async (server, mongo) => {
          const repository = await mongo.open();
          await until(() => repository.status().up);
          await server.kill();
          const killed = performance.now();
          await until(() => !repository.status().up);
          expect(performance.now() - killed).toBeLessThan(2_000);
        });
      },
      TEST_MS,
    );
  });

  describe("a MongoDB store whose server stalls", () => {
    test(
      "settles every operation in time, recovers, and keeps the numbers whole",
      async () => {
        await withServer({}, async (server, mongo) => {
          const repository = await mongo.open();
          const acked = (await repository.append(drafts("a", 3))).map(stored);
          server.pause();
          const settled = await Promise.all(operations(repository).map(elapsed));
          for (const { ms, outcome } of settled) {
            expect(outcome).toMatch(/^(storage_unavailable|rejected,rejected)$/);
            expect(ms).toBeLessThan(LIMITS.storeTimeoutMs);
          }
          expect(repository.status().up).toBe(false);
          server.resume();
          await until(() => repository.status().up);
          acked.push(...(await repository.append(drafts("a", 3))).map(stored));
          await expectKept(mongo, acked);
        });
      },
      TEST_MS,
    );
  });

  describe("a MongoDB store whose server finds a read too long", () => {
    const MAX_TIME_EXPIRED = 50;

    test(
      "refuses that read, and is up for everybody else",
      async () => {
        await withServer({ failpoints: true }, async ({ uri }, mongo) => {
          const repository = await mongo.open();
          await repository.append(drafts("a", 2));
          const admin = new MongoClient(uri);
          const data = { failCommands: ["find"], errorCode: MAX_TIME_EXPIRED, appName: "chat-service" };
          const reads = [
            () => repository.readByUser({ userId: user("ann"), before: null, bounds: WIDE }),
            () => repository.readAfter(room("a"), seq(0), WIDE),
            () => repository.head(room("a")),
          ];
          for (const read of reads) {
            await admin.db("admin").command({ configureFailPoint: "failCommand", mode: { times: 1 }, data });
            expect((await elapsed(read)).outcome).toBe("storage_unavailable");
            expect(repository.status()).toEqual({ up: true });
          }
          expect((await elapsed(() => repository.head(room("a")))).outcome).toBe("answered");
          await admin.close();
        });
      },
      TEST_MS,
    );
  });

  describe("append to a MongoDB that fails on purpose", () => {
    const NOT_WRITABLE_PRIMARY = 10_107;
    const failures: { name: string; data: Document; times?: number }[] = [
      { name: "insert: connection lost before", data: { failCommands: ["insert"], closeConnection: true } },
      {
        name: "insert: lost five times",
        data: { failCommands: ["insert"], closeConnection: true },
        times: 5,
      },
      {
        name: "insert: not the primary",
        data: { failCommands: ["insert"], errorCode: NOT_WRITABLE_PRIMARY },
      },
      {
        name: "insert: stored, but not by a majority yet",
        data: {
          failCommands: ["insert"],
          writeConcernError: { code: 64, errmsg: "waiting for replication timed out" },
        },
      },
      {
        name: "insert: stored, then the primary steps down",
        data: { failCommands: ["insert"], writeConcernError: { code: 91, errmsg: "shutting down" } },
        times: 3,
      },
      {
        name: "reads: connection lost",
        data: { failCommands: ["find", "aggregate"], closeConnection: true },
      },
      {
        name: "reads: not the primary",
        data: { failCommands: ["find", "aggregate"], errorCode: 13_435 },
        times: 3,
      },
      {
        name: "everything for a while",
        data: { failCommands: ["insert", "find", "aggregate", "listCollections"], closeConnection: true },
        times: 6,
      },
    ];

    test(
      "acks what is stored once and leaves no hole, whatever fails when",
      async () => {
        await withServer({ failpoints: true }, async ({ uri }, mongo) => {
          const repository = await mongo.open();
          const admin = new MongoClient(uri);
          const arm = async (data: Document, times: number) => {
            const mode = times === 0 ? "off" : { times };
            // Only the service's own connections: the test's must be able to look.
            await admin.db("admin").command({
              configureFailPoint: "failCommand",
              mode,
              data: { ...data, appName: "chat-service" },
            });
          };
          const acked = (await repository.append([...drafts("a", 2), ...drafts("b", 2)])).map(stored);
          try {
            for (const { name, data, times = 1 } of failures) {
              await arm(data, times);
              const said = [draft("a"), draft("b", { client: name, text: name }), draft("a"), draft("b")];
              const { ms, outcome } = await elapsed(async () => {
                const results = await repository.append(said);
                acked.push(
                  ...results.flatMap((result) => (result.kind === "stored" ? [result.message] : [])),
                );
                return results;
              });
              expect([name, outcome]).toEqual([name, "stored,stored,stored,stored"]);
              expect(ms).toBeLessThan(LIMITS.storeTimeoutMs);
              await arm(data, 0);
              const retry = (await repository.append([draft("b", { client: name, text: name })]))[0];
              expect([name, retry?.kind]).toEqual([name, "duplicate"]);
              await expectKept(mongo, acked);
            }
            expect(await mongo.messages.countDocuments()).toBe(4 + 4 * failures.length);
          } finally {
            await admin.close();
          }
        });
      },
      TEST_MS,
    );

    test(
      "refuses in time what never succeeds, and a retry of it stores once",
      async () => {
        await withServer({ failpoints: true }, async ({ uri }, mongo) => {
          const repository = await mongo.open();
          const acked = (await repository.append(drafts("a", 2))).map(stored);
          const admin = new MongoClient(uri);
          const arm = (mode: string) =>
            admin.db("admin").command({
              configureFailPoint: "failCommand",
              mode,
              data: { failCommands: ["insert"], closeConnection: true, appName: "chat-service" },
            });
          await arm("alwaysOn");
          const said = () => [
            draft("a", { client: "c1", text: "one" }),
            draft("a", { client: "c2", text: "two" }),
          ];
          const { ms, outcome } = await elapsed(() => repository.append(said()));
          expect(outcome).toBe("unknown,unknown");
          expect(ms).toBeLessThan(LIMITS.storeTimeoutMs);
          await arm("off");
          await until(() => repository.status().up);
          acked.push(...(await repository.append(said())).map(stored));
          await expectKept(mongo, acked);
          await admin.close();
        });
      },
      TEST_MS,
    );
  });
}

/** A port on which a server was, and is no more. */
async function freed(): Promise<{ port: number }> {
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = probe;
  probe.stop(true);
  return { port };
}

// A server that the user named is not ours to kill: prepare.ts says that these are left out.
if (ownServers) failureTests();
