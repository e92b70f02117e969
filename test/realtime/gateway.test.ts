import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { createLocalBus } from "../../src/bus/local.ts";
import { createChat } from "../../src/chat/chat.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import { attachGateway, createBroadcast } from "../../src/realtime/gateway.ts";
import { range, refused, seqsOf } from "../contract/conversation.ts";
import { type Answer, bunClient, type Link } from "../contract/links.ts";
import { startEngineHouse } from "../fixture/engine.ts";
import { gated } from "../fixture/gated.ts";
import { openSqlite, scratch, silentLog } from "../fixture/sqlite.ts";

setDefaultTimeout(20_000);

let gateway: Awaited<ReturnType<typeof opened>>;
beforeEach(async () => {
  gateway = await opened();
});
afterEach(() => gateway.dispose());

/** The gateway on a real engine and a real store whose answers can be held. */
async function opened() {
  const folder = await scratch();
  const repository = gated(await openSqlite(folder.path));
  const house = startEngineHouse();
  const bus = createLocalBus({ log: silentLog });
  const metrics = createMetrics();
  const chat = createChat({
    repository,
    bus,
    ...createBroadcast(house.io),
    rate: null,
    inFlightMax: 4_096,
    now: Date.now,
    monotonicNow: () => performance.now(),
    newMessageId: (now) => Bun.randomUUIDv7("hex", now),
    log: silentLog,
    metrics,
  });
  attachGateway({ io: house.io, chat, messageBytesMax: 1_000, log: silentLog, metrics });
  const url = `http://127.0.0.1:${house.server.port}`;
  let watching: (() => void)[] = [];
  house.io.on("connection", (socket) => {
    socket.on("disconnect", () => {
      for (const tell of watching) tell();
      watching = [];
    });
  });
  return {
    /** Resolves once the server knows that the next connection has ended. */
    ended: () => new Promise<void>((resolve) => watching.push(resolve)),
    repository,
    url,
    connect: (): Promise<Link> => bunClient().connect(url, "websocket"),
    async dispose() {
      chat.close();
      house.engine.close();
      await house.server.stop(true);
      await chat.settled();
      await repository.close();
      await folder[Symbol.asyncDispose]();
    },
  };
}

const say = (link: Link, message: string) =>
  link.call("send_message", { room: "lobby", user_id: "ada", message });

test("what follows a join waits for it, in order, while others and refusals do not", async () => {
  const { repository, connect } = gateway;
  const [link, other] = [await connect(), await connect()];
  await other.call("join_room", "lobby");
  const asking = repository.hold("head", "answered");
  const answers = Promise.all([
    link.call("join_room", "lobby"),
    say(link, "one"),
    say(link, "two"),
    link.call("leave_room", "lobby"),
    say(link, "three"),
    link.call("join_room", { room: "lobby", since: 0 }),
    say(link, "four"),
  ]);
  await asking.reached;
  expect(await link.call("dance")).toEqual(refused("unknown_event"));
  expect(await link.call("leave_room")).toMatchObject({ error: { code: "invalid_payload" } });
  expect(await say(other, "meanwhile")).toMatchObject({ ok: true, seq: 1 });
  expect(link.heard.map(({ name }) => name)).toEqual(["dance", "leave_room"]);
  asking.release();
  const [joined, one, two, left, three, again, four] = await answers;
  expect([joined, left].map((answer) => answer?.ok)).toEqual([true, true]);
  expect(joined).toMatchObject({ seq: 1 });
  expect(seqsOf([one, two, four] as Answer[])).toEqual([2, 3, 4]);
  expect(three).toEqual(refused("not_in_room"));
  expect(again).toMatchObject({ ok: true, recovered: true });
});

