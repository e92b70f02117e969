import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { createLocalBus } from "../../src/bus/local.ts";
import { createChat } from "../../src/chat/chat.ts";
import type { RoomName } from "../../src/domain/ids.ts";
import type { Rate } from "../../src/domain/rate.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { createFanout } from "../../src/realtime/fanout.ts";
import { type ChatPeer, createBroadcast, createGateway, type Gateway } from "../../src/realtime/gateway.ts";
import { createSocketIo } from "../../src/engine/socket-io.ts";
import { range, refused, seqsOf } from "../contract/conversation.ts";
import { type Answer, bunClient, type Link } from "../contract/links.ts";
import type { Transport } from "../contract/stock-client.ts";
import { io } from "socket.io-client";
import type { EngineSession } from "../../src/engine/session.ts";
import { drafts } from "../contract/drafting.ts";
import { openRawSocket, openSocket, startEngine } from "../fixture/engine.ts";
import { gated } from "../fixture/gated.ts";
import { openSqlite, scratch, silentLog } from "../fixture/sqlite.ts";

setDefaultTimeout(20_000);

const IN_FLIGHT_MAX = 2_000;

let gateway: Awaited<ReturnType<typeof opened>>;
/** What the gateway takes for milliseconds since its start beyond those that have passed. */
let laterMs = 0;
beforeEach(async () => {
  laterMs = 0;
  gateway = await opened();
});
afterEach(() => gateway.dispose());

