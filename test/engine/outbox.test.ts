/** What goes out in one write, and that no frame waits too long or passes another. */

import { afterEach, expect, spyOn, test } from "bun:test";
import type { BunWebSocket, WebSocketData } from "@socket.io/bun-engine";
import { LIMITS } from "../../src/limits.ts";
import { createOutbox, Link } from "../../src/engine/outbox.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

/** A real WebSocket, the server's end and what the client got. */
async function connected() {
  const opened = Promise.withResolvers<BunWebSocket>();
  const server = Bun.serve<WebSocketData>({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, self) =>
      self.upgrade(request, { data: {} as WebSocketData }) ? undefined : new Response(null, { status: 400 }),
    websocket: { open: (socket) => opened.resolve(socket), message() {} },
  });
  const client = new WebSocket(`ws://127.0.0.1:${server.port}`);
  const got: string[] = [];
  const arrived = { count: 0, done: () => {} };
  client.onmessage = ({ data }) => {
    got.push(String(data));
    if (got.length >= arrived.count) arrived.done();
  };
  const closed = new Promise<void>((resolve) => {
    client.onclose = () => resolve();
  });
  closers.push(() => server.stop(true));
  const socket = await opened.promise;
  const receive = (count: number) =>
    new Promise<string[]>((resolve) => {
      arrived.count = count;
      arrived.done = () => resolve(got);
      if (got.length >= count) resolve(got);
    });
  return { server, socket, receive, got, closed };
}

test("outbox writes once what is sent while microtasks are queued, in its order", async () => {
  const { socket, receive } = await connected();
  const cork = spyOn(socket, "cork");
  const link = new Link(socket, createOutbox());
  const texts = Array.from({ length: 64 }, (_, index) => `ack ${index}`);
  const commit = Promise.resolve();
  for (const text of texts) void commit.then(() => link.send(text));
  expect(await receive(64)).toEqual(texts);
  expect(cork).toHaveBeenCalledTimes(1);
});

test("outbox lets a publish pass nothing that was sent before it", async () => {
  const { server, socket, receive } = await connected();
  const outbox = createOutbox();
  const link = new Link(socket, outbox);
  link.send("joined");
  socket.subscribe("room");
  outbox.flush();
  server.publish("room", "first");
  link.send("ack");
  outbox.flush();
  server.publish("room", "second");
  expect(await receive(4)).toEqual(["joined", "first", "ack", "second"]);
});

test("outbox keeps no more than its ceiling waiting", async () => {
  const { socket, receive } = await connected();
  const send = spyOn(socket, "send");
  const link = new Link(socket, createOutbox());
  link.send("a");
  expect(send).not.toHaveBeenCalled();
  link.send("b".repeat(LIMITS.gatheredBytesMax));
  expect(send).toHaveBeenCalledTimes(2);
  expect((await receive(2)).map((text) => text[0] ?? "")).toEqual(["a", "b"]);
});

test("outbox hands over what waits before it closes", async () => {
  const { socket, receive, closed, got } = await connected();
  const link = new Link(socket, createOutbox());
  link.send("last words");
  link.close();
  await receive(1);
  await closed;
  expect(got).toEqual(["last words"]);
});

test("outbox forgets what waits for a socket that is gone", async () => {
  const { socket, closed } = await connected();
  const outbox = createOutbox();
  const link = new Link(socket, outbox);
  const send = spyOn(socket, "send");
  link.send("too late");
  socket.terminate();
  outbox.flush();
  await closed;
  expect(send).not.toHaveBeenCalled();
});

test("outbox tells of each write, after it", async () => {
  const { socket, receive } = await connected();
  const send = spyOn(socket, "send");
  const told: [Link, number][] = [];
  const outbox = createOutbox((link) => told.push([link, send.mock.calls.length]));
  const link = new Link(socket, outbox);
  link.send("one");
  link.send("two");
  expect(told).toEqual([]);
  outbox.flush(link);
  outbox.flush(link);
  expect(told.map(([, sent]) => sent)).toEqual([2]);
  expect(told[0]?.[0] === link).toBe(true);
  expect(await receive(2)).toEqual(["one", "two"]);
});

test("Link says that a pong is awaited once the engine has sent a ping for its session", async () => {
  const { socket, receive } = await connected();
  const session = { isPongAwaited: false };
  const link = new Link(socket, createOutbox());
  link.send("2");
  link.session = session;
  link.send("22");
  expect(session.isPongAwaited).toBe(false);
  link.send("2");
  expect(session.isPongAwaited).toBe(true);
  expect(await receive(3)).toEqual(["2", "22", "2"]);
});
