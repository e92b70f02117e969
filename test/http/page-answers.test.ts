/** Long pages on their way: the same to the client as any answer, and counted as long as it does not take them. */

import { afterEach, describe, expect, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";
import { belongings } from "../fixture/belongings.ts";
import { post, rawRequest, refusalOf, startHttpApp, type TestHttpApp } from "../fixture/http-app.ts";

const { undo } = belongings(afterEach);

/** More than the kernel takes for a client that does not read. */
const GIANT = 12_000_000;
/** Only one such page may be unread. */
const UNREAD_MAX = 1_000_000;

/** A service with one giant text in a room, one long and one short. */
async function start(): Promise<TestHttpApp> {
  const app = await startHttpApp({
    messageBytesMax: GIANT,
    bodyBytesMax: 2 * GIANT,
    pagesUnreadBytesMax: UNREAD_MAX,
  });
  undo.push(app.dispose);
  for (const [room, length] of [
    ["giant", GIANT],
    ["long", 2 * LIMITS.longPageBytes],
    ["short", 100],
  ] as const) {
    expect((await post(app, room, { user_id: "anna", message: "x".repeat(length) })).status).toBe(201);
  }
  return app;
}

const pathOf = (room: string) => `/rooms/${room}/messages`;
const ask = (app: TestHttpApp, room: string, init?: RequestInit) => fetch(`${app.url}${pathOf(room)}`, init);

/** A client that asks for the giant page and reads nothing of it until it is told to. */
async function stopped(app: TestHttpApp) {
  const ended = Promise.withResolvers<number>();
  let bytes = 0;
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port: app.port,
    socket: {
      open(opened) {
        opened.pause();
        opened.write(`GET ${pathOf("giant")} HTTP/1.1\r\nHost: x\r\n\r\n`);
      },
      data(_, chunk) {
        bytes += chunk.length;
        if (bytes >= GIANT) ended.resolve(bytes);
      },
      close: () => ended.resolve(bytes),
    },
  });
  undo.push(() => socket.terminate());
  return { socket, ended: ended.promise };
}

/** Asks for the long page until the answer has this status; resolves with it and with how many were refused. */
async function until(app: TestHttpApp, status: number): Promise<{ answer: Response; refused: number }> {
  for (let refused = 0; ;) {
    const answer = await ask(app, "long");
    if (answer.status === 503) refused += 1;
    if (answer.status === status) return { answer, refused };
    await answer.text();
  }
}

describe("a long page", () => {
  test("has the headers of a short one, its length among them", async () => {
    const app = await start();
    const headersOf = async (room: string) => {
      const answer = await ask(app, room, { headers: { origin: "https://chat.example.org" } });
      const body = await answer.bytes();
      expect(answer.headers.get("content-length")).toBe(String(body.byteLength));
      return Object.fromEntries(
        [...answer.headers].filter(([name]) => !/^(date|content-length)$/.test(name)),
      );
    };
    const long = await headersOf("long");
    expect(long).toEqual(await headersOf("short"));
    expect(long).toMatchObject({
      "access-control-allow-origin": "https://chat.example.org",
      "content-type": "application/json",
      vary: "Origin",
    });
  });

  test("is the same whether it was read or kept", async () => {
    const app = await start();
    const [read, , kept] = [await ask(app, "long"), await ask(app, "long"), await ask(app, "long")];
    expect(kept.headers.get("content-length")).toBe(read.headers.get("content-length"));
    expect(await kept.text()).toBe(await read.text());
  });

  test("is measured by HEAD, as often as asked, and counted for nobody", async () => {
    const app = await start();
    const length = String((await (await ask(app, "giant")).bytes()).byteLength);
    for (let n = 0; n < 5; n += 1) {
      const head = await ask(app, "giant", { method: "HEAD" });
      expect([head.status, head.headers.get("content-length"), await head.text()]).toEqual([200, length, ""]);
    }
    expect((await ask(app, "long")).status).toBe(200);
  });

  test.each(["HTTP/1.1", "HTTP/1.0"])("ends the connection where it is asked to, in %s", async (version) => {
    const app = await start();
    const answer = await rawRequest(
      app.port,
      `GET ${pathOf("giant")} ${version}\r\nHost: x\r\nConnection: close\r\n\r\n`,
    );
    const [head = "", body = ""] = answer.split("\r\n\r\n");
    expect(head).toStartWith("HTTP/1.1 200 OK");
    expect(head.toLowerCase()).toContain("\r\nconnection: close");
    expect(head.toLowerCase()).toContain(`\r\ncontent-length: ${body.length}`);
    expect(JSON.parse(body)).toMatchObject({ messages: [{ message: "x".repeat(GIANT) }] });
  });

  test("is whole in every kind of character", async () => {
    const app = await start();
    for (const fill of ["é", "日", "👋", "\u0001", '"']) {
      const message = fill.repeat(100_000);
      await post(app, "kinds", { user_id: "anna", message });
      const answer = await ask(app, "kinds");
      const body = await answer.bytes();
      expect(answer.headers.get("content-length")).toBe(String(body.byteLength));
      expect(JSON.parse(Buffer.from(body).toString())).toMatchObject({ messages: [{ message }] });
    }
  });
});

describe("long pages that nobody takes", () => {
  test("are refused beyond the ceiling with Retry-After, and counted; short ones are not", async () => {
    const app = await start();
    await stopped(app);
    const { answer, refused } = await until(app, 503);
    expect(answer.headers.get("retry-after")).toBe("1");
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(await refusalOf(answer)).toEqual({
      status: 503,
      code: "overloaded",
      message: expect.any(String),
      retryable: true,
      retry_after_ms: 1_000,
    });
    expect(app.metrics.snapshot().pages_overloaded_total).toBe(refused);
    expect((await ask(app, "short")).status).toBe(200);
    expect((await ask(app, "giant", { method: "HEAD" })).status).toBe(200);
  });

  test("free their place when the client goes", async () => {
    const app = await start();
    const { socket } = await stopped(app);
    await until(app, 503);
    socket.terminate();
    expect((await until(app, 200)).answer.status).toBe(200);
  });

  test("free their place when the client reads after all, and are whole", async () => {
    const app = await start();
    const { socket, ended } = await stopped(app);
    await until(app, 503);
    socket.resume();
    expect(await ended).toBeGreaterThan(GIANT);
    await until(app, 200);
  });

  test("leave nothing behind, however their clients go", async () => {
    const app = await start();
    for (let round = 0; round < 10; round += 1) {
      const leaving = await Promise.all(Array.from({ length: 4 }, () => stopped(app)));
      if (round % 2 === 0) await until(app, 503);
      for (const [n, { socket }] of leaving.entries()) {
        if (n % 2 === 0) socket.resume();
        if (n > 1) socket.end();
        else socket.terminate();
      }
      await Promise.all(leaving.map(({ ended }) => ended));
    }
    await until(app, 200);
    // Nothing is counted any more: beside an unread page there would be no room for the giant.
    expect((await ask(app, "giant")).status).toBe(200);
  });
});