/** The gateway on a real engine and a real store whose answers can be held. */
async function opened(rate: Rate | null = null) {
  const folder = await scratch();
  const repository = gated(await openSqlite(folder.path));
  const sessions = new Set<EngineSession>();
  const host = startEngine({
    accept(session) {
      sessions.add(session);
      return socketIo.accept(session);
    },
  });
  const { metrics, url } = host;
  const fanout = createFanout<ChatPeer>({ server: () => host.server, mayPublish: host.engine.mayPublish });
  const chat = createChat({
    repository,
    bus: createLocalBus({ log: silentLog }),
    ...createBroadcast(fanout),
    rate,
    inFlightMax: IN_FLIGHT_MAX,
    now: Date.now,
    monotonicNow: () => performance.now(),
    newMessageId: (now) => Bun.randomUUIDv7("hex", now),
    log: silentLog,
    metrics,
  });
  const gateway = createGateway({
    chat,
    fanout,
    messageBytesMax: 1_000,
    inFlightMax: IN_FLIGHT_MAX,
    monotonicNow: () => performance.now() + laterMs,
    log: silentLog,
    metrics,
  });
  let watching: (() => void)[] = [];
  const watched: Gateway = {
    ...gateway,
    onDisconnect(peer, reason) {
      gateway.onDisconnect(peer, reason);
      for (const tell of watching) tell();
      watching = [];
    },
  };
  const socketIo = createSocketIo({
    namespaces: new Map([["/", watched]]),
    connectTimeoutMs: 45_000,
    packetBytesMax: 1_000_000,
  });
  return {
    /** Resolves once the server knows that the next connection has ended. */
    ended: () => new Promise<void>((resolve) => watching.push(resolve)),
    ...host,
    /** All that there were. */
    sessions: sessions as ReadonlySet<EngineSession>,
    gateway,
    fanout,
    repository,
    broadcast: createBroadcast(fanout),
    connect: (transport: Transport = "websocket"): Promise<Link> => bunClient().connect(url, transport),
    async dispose() {
      chat.close();
      await host.stop();
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

/** A bare WebSocket that has connected to the default namespace. */
async function bareSocket(url: string) {
  const bare = openSocket(url, "");
  await bare.frame();
  bare.socket.send("40");
  expect(await bare.frame()).toStartWith("40{");
  return {
    ...bare,
    call: async (id: number, event: string, payload: unknown) => {
      bare.socket.send(`42${id}${JSON.stringify([event, payload])}`);
      const frame = await bare.frame();
      expect(frame).toStartWith(`43${id}[`);
      return (JSON.parse(frame.slice(`43${id}`.length)) as [Answer])[0];
    },
  };
}

test("a client that leaves the namespace has left its rooms, and may come back on the same connection", async () => {
  const { connect, url, fanout } = gateway;
  const watcher = await connect();
  await watcher.call("join_room", { room: "lobby", user_id: "ada" });
  const bare = await bareSocket(url);
  await bare.call(1, "join_room", { room: "lobby", user_id: "bob" });
  expect(await watcher.next("user_joined")).toMatchObject({ user_id: "bob" });
  bare.socket.send("41");
  expect(await watcher.next("user_left")).toMatchObject({ user_id: "bob" });
  expect([...fanout.members("lobby")]).toHaveLength(1);
  await say(watcher, "without bob");

  bare.socket.send("40");
  expect(await bare.frame()).toStartWith("40{");
  expect(await bare.call(2, "send_message", { room: "lobby", user_id: "bob", message: "?" })).toEqual(
    refused("not_in_room"),
  );
  expect(await bare.call(3, "join_room", { room: "lobby", user_id: "bob" })).toMatchObject({
    ok: true,
    seq: 1,
  });
  expect(await watcher.next("user_joined")).toMatchObject({ user_id: "bob" });
  await say(watcher, "with bob");
  expect(await bare.frame()).toContain('"message":"with bob"');
  bare.socket.close();
});

test("a client that leaves the namespace and comes back has used what it had used of its allowance", async () => {
  await gateway.dispose();
  gateway = await opened({ perSecond: 0.001, burst: 2 });
  const bare = await bareSocket(gateway.url);
  /** Joins and sends: the send's answer, behind the message itself where it is taken. */
  async function joinAndSend() {
    expect(await bare.call(1, "join_room", "lobby")).toMatchObject({ ok: true });
    bare.socket.send('422["send_message",{"room":"lobby","user_id":"bob","message":"?"}]');
    for (;;) {
      const frame = await bare.frame();
      if (frame.startsWith("432[")) return frame;
    }
  }
  const answers: string[] = [];
  for (let life = 0; life < 3; life++) {
    answers.push(await joinAndSend());
    bare.socket.send("41");
    bare.socket.send("40");
    expect(await bare.frame()).toStartWith("40{");
  }
  expect(answers.map((answer) => answer.includes("rate_limited"))).toEqual([false, false, true]);
  expect(gateway.repository.batches).toEqual([1, 1]);
  bare.socket.close();
});

test("a client that leaves the namespace while it joins a room, and comes back, is not in the room", async () => {
  const { connect, url, fanout, repository, ended } = gateway;
  const watcher = await connect();
  await watcher.call("join_room", "lobby");
  const bare = await bareSocket(url);
  const asking = repository.hold("head", "answered");
  bare.socket.send('421["join_room",{"room":"lobby","user_id":"ghost"}]');
  await asking.reached;
  const left = ended();
  bare.socket.send("41");
  await left;
  bare.socket.send("40");
  expect(await bare.frame()).toStartWith("40{");
  asking.release();
  await say(watcher, "alone");
  expect([...fanout.members("lobby")]).toHaveLength(1);
  expect(await bare.call(2, "leave_room", "lobby")).toEqual(refused("not_in_room"));
  expect(watcher.heard.filter(({ name }) => name.startsWith("user_"))).toEqual([]);
  bare.socket.close();
});

test.each(["websocket", "polling"] as const)(
  "createBroadcast dismisses all of a room and nobody else, over %s",
  async (transport) => {
    const { broadcast, connect, engine } = gateway;
    const [one, two, apart] = [await connect(transport), await connect(transport), await connect(transport)];
    for (const link of [one, two]) await link.call("join_room", "lobby");
    await apart.call("join_room", "hall");
    broadcast.dismiss("lobby" as RoomName);
    // As by the loss of a transport, after which a client comes back by itself.
    for (const link of [one, two]) expect(await link.closed).toBe("transport close");
    expect(await apart.call("leave_room", "hall")).toMatchObject({ ok: true });
    expect([...engine.connections()]).toHaveLength(1);
  },
);

test("createGateway answers `draining` to whom it lets go, and to nobody else", async () => {
  const { gateway: face, connect, engine } = gateway;
  const link = await connect();
  await link.call("join_room", "lobby");
  const [connection] = engine.connections();
  const other = await connect();
  await other.call("join_room", "lobby");
  face.letGo(connection as object);
  expect(await say(link, "?")).toMatchObject({ ok: false, error: { code: "draining", retryable: true } });
  expect(await say(other, "!")).toMatchObject({ ok: true, seq: 1 });
  expect(await link.next("receive_message")).toMatchObject({ message: "!" });
});

describe("a send to a room that its connection has not joined", () => {
  test.each(["websocket", "polling"] as const)(
    "is kept for a stock client that emits offline and joins when it is connected, over %s",
    async (transport) => {
      const socket = io(gateway.url, { transports: [transport], forceNew: true, autoConnect: false });
      const rooms = ["lobby", "hall"];
      const heard: string[] = [];
      socket.on("receive_message", ({ room, message }) => heard.push(`${room} ${message}`));
      socket.on("connect", () => {
        for (const room of rooms) socket.emit("join_room", { room, since: 0 });
      });
      const offline = rooms.flatMap((room) =>
        range(1, 20).map((n) =>
          socket.emitWithAck("send_message", { room, user_id: "ada", message: `${n}` }),
        ),
      );
      socket.connect();
      const answers = (await Promise.all(offline)) as Answer[];
      expect(seqsOf(answers)).toEqual([...range(1, 20), ...range(1, 20)]);
      for (const room of rooms) {
        expect(heard.filter((said) => said.startsWith(room))).toEqual(
          range(1, 20).map((n) => `${room} ${n}`),
        );
      }
      socket.disconnect();
    },
  );

  test("waits for its join with those behind it, in order, while sends to other rooms go on", async () => {
    const { connect, repository } = gateway;
    const link = await connect();
    await link.call("join_room", "lobby");
    const toHall = (message: string) => link.call("send_message", { room: "hall", user_id: "ada", message });
    const early = [toHall("one"), toHall("two")];
    expect(await say(link, "meanwhile")).toMatchObject({ ok: true, seq: 1 });
    const asking = repository.hold("head", "answered");
    const joining = link.call("join_room", "hall");
    const late = [toHall("three"), toHall("four")];
    await asking.reached;
    await link.fence();
    asking.release();
    expect(await joining).toMatchObject({ ok: true, seq: 0 });
    expect(seqsOf(await Promise.all([...early, ...late]))).toEqual([1, 2, 3, 4]);
    const heard = await link.take("receive_message", 5);
    expect(heard.map(({ message }) => message)).toEqual(["meanwhile", "one", "two", "three", "four"]);
  });

  test("waits on behind a join that failed, for one that does not", async () => {
    const { connect, repository } = gateway;
    const link = await connect();
    repository.fail("head", new ChatError("storage_unavailable"));
    const [one, failed, two] = [say(link, "one"), link.call("join_room", "lobby"), say(link, "two")];
    expect(await failed).toEqual(refused("storage_unavailable", true));
    expect(await link.call("join_room", "lobby")).toMatchObject({ ok: true });
    expect(seqsOf(await Promise.all([one, two]))).toEqual([1, 2]);
  });

  test("waits as long as a join of its connection takes, also one that is queued behind another", async () => {
    const { connect, repository } = gateway;
    const [link, clock] = [await connect(), await connect()];
    const toHall = link.call("send_message", { room: "hall", user_id: "ada", message: "one" });
    const toLobby = say(link, "two");
    const asking = repository.hold("head", "answered");
    const joins = [link.call("join_room", "lobby"), link.call("join_room", "hall")];
    await asking.reached;
    // It came later, and nothing is joined by its connection: by its refusal the others' time has passed.
    expect(await say(clock, "nobody joins")).toEqual(refused("not_in_room"));
    asking.release();
    for (const answer of await Promise.all(joins)) expect(answer).toMatchObject({ ok: true, seq: 0 });
    expect(seqsOf(await Promise.all([toHall, toLobby]))).toEqual([1, 1]);
  });

  test("has its whole time again after a join that failed", async () => {
    const { connect, repository } = gateway;
    const [link, clock] = [await connect(), await connect()];
    const one = say(link, "one");
    await link.fence();
    const other = say(clock, "nobody joins");
    await clock.fence();
    repository.fail("head", new ChatError("storage_unavailable"));
    laterMs = LIMITS.joinAwaitedMs - 100;
    expect(await link.call("join_room", "hall")).toEqual(refused("storage_unavailable", true));
    laterMs = 0;
    expect(await other).toEqual(refused("not_in_room"));
    expect(await link.call("join_room", "lobby")).toMatchObject({ ok: true, seq: 0 });
    expect(await one).toMatchObject({ ok: true, seq: 1 });
  });

  test("is refused when its time is over and nobody joined", async () => {
    const link = await gateway.connect();
    const one = say(link, "one");
    await link.fence();
    expect(link.heard.map(({ name }) => name)).toEqual(["fence"]);
    expect(await one).toEqual(refused("not_in_room"));
    await link.call("join_room", "lobby");
    expect(await say(link, "two")).toMatchObject({ seq: 1 });
  });

  test("waits on where its connection is refused to leave another room", async () => {
    const link = await gateway.connect();
    const one = say(link, "one");
    expect(await link.call("leave_room", "hall")).toEqual(refused("not_in_room"));
    const two = say(link, "two");
    expect(await link.call("join_room", "lobby")).toMatchObject({ ok: true, seq: 0 });
    expect(seqsOf(await Promise.all([one, two]))).toEqual([1, 2]);
  });

  test("beyond its connection's share of texts is `overloaded`, and others' sends wait all the same", async () => {
    const [greedy, other] = [await gateway.connect(), await gateway.connect()];
    const fits = LIMITS.heldSendsOfConnectionTextBytesMax / 1_000;
    const held = range(1, fits).map(() => say(greedy, "x".repeat(1_000)));
    const beyond = say(greedy, "one too many");
    expect(await beyond).toMatchObject({ error: { code: "overloaded", retryable: true } });
    const one = say(other, "one");
    await other.call("join_room", "lobby");
    expect(await one).toMatchObject({ ok: true, seq: 1 });
    await greedy.call("join_room", "lobby");
    expect(seqsOf(await Promise.all(held))).toEqual(range(2, fits + 1));
  });

  test("is refused at once when its connection leaves that room, has left one, or is no longer young", async () => {
    const link = await gateway.connect();
    const before = [say(link, "one"), say(link, "two")];
    link.tell("leave_room", "lobby");
    await link.fence();
    // The answers stand before the fence's: they did not wait for their time.
    expect(link.heard.map(({ name }) => name)).toEqual(["send_message", "send_message", "error", "fence"]);
    await link.call("join_room", "hall");
    await link.call("leave_room", "hall");
    const heardBefore = link.heard.length;
    const after = say(link, "three");
    await link.fence();
    expect(link.heard.slice(heardBefore).map(({ name }) => name)).toEqual(["send_message", "fence"]);
    const old = await gateway.connect();
    laterMs = LIMITS.connectionYoungMs;
    const late = say(old, "four");
    await old.fence();
    expect(old.heard.map(({ name }) => name)).toEqual(["send_message", "fence"]);
    for (const answer of [...before, after, late]) expect(await answer).toEqual(refused("not_in_room"));
    expect(gateway.repository.batches).toEqual([]);
  });

  test("beyond what may be unanswered is `overloaded`, and the rest is stored", async () => {
    const link = await gateway.connect();
    const held = range(1, IN_FLIGHT_MAX).map((n) => say(link, `${n}`));
    expect(await say(link, "one too many")).toMatchObject({
      error: { code: "overloaded", retryable: true, retry_after_ms: LIMITS.joinAwaitedMs },
    });
    await link.call("join_room", "lobby");
    expect(seqsOf(await Promise.all(held))).toEqual(range(1, IN_FLIGHT_MAX));
  });

  test("is `draining` when its connection is let go", async () => {
    const { gateway: face, connect, engine } = gateway;
    const link = await connect();
    const one = say(link, "one");
    await link.fence();
    const [connection] = engine.connections();
    face.letGo(connection as object);
    expect(await one).toMatchObject({ error: { code: "draining", retryable: true } });
  });

  test("ends when its client leaves the namespace, also where it comes back on the same connection", async () => {
    const { url, repository } = gateway;
    const bare = await bareSocket(url);
    bare.socket.send('42["send_message",{"room":"lobby","user_id":"ada","message":"boo"}]');
    bare.socket.send("41");
    bare.socket.send("40");
    expect(await bare.frame()).toStartWith("40{");
    // What was sent first would be refused first.
    expect(await bare.call(1, "send_message", { room: "hall", user_id: "ada", message: "?" })).toEqual(
      refused("not_in_room"),
    );
    expect(await bare.call(2, "join_room", "lobby")).toMatchObject({ ok: true, seq: 0 });
    expect(repository.batches).toEqual([]);
    bare.socket.close();
  });
});

describe("a backlog", () => {
  const REPLAY_BYTES = 240_000;
  /** Rooms, each of a replay that is nearly as long as a replay may be. */
  async function longRooms(count: number) {
    const names = range(1, count).map((n) => `room ${n}`);
    for (const name of names)
      await gateway.repository.append(drafts(name, 100, { text: "x".repeat(REPLAY_BYTES / 100 - 300) }));
    return names;
  }
  const slowClients = () => gateway.metrics.snapshot().slow_clients_disconnected_total;

  test("of replays is waited for: all rooms that a polling client joins at once are resumed", async () => {
    const names = await longRooms(12);
    const link = await gateway.connect("polling");
    const answers = await Promise.all(names.map((room) => link.call("join_room", { room, since: 0 })));
    for (const answer of answers) {
      expect(answer).toMatchObject({ ok: true, recovered: true, complete: true, through: 100 });
      expect(seqsOf(answer.messages as Answer[])).toEqual(range(1, 100));
    }
    expect(slowClients()).toBe(0);
  });

  test("of replays is waited for over a WebSocket whose client begins to read late", async () => {
    const names = await longRooms(64);
    const raw = await openRawSocket(gateway.port);
    raw.send("40");
    await raw.heardAtLeast(2);
    raw.tcp.pause();
    for (const [id, room] of names.entries())
      raw.send(`42${id}${JSON.stringify(["join_room", { room, since: 0 }])}`);
    const [{ socket }] = [...gateway.sessions] as [EngineSession];
    // Until no more is written to it.
    for (let [waiting, looks] = [0, 0]; looks < 30 && slowClients() === 0; await Bun.sleep(1)) {
      const now = socket?.getBufferedAmount() ?? 0;
      looks = now > 0 && now === waiting ? looks + 1 : 0;
      waiting = now;
    }
    raw.tcp.resume();
    await raw.heardAtLeast(2 + names.length);
    for (const [id, text] of raw.texts.slice(2).entries()) {
      expect(text).toStartWith(`43${id}[{"ok":true`);
      expect(text).toContain('"through":100,"complete":true');
    }
    expect(slowClients()).toBe(0);
    raw.tcp.destroy();
  });

  test("of a gap is waited for: members who read are told all of it, however long it is", async () => {
    const [member, sender] = [await gateway.connect("polling"), await gateway.connect()];
    for (const link of [member, sender]) await link.call("join_room", "lobby");
    // The bus has lost these.
    const count = 12;
    for (const _ of range(1, count))
      await gateway.repository.append(drafts("lobby", 100, { text: "x".repeat(REPLAY_BYTES / 100 - 300) }));
    await say(sender, "the last one");
    const heard = await member.take("receive_message", 100 * count + 1);
    expect(seqsOf(heard)).toEqual(range(1, 100 * count + 1));
    expect(slowClients()).toBe(0);
  });
});
