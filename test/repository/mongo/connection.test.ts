/** The way to a MongoDB: how soon one that is back is found, and what a late operation says about it. */

import { describe, expect, test } from "bun:test";
import { type Db, MongoClient } from "mongodb";
import { ChatError } from "../../../src/errors.ts";
import { MONGO_TIMES } from "../../../src/repository/mongo/client.ts";
import { connectMongo, type MongoConnection } from "../../../src/repository/mongo/connection.ts";
import { freshDatabase, ownServers, sharedMongo, startMongo } from "../../fixture/mongodb.ts";
import { keptLog, newEpoch } from "./opening.ts";

function connected(uri: string) {
  const { lines, log } = keptLog();
  const connection = connectMongo({ uri, databaseName: freshDatabase(), log, newEpoch });
  const logged = (event: string) => lines.filter((line) => line.includes(`"event":"${event}"`)).length;
  return { connection, logged };
}

/** How long each of so many tries to reach a server came after the one before it, in milliseconds, the shortest first. */
async function pausesBetweenTries(count: number): Promise<number[]> {
  const tries: number[] = [];
  const enough = Promise.withResolvers<void>();
  const nobody = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        tries.push(performance.now());
        if (tries.length > count) enough.resolve();
        socket.end();
      },
      data() {},
    },
  });
  const { connection } = connected(`mongodb://127.0.0.1:${nobody.port}/`);
  try {
    await enough.promise;
    return tries
      .slice(1)
      .map((at, index) => at - (tries[index] ?? at))
      .sort((a, b) => a - b);
  } finally {
    await connection.close();
    nobody.stop(true);
  }
}

/** An operation that does not end by itself. */
const hanging = ({ run }: MongoConnection) =>
  run(() => new Promise<never>(() => {})).then(
    () => "answered",
    (error: unknown) => (error instanceof ChatError ? error.code : error),
  );

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(5);
}

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "answered",
    (error: unknown) => (error instanceof ChatError ? error.code : error),
  );

/** Resolves when so much of the time has passed. */
async function passed(ms: number): Promise<void> {
  const settled = performance.now() + ms;
  await until(() => performance.now() > settled);
}

const middle = (times: readonly number[]) =>
  times.toSorted((a, b) => a - b)[times.length >> 1] ?? Number.POSITIVE_INFINITY;

/** How long `work` takes, in milliseconds. */
async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

const NOT_WRITABLE_PRIMARY = 10_107;

/** Has the server say, once, that it is not the primary. */
async function beRefused({ documents, failed, status }: MongoConnection, operator: Db): Promise<void> {
  await operator.command({
    configureFailPoint: "failCommand",
    mode: { times: 1 },
    data: { failCommands: ["insert"], errorCode: NOT_WRITABLE_PRIMARY, appName: "chat-service" },
  });
  failed(await documents.insertOne({}).catch((error: unknown) => error));
  expect(status().up).toBe(false);
}

const withItsOwn = ownServers ? test.concurrent : undefined;

describe("connectMongo", () => {
  test("looks for a server that is away several times in each half of a second", async () => {
    const pauses = await pausesBetweenTries(10);
    expect(pauses[pauses.length >> 1]).toBeLessThan(250);
  }, 20_000);

  withItsOwn?.(
    "is back after a server that was no primary for a moment as soon as when it is new",
    async () => {
      const server = await startMongo({ failpoints: true });
      const operator = new MongoClient(server.uri);
      try {
        const [first, again]: [number[], number[]] = [[], []];
        for (let n = 0; n < 7; n += 1) {
          const { connection } = connected(server.uri);
          first.push(await timed(() => connection.up(10_000)));
          for (let m = 0; m < 2; m += 1) {
            // At any time between two looks at a server that is well.
            const settled = performance.now() + 2 * MONGO_TIMES.heartbeatMs * Math.random();
            await until(() => performance.now() > settled);
            await beRefused(connection, operator.db("admin"));
            again.push(await timed(() => connection.up(10_000)));
          }
          await connection.close();
        }
        console.log(
          `up in ${Math.round(middle(first))} ms at first, ${Math.round(middle(again))} ms afterwards`,
        );
        // To wait for the next look would be 250 ms more.
        expect(middle(again)).toBeLessThan(middle(first) + MONGO_TIMES.knockMs);
      } finally {
        await operator.close();
        await server.stop();
      }
    },
    20_000,
  );

  // Both take as long as an operation may, so they run side by side.
  test.concurrent(
    "takes an operation that ends late for a server that hangs",
    async () => {
      const { connection, logged } = connected(await sharedMongo());
      try {
        await connection.up(10_000);
        expect(await hanging(connection)).toBe("storage_unavailable");
        expect(logged("store_down")).toBe(1);
      } finally {
        await connection.close();
      }
    },
    20_000,
  );

  withItsOwn?.(
    "does not take one for it that had waited for the server to come back",
    async () => {
      let server = await startMongo();
      const { port } = server;
      const { connection, logged } = connected(server.uri);
      try {
        await connection.up(10_000);
        const outcome = hanging(connection);
        await server.stop();
        await until(() => !connection.status().up);
        server = await startMongo({ port });
        await connection.up(10_000);
        expect(await outcome).toBe("storage_unavailable");
        expect(connection.status()).toEqual({ up: true });
        expect(logged("store_down")).toBe(1);
      } finally {
        await connection.close();
        await server.stop();
      }
    },
    20_000,
  );

  test.concurrent(
    "gives a caller that shares an older read its whole time for a turn",
    async () => {
      const oneAtATime = new URL(await sharedMongo());
      oneAtATime.searchParams.set("maxPoolSize", "1");
      const { connection } = connected(oneAtATime.href);
      try {
        await connection.up(10_000);
        const working = Promise.withResolvers<void>();
        const first = codeOf(connection.read(() => working.promise));
        const early = codeOf(connection.readShared("a", async () => {}));
        await passed(MONGO_TIMES.operationMs / 2);
        const late = codeOf(connection.readShared("a", async () => {}));
        expect(await early).toBe("overloaded");
        await passed(50);
        expect(Bun.peek.status(late)).toBe("pending");
        working.resolve();
        expect([await first, await late]).toEqual(["storage_unavailable", "answered"]);
      } finally {
        await connection.close();
      }
    },
    20_000,
  );

  test("gives a caller that shares an older read its whole time for a store that comes up", async () => {
    const { connection } = connected("mongodb://127.0.0.1:1/");
    try {
      const early = codeOf(connection.readShared("a", async () => {}));
      await passed(MONGO_TIMES.comeUpMs / 2);
      const late = codeOf(connection.readShared("a", async () => {}));
      expect(await early).toBe("storage_unavailable");
      await passed(50);
      expect(Bun.peek.status(late)).toBe("pending");
      expect(await late).toBe("storage_unavailable");
    } finally {
      await connection.close();
    }
  }, 20_000);
});
