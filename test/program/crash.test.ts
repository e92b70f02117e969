/** What a crash in the middle of a load may not take: nothing that was acked, nothing that a member saw. */

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";
import { belongings } from "../fixture/belongings.ts";
import { connectMember, readRoom, type SendAnswer, type WireMessage } from "../fixture/member.ts";
import { freshDatabase, ownServers, sharedMongo, startMongo } from "../fixture/mongodb.ts";
import type { Program } from "../fixture/program.ts";

setDefaultTimeout(60_000);

const ROOM = "the busy room";
const SENDERS = 4;
const IN_FLIGHT = 8;

// Each test waits more than it works, so they run side by side and are cleared away together.
const { undo, folder, start: startPlain } = belongings(afterAll);

const start = (env: Record<string, string>): Promise<Program> =>
  startPlain({ env: { RATE_LIMIT: "off", DRAIN_MS: "0", ...env } });

/** What the world outside the service knows: it outlives every crash. */
interface World {
  /** By client_id, which is the text too. */
  readonly acked: Map<string, { id: string; seq: number }>;
  /** Sent, and no answer came. */
  readonly unanswered: Set<string>;
  /** What each watcher saw, live and replayed, in order. */
  readonly seen: [WireMessage[], WireMessage[]];
  /** Codes of the refusals that came. */
  readonly refusals: Set<string>;
  epoch: string | undefined;
  sent: number;
}
const newWorld = (): World => ({
  acked: new Map(),
  unanswered: new Set(),
  seen: [[], []],
  refusals: new Set(),
  epoch: undefined,
  sent: 0,
});

const userOf = (clientId: string) => clientId.split(" ", 1)[0] as string;
const draftOf = (clientId: string) => ({
  room: ROOM,
  user_id: userOf(clientId),
  message: clientId,
  client_id: clientId,
});

function keep(world: World, clientId: string, answer: SendAnswer): void {
  if (!answer.ok) return void world.refusals.add(answer.error.code);
  const known = world.acked.get(clientId);
  if (known !== undefined) expect<unknown>([answer.id, answer.seq]).toEqual([known.id, known.seq]);
  world.acked.set(clientId, { id: answer.id, seq: answer.seq });
  world.unanswered.delete(clientId);
}

/** Two watchers come back and hear what they missed, then live. */
async function watch(url: string, world: World): Promise<void> {
  for (const seen of world.seen) {
    const member = await connectMember(url);
    undo.push(member.close);
    const since = seen.at(-1)?.seq ?? 0;
    const joined = await member.join({
      room: ROOM,
      since,
      ...(world.epoch === undefined ? {} : { epoch: world.epoch }),
    });
    expect(joined).toMatchObject({ recovered: true, complete: true });
    world.epoch = joined.epoch;
    seen.push(...(joined.messages ?? []));
    member.socket.on("receive_message", (message: WireMessage) => seen.push(message));
  }
}

/**
 * Senders send without a pause until they are cut off. Resolves with so many more acks; `stop` lets them finish and
 * resolves when every send has its answer.
 */
async function load(url: string, world: World, acks: number): Promise<{ stop(): Promise<void> }> {
  let stopping = false;
  const underway = new Set<Promise<void>>();
  const enough = Promise.withResolvers<void>();
  const goal = world.acked.size + acks;
  const senders = await Promise.all(Array.from({ length: SENDERS }, () => connectMember(url)));
  for (const [index, sender] of senders.entries()) {
    undo.push(sender.close);
    await sender.join({ room: ROOM, user_id: `sender${index}` });
  }
  for (const [index, sender] of senders.entries()) {
    const sendNext = () => {
      if (stopping || !sender.socket.connected) return;
      const clientId = `sender${index} says ${world.sent++}`;
      world.unanswered.add(clientId);
      const send = sender.send(draftOf(clientId)).then(
        (answer) => {
          underway.delete(send);
          keep(world, clientId, answer);
          if (world.acked.size >= goal) enough.resolve();
          sendNext();
        },
        () => {}, // cut off: it stays unanswered
      );
      underway.add(send);
    };
    for (let n = 0; n < IN_FLIGHT; n += 1) sendNext();
  }
  await enough.promise;
  return {
    async stop() {
      stopping = true;
      await Promise.all(underway);
    },
  };
}