test("more than may wait behind a join is refused with a time to come back, the rest is done", async () => {
  const { repository, connect } = gateway;
  const link = await connect();
  const asking = repository.hold("head", "answered");
  const joining = link.call("join_room", "lobby");
  await asking.reached;
  const waiting = range(1, LIMITS.eventsBehindJoinMax).map((index) => say(link, `${index}`));
  expect(await say(link, "one too many")).toMatchObject({
    ok: false,
    error: { code: "overloaded", retryable: true, retry_after_ms: expect.any(Number) },
  });
  asking.release();
  expect(await joining).toMatchObject({ ok: true });
  expect(seqsOf(await Promise.all(waiting))).toEqual(range(1, LIMITS.eventsBehindJoinMax));
});

test("a join that the store refuses is answered, and what waited behind it goes on", async () => {
  const { repository, connect } = gateway;
  const link = await connect();
  repository.fail("head", new ChatError("storage_unavailable", { cause: new Error("secret") }));
  const answers = await Promise.all([link.call("join_room", "lobby"), say(link, "?")]);
  expect(answers).toEqual([refused("storage_unavailable", true), refused("not_in_room")]);
  repository.fail("head", new TypeError("secret, at /a/path"));
  const internal = await link.call("join_room", "lobby");
  expect(internal).toEqual(refused("internal", true));
  expect(JSON.stringify([answers, internal])).not.toContain("secret");
  repository.fail("append", new TypeError("secret"));
  await link.call("join_room", "lobby");
  expect(await say(link, "?")).toEqual(refused("internal", true));
  expect(await say(link, "!")).toMatchObject({ ok: true, seq: 1 });
});

test("a connection that goes while it joins is never in the room", async () => {
  const { repository, connect, ended } = gateway;
  const [watcher, link] = [await connect(), await connect()];
  await watcher.call("join_room", "lobby");
  const asking = repository.hold("head", "answered");
  link.tell("join_room", { room: "lobby", user_id: "ghost" });
  link.tell("send_message", { room: "lobby", user_id: "ghost", message: "boo" });
  await asking.reached;
  await Promise.all([ended(), link.close()]);
  asking.release();
  expect(await say(watcher, "alone")).toMatchObject({ seq: 1 });
  expect(watcher.heard.filter(({ kind }) => kind === "event").map(({ name }) => name)).toEqual([
    "receive_message",
  ]);
});

test("any name of an event gets an answer: numbers, long ones, torn characters, the library's own", async () => {
  const { connect, url } = gateway;
  const link = await connect();
  link.tell("x".repeat(5_000));
  expect(await link.next("error")).toEqual({
    ...refused("unknown_event").error,
    event: "x".repeat(LIMITS.eventNameCharsMax),
  });
  link.tell(`${"x".repeat(LIMITS.eventNameCharsMax - 1)}🌱`);
  const { event } = await link.next("error");
  expect((event as string).isWellFormed()).toBe(true);

  const frames: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const bare = new WebSocket(`${url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`);
  bare.onmessage = ({ data }) => {
    const frame = String(data);
    if (frame.startsWith("0")) bare.send("40");
    else if (frame.startsWith("40"))
      for (const sent of ["421[7]", "422[-0.5,1]", "42[7]", '423["send_message"]']) bare.send(sent);
    else frames.push(frame);
    if (frames.length === 4) resolve();
  };
  await promise;
  const unknown = { code: "unknown_event", message: expect.any(String), retryable: false };
  const answer = (frame: string | undefined) => JSON.parse((frame ?? "").replace(/^\d+/, "")) as unknown;
  expect(frames.map((frame) => frame.match(/^\d+/)?.[0])).toEqual(["431", "432", "42", "433"]);
  expect(answer(frames[0])).toEqual([{ ok: false, error: unknown }]);
  expect(answer(frames[1])).toEqual([{ ok: false, error: unknown }]);
  expect(answer(frames[2])).toEqual(["error", { ...unknown, event: "7" }]);
  expect(answer(frames[3])).toMatchObject([{ ok: false, error: { code: "invalid_payload" } }]);
  bare.close();
});
