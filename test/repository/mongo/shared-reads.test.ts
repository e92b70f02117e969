/** Reads that are shared: each answer is newer than its question, and nobody waits for ever behind one that hangs. */

import { describe, expect, test } from "bun:test";
import { heapStats } from "bun:jsc";
import { createSharedReads } from "../../../src/repository/mongo/shared-reads.ts";
import { range } from "../../contract/drafting.ts";

/** A server whose value grows by itself, and how often it was asked; its answers wait for `answer`. */
function createServer({ waitersMax = 1_000 } = {}) {
  const share = createSharedReads(waitersMax, 10_000);
  const open: PromiseWithResolvers<void>[] = [];
  const server = {
    value: 0,
    asked: 0,
    /** Lets what was asked be answered, the oldest question first. */
    answer: () => open.shift()?.resolve(),
    fail: () => open.shift()?.reject(new Error("the server is gone")),
    read: (key = "a room") =>
      share(key, async ({ rest, begin }) => {
        await rest();
        begin();
        server.asked += 1;
        const seen = server.value;
        const gate = Promise.withResolvers<void>();
        open.push(gate);
        await gate.promise;
        return seen;
      }),
    async isAsked(times: number) {
      while (server.asked < times) await Bun.sleep(1);
    },
  };
  return server;
}

describe("createSharedReads", () => {
  test("asks once for all who ask before it does, and once more for those who come while it is answered", async () => {
    const server = createServer();
    const first = range(1, 100).map(() => server.read());
    await server.isAsked(1);
    server.value = 1;
    const second = range(1, 100).map(() => server.read());
    server.answer();
    expect(new Set(await Promise.all(first))).toEqual(new Set([0]));
    await server.isAsked(2);
    server.answer();
    expect(new Set(await Promise.all(second))).toEqual(new Set([1]));
    expect(server.asked).toBe(2);
  });

  test("leaves the server alone with a crowd's next read until it has answered the one before", async () => {
    const server = createServer();
    const first = server.read();
    await server.isAsked(1);
    const waves = [server.read()];
    for (let turn = 0; turn < 5; turn += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      expect(server.asked).toBe(1);
      waves.push(server.read());
    }
    server.answer();
    await first;
    await server.isAsked(2);
    server.answer();
    await Promise.all(waves);
    expect(server.asked).toBe(2);
  });

  test("asks again where a read was refused before it began", async () => {
    const share = createSharedReads(10, 10_000);
    const refused = share("a", async ({ rest }) => {
      await rest();
      throw new Error("refused");
    });
    await expect(refused).rejects.toThrow("refused");
    expect(await share("a", async () => "answered")).toBe("answered");
  });

  test("keeps nothing of reads that have ended, however many keys there are", async () => {
    const share = createSharedReads(10, 10_000);
    const readAll = async (count: number, begins: boolean) => {
      for (let n = 0; n < count; n += 1)
        await share(`${begins} ${count} ${n}`, async ({ rest, begin }) => {
          await rest();
          if (begins) begin();
        });
    };
    const objects = () => {
      Bun.gc(true);
      return heapStats().objectCount;
    };
    for (const begins of [true, false]) {
      await readAll(1_000, begins);
      const before = objects();
      await readAll(10_000, begins);
      expect(objects() - before).toBeLessThan(5_000);
    }
  });

  test("tells a read of each caller that joins it, and no longer when it has begun", async () => {
    const share = createSharedReads(10, 10_000);
    const turn = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<string>();
    let joined = 0;
    const read = () =>
      share("a", async ({ begin, onJoin }) => {
        onJoin(() => (joined += 1));
        await turn.promise;
        begin();
        return answer.promise;
      });
    const callers = [read(), read(), read()];
    expect(joined).toBe(2);
    turn.resolve();
    await new Promise((resolve) => setImmediate(resolve));
    callers.push(read());
    expect(joined).toBe(2);
    answer.resolve("answered");
    expect(new Set(await Promise.all(callers))).toEqual(new Set(["answered"]));
  });

  test("waits for a read that hangs no longer than a while", async () => {
    const server = createServer();
    const hangs = server.read();
    await server.isAsked(1);
    const next = server.read();
    await server.isAsked(2);
    server.answer();
    server.answer();
    expect(await Promise.all([hangs, next])).toEqual([0, 0]);
  });

  test("tells all who share it of its failure, and begins afresh after it", async () => {
    const server = createServer();
    const reads = range(1, 3).map(() => server.read());
    await server.isAsked(1);
    server.fail();
    for (const { status } of await Promise.allSettled(reads)) expect(status).toBe("rejected");
    const again = server.read();
    await server.isAsked(2);
    server.answer();
    expect(await again).toBe(0);
  });

  test("keeps what is asked of one thing from what is asked of another", async () => {
    const server = createServer();
    const reads = [server.read("a room"), server.read("another")];
    await server.isAsked(2);
    server.answer();
    server.answer();
    expect(await Promise.all(reads)).toEqual([0, 0]);
  });

  test("refuses as overloaded beyond its ceiling, and takes others when some have gone", async () => {
    const server = createServer({ waitersMax: 3 });
    const reads = range(1, 3).map(() => server.read());
    await expect(server.read()).rejects.toMatchObject({ code: "overloaded" });
    await server.isAsked(1);
    server.answer();
    await Promise.all(reads);
    const next = server.read();
    await server.isAsked(2);
    server.answer();
    expect(await next).toBe(0);
  });
});