/** What must be true after every crash. */
async function verify(url: string, world: World): Promise<void> {
  const stored = await readRoom(url, ROOM);
  expect(stored.map(({ seq }) => seq)).toEqual(stored.map((_, index) => index + 1));
  const byText = new Map(stored.map((message) => [message.message, message]));
  expect(byText.size).toBe(stored.length); // each once
  for (const [clientId, { id, seq }] of world.acked) {
    expect(byText.get(clientId)).toMatchObject({ id, seq, user_id: userOf(clientId) });
  }
  for (const seen of world.seen) {
    // Nothing that was seen is unsaid, and nothing was skipped.
    expect(seen).toEqual(stored.slice(0, seen.length));
  }
}

/** Retries everything that was ever sent. */
async function retryAll(url: string, world: World): Promise<void> {
  const sender = await connectMember(url);
  undo.push(sender.close);
  await sender.join({ room: ROOM });
  const stored = new Set((await readRoom(url, ROOM)).map(({ message }) => message));
  const clientIds = [...world.acked.keys(), ...world.unanswered];
  const answers = await Promise.all(clientIds.map((clientId) => sender.send(draftOf(clientId))));
  for (const [index, answer] of answers.entries()) {
    const clientId = clientIds[index] as string;
    expect(answer).toMatchObject({ ok: true, duplicate: stored.has(clientId) });
    keep(world, clientId, answer);
  }
  expect(world.unanswered.size).toBe(0);
  sender.close();
}

/** Kills the service in the middle of a load, again and again. */
async function killService(env: Record<string, string>, acksBeforeEach: readonly number[]) {
  const world = newWorld();
  let cutOff = 0;
  for (const acks of acksBeforeEach) {
    const program = await start(env);
    await watch(program.url, world);
    await load(program.url, world, acks);
    await program.end("SIGKILL");
    cutOff += world.unanswered.size;
    const next = await start(env);
    await verify(next.url, world);
    await retryAll(next.url, world);
    await verify(next.url, world);
    expect(await next.end()).toBe(0);
  }
  expect(cutOff).toBeGreaterThan(0); // or it was not in the middle of anything
  const last = await start(env);
  await watch(last.url, world);
  for (const seen of world.seen) expect(seen).toHaveLength(world.acked.size);
  await verify(last.url, world);
  console.log(`${acksBeforeEach.length} crashes, ${world.acked.size} messages, ${cutOff} cut off`);
}

describe("kill -9 in the middle of a load loses nothing that was acked or seen", () => {
  test.concurrent("with SQLite, five times", async () => {
    const cwd = await folder();
    await killService({ SQLITE_PATH: `${cwd}/chat.db` }, [50, 150, 10, 250, 100]);
  });

  test.concurrent("with MongoDB, twice", async () => {
    await killService({ MONGODB_URI: await sharedMongo(), MONGODB_DB_NAME: freshDatabase() }, [50, 100]);
  });
});

const killMongo = () => {
  test.concurrent("the service lives on, and nothing that was acked or seen is lost", async () => {
    const storagePath = await folder();
    const first = await startMongo({ storagePath });
    undo.push(first.stop);
    const program = await start({ MONGODB_URI: first.uri });
    await program.line(/"event":"store_up"/);
    const world = newWorld();
    await watch(program.url, world);
    const busy = await load(program.url, world, 50);
    const cameUp = program.output().length;
    await first.kill();
    const killedAt = performance.now();
    await busy.stop(); // every send is answered while the server is away
    const answeredMs = performance.now() - killedAt;
    console.log(`every send was answered ${Math.round(answeredMs)} ms after MongoDB was killed`);
    // One batch under way, and those behind it that find the store down.
    expect(answeredMs).toBeLessThan(2 * LIMITS.storeTimeoutMs);
    // What never went to the store waited too long for its turn: it is certainly not stored.
    expect([...world.refusals]).toContain("storage_unavailable");
    expect(
      [...world.refusals].filter((code) => !["storage_unavailable", "overloaded"].includes(code)),
    ).toEqual([]);
    expect((await fetch(`${program.url}/readyz`)).status).toBe(503);

    const second = await startMongo({ storagePath, port: first.port });
    undo.push(second.stop);
    while (!(await fetch(`${program.url}/readyz`)).ok) await Bun.sleep(20);
    expect(program.output().slice(cameUp)).toContain('"event":"store_up"');
    await verify(program.url, world);
    await retryAll(program.url, world);
    await verify(program.url, world);
    // Those who stayed connected miss nothing either.
    while (world.seen.some((seen) => seen.length < world.acked.size)) await Bun.sleep(20);
    await verify(program.url, world);
    expect(await program.end()).toBe(0);
  });
};
if (ownServers) describe("a MongoDB that is killed in the middle of a load and comes back", killMongo);
