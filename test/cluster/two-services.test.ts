/** Two services on one MongoDB database: one order for both, also when one of them is killed in the middle. */

import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { range, seqsOf } from "../contract/conversation.ts";
import { comeAndGo, insist } from "../contract/coming-and-going.ts";
import { type Answer, bunClient, type Link } from "../contract/links.ts";
import { type Program, startProgram } from "../fixture/program.ts";
import { mongoStore, type TestStore } from "../fixture/stores.ts";

setDefaultTimeout(40_000);

const client = bunClient();
let store: TestStore;
let first: Program;
let second: Program;

const start = (port = 0) =>
  startProgram({ env: { ...store.env, PORT: String(port), RATE_LIMIT: "off", DRAIN_MS: "0" } });

beforeAll(async () => {
  store = await mongoStore();
  [first, second] = await Promise.all([start(), start()]);
});
afterAll(async () => {
  expect(await Promise.all([first.end(), second.end()])).toEqual([0, 0]);
  await store.remove();
});

async function member(program: Program, room: string, transport: "websocket" | "polling"): Promise<Link> {
  const link = await client.connect(program.url, transport);
  expect(await link.call("join_room", { room, since: 0 })).toMatchObject({ ok: true });
  return link;
}

async function history(program: Program, room: string): Promise<Answer[]> {
  const messages: Answer[] = [];
  for (;;) {
    const answer = await fetch(`${program.url}/rooms/${room}/messages?after=${messages.length}&limit=200`);
    expect(answer.status).toBe(200);
    const page = (await answer.json()) as { messages: Answer[]; seq: number };
    messages.push(...page.messages);
    if (messages.length >= page.seq) return messages;
  }
}

test("writes from both at once make one order, which the members of either see", async () => {
  const rooms = [Bun.randomUUIDv7(), Bun.randomUUIDv7()];
  for (const room of rooms) {
    const members = await Promise.all([
      member(first, room, "websocket"),
      member(second, room, "websocket"),
      member(first, room, "polling"),
      member(second, room, "polling"),
    ]);
    const acks = await Promise.all(
      members.map((link, sender) =>
        Promise.all(
          range(1, 60).map((index) =>
            link.call("send_message", { room, user_id: `${sender}`, message: `${index}` }),
          ),
        ),
      ),
    );
    const heard = await Promise.all(members.map((link) => link.take("receive_message", 240)));
    for (const messages of heard) {
      expect(seqsOf(messages)).toEqual(range(1, 240));
      expect(messages).toEqual(heard[0] as Answer[]);
    }
    for (const sender of range(0, 3)) {
      const said = (heard[0] as Answer[]).filter(({ user_id }) => user_id === `${sender}`);
      expect(said.map(({ message }) => message)).toEqual(range(1, 60).map(String));
      expect(seqsOf(acks[sender] as Answer[])).toEqual(seqsOf(said));
    }
    await Promise.all(members.map((link) => link.close()));
  }
});

test("members that come and go at either while both write see every number once", async () => {
  const room = Bun.randomUUIDv7();
  const rounds = 8;
  const comers = [first, second].flatMap(({ url }, at) =>
    (["websocket", "polling", "upgrade"] as const).map((transport, index) => ({
      url,
      connect: () => client.connect(url, transport),
      isFresh: (round: number) => (round + at + index) % 4 === 0,
    })),
  );
  const writers = [first, second].map(
    ({ url }) =>
      () =>
        client.connect(url, "websocket"),
  );
  expect(await comeAndGo({ room, rounds, comers, writers })).toBeGreaterThan(rounds);
});

test("a lone message reaches the other's members within seconds, and its joins at once", async () => {
  const room = Bun.randomUUIDv7();
  const [here, there] = [await member(first, room, "websocket"), await member(second, room, "websocket")];
  for (const [turn, [speaker, listener]] of (
    [
      [here, there],
      [there, here],
      [here, there],
    ] satisfies [Link, Link][]
  ).entries()) {
    const sent = await speaker.call("send_message", { room, user_id: "ada", message: `${turn}` });
    const acked = performance.now();
    expect(sent).toMatchObject({ ok: true, seq: turn + 1 });
    // A join brings the other service up to date at once; without one it takes the next question for the heads.
    if (turn === 1) {
      const late = await client.connect((listener === there ? second : first).url, "websocket");
      expect(await late.call("join_room", { room, since: turn })).toMatchObject({
        seq: turn + 1,
        recovered: true,
        messages: [{ seq: turn + 1, message: `${turn}` }],
      });
      await late.close();
    }
    for (const link of [here, there])
      expect(await link.next("receive_message")).toMatchObject({ seq: turn + 1, message: `${turn}` });
    expect(performance.now() - acked).toBeLessThan(3_000);
  }
  const retry = { room, user_id: "ada", message: "same", client_id: "c" };
  const told = await Promise.all([here.call("send_message", retry), there.call("send_message", retry)]);
  expect(told.map(({ seq }) => seq)).toEqual([4, 4]);
  expect(told.filter(({ duplicate }) => duplicate === false)).toHaveLength(1);
  await Promise.all([here.close(), there.close()]);
});

test("one killed in the middle loses nothing that was acked, and its members resume without a hole", async () => {
  const room = Bun.randomUUIDv7();
  const total = 80;
  const staying = await member(first, room, "websocket");
  const listener = await member(second, room, "websocket");
  const sender = await member(second, room, "websocket");
  const say = (link: Link, user_id: string, index: number) =>
    insist(link, { room, user_id, message: `${index}`, client_id: `${index}` });

  const acked = new Map<number, Answer>();
  const steady = (async () => {
    for (const index of range(1, total)) await say(staying, "ada", index);
  })();
  for (const index of range(1, total)) {
    // What is never answered is what the kill leaves open: retried below.
    sender.tell("send_message", { room, user_id: "bob", message: `${index}`, client_id: `${index}` });
  }
  const confirmed = await listener.take("receive_message", 10);
  const { port } = second;
  await second.end("SIGKILL");
  await Promise.all([listener.closed, sender.closed]);
  second = await start(port);

  const again = await client.connect(second.url, "websocket");
  const since = listener.heard.filter(({ name }) => name === "receive_message").length;
  expect(since).toBeGreaterThanOrEqual(confirmed.length);
  const resumed = await again.call("join_room", { room, since });
  expect(resumed).toMatchObject({ ok: true, recovered: true, complete: true });
  const answers = await Promise.all(range(1, total).map((index) => say(again, "bob", index)));
  for (const [at, answer] of answers.entries()) {
    acked.set(at + 1, answer);
  }
  await steady;

  const all = await history(first, room);
  expect(seqsOf(all)).toEqual(range(1, 2 * total));
  const bobs = all.filter(({ user_id }) => user_id === "bob");
  expect(bobs.map(({ message }) => Number(message)).sort((a, b) => a - b)).toEqual(range(1, total));
  for (const { message, seq, id } of bobs)
    expect(acked.get(Number(message))).toMatchObject({ seq: seq as number, id: id as string });

  expect(listener.heard.filter(({ name }) => name === "receive_message").map(({ body }) => body)).toEqual(
    all.slice(0, since),
  );
  const replayed = resumed.messages as Answer[];
  const live = await again.take("receive_message", 2 * total - since - replayed.length);
  expect([...replayed, ...live]).toEqual(all.slice(since));
  const elsewhere = await staying.take("receive_message", 2 * total);
  expect(elsewhere).toEqual(all);
  await Promise.all([staying.close(), again.close()]);
});
