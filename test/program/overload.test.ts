/** More than the service can take, and stores that stall: every send is answered in time, memory is bounded, and it recovers. */

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { LIMITS } from "../../src/limits.ts";
import { belongings } from "../fixture/belongings.ts";
import { type Member, readRoom, type SendAnswer } from "../fixture/member.ts";
import { ownServers, startMongo } from "../fixture/mongodb.ts";
import type { Program, ProgramOptions } from "../fixture/program.ts";
import { slowDisk } from "../fixture/slow-disk.ts";

setDefaultTimeout(60_000);

const MB = 1_000_000;
const ROOM = "lobby";
const STALL_MS = 10_000;

// The stalls are waited for side by side, and all is cleared away together.
const { undo, folder, start: startPlain, member: connected } = belongings(afterAll);

const start = (options: ProgramOptions): Promise<Program> =>
  startPlain({ ...options, env: { DRAIN_MS: "0", ...options.env } });

async function member(url: string): Promise<Member> {
  const joining = await connected(url);
  await joining.join({ room: ROOM });
  return joining;
}

interface Answered {
  readonly clientId: string;
  readonly answer: SendAnswer;
  readonly tookMs: number;
}

/** Sends at a pace that no stalled store keeps up with, until told to stop; resolves with every answer. */
function flood(sender: Member, name: string) {
  const answers: Promise<Answered>[] = [];
  const filling = "x".repeat(1_000);
  const pace = setInterval(() => {
    for (let n = 0; n < 20; n += 1) {
      const began = performance.now();
      const clientId = `${name} ${answers.length}`;
      answers.push(
        sender
          .send({ room: ROOM, user_id: name, message: `${clientId} ${filling}`, client_id: clientId })
          .then((answer) => ({ clientId, answer, tookMs: performance.now() - began })),
      );
    }
  }, 20);
  return () => {
    clearInterval(pace);
    return Promise.all(answers);
  };
}

/** Floods through a stall of ten seconds and judges the answers and what the store holds in the end. */
async function surviveStall(
  program: Program,
  stall: () => Promise<void> | void,
  goOn: () => Promise<void> | void,
) {
  const senders = [await member(program.url), await member(program.url)];
  expect(await (senders[0] as Member).send({ room: ROOM, user_id: "ana", message: "before" })).toMatchObject({
    ok: true,
  });
  const before = await program.residentBytes();
  await stall();
  const stops = senders.map((sender, n) => flood(sender, `sender ${n}`));
  const over = Promise.withResolvers<void>();
  setTimeout(over.resolve, STALL_MS);
  await over.promise;
  const grown = (await program.residentBytes()) - before;
  const flooded = stops.map((stop) => stop());
  await goOn();
  const resumed = performance.now();
  // Works again by itself: a send that comes now is stored in the end, as often as it is asked to wait.
  const sender = senders[0] as Member;
  for (;;) {
    const answer = await sender.send({ room: ROOM, user_id: "ana", message: "after", client_id: "after" });
    if (answer.ok) break;
    expect(answer.error.retryable).toBe(true);
    await Bun.sleep(answer.error.retry_after_ms ?? LIMITS.storeRetryMinMs);
  }
  const recoveredMs = performance.now() - resumed;
  const answered = (await Promise.all(flooded)).flat();

  const slowest = Math.max(...answered.map(({ tookMs }) => tookMs));
  const codes = Map.groupBy(answered, ({ answer }) => (answer.ok ? "ok" : answer.error.code));
  const shown = [...codes].map(([code, of]) => `${of.length} ${code}`).join(", ");
  console.log(
    `${answered.length} sends: ${shown}; slowest ${Math.round(slowest)} ms, ${(grown / MB).toFixed(0)} MB more, back after ${Math.round(recoveredMs)} ms`,
  );
  expect(slowest).toBeLessThan(LIMITS.commitQueueMs + LIMITS.storeTimeoutMs + 1_000);
  expect(grown).toBeLessThan(150 * MB);
  expect(codes.get("overloaded")?.length ?? 0).toBeGreaterThan(0);
  for (const { answer } of answered) {
    if (!answer.ok) expect(["overloaded", "storage_unavailable"]).toContain(answer.error.code);
    if (!answer.ok && answer.error.code === "overloaded")
      expect(answer.error.retry_after_ms).toBeGreaterThan(0);
  }
  expect((await fetch(`${program.url}/readyz`)).status).toBe(200);

  // What was acked is there with the number that was acked; what was refused for good was never stored.
  const stored = await readRoom(program.url, ROOM);
  expect(stored.map(({ seq }) => seq)).toEqual(stored.map((_, n) => n + 1));
  const storedIds = new Set(stored.map(({ id }) => id));
  for (const { answer } of codes.get("ok") ?? []) if (answer.ok) expect(storedIds.has(answer.id)).toBe(true);
  const storedTexts = new Set(stored.map(({ message }) => message.trimEnd().replace(/ x*$/, "")));
  for (const { clientId } of codes.get("overloaded") ?? []) expect(storedTexts.has(clientId)).toBe(false);
  for (const { clientId } of codes.get("ok") ?? []) expect(storedTexts.has(clientId)).toBe(true);
  for (const { live } of senders)
    expect(live.map(({ seq }) => Number(seq))).toEqual(live.map((_, n) => Number(live[0]?.seq) + n));
}

describe("a store that stalls for ten seconds", () => {
  test.concurrent(
    "SQLite: answers every send in time, in bounded memory, and works again by itself",
    async () => {
      const cwd = await folder();
      const gate = join(cwd, "gate");
      const program = await start({ cwd, env: { RATE_LIMIT: "off", ...(await slowDisk({ gate })) } });
      await surviveStall(
        program,
        () => writeFile(gate, ""),
        () => rm(gate),
      );
    },
  );

  test.concurrent(
    "MongoDB: answers every send in time, in bounded memory, and works again by itself",
    async () => {
      expect(ownServers).toBe(true);
      const mongo = await startMongo();
      undo.push(mongo.stop);
      const program = await start({ env: { RATE_LIMIT: "off", MONGODB_URI: mongo.uri } });
      await program.line(/"event":"store_up"/);
      await surviveStall(program, mongo.pause, mongo.resume);
    },
  );
});

describe("beyond a ceiling", () => {
  test.concurrent("of a rate each refusal says when to come again, and is counted", async () => {
    const program = await start({ cwd: await folder(), env: { RATE_LIMIT: "1/s" } });
    const ana = await member(program.url);
    const draft = { room: ROOM, user_id: "ana", message: "again" };
    const answers = await Promise.all([1, 2, 3].map(() => ana.send(draft)));
    expect(answers.map((answer) => (answer.ok ? "ok" : answer.error.code))).toEqual([
      "ok",
      "ok",
      "rate_limited",
    ]);

    const post = () =>
      fetch(`${program.url}/rooms/${ROOM}/messages`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ user_id: "ben", message: "posted" }),
      });
    expect([(await post()).status, (await post()).status]).toEqual([201, 201]);
    const refused = await post();
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([429, "1"]);

    let crowded: SendAnswer | undefined;
    for (let joined = 0; joined < 5_000 && crowded === undefined; joined += 1) {
      const answer = await ana.socket.emitWithAck("join_room", { room: ROOM });
      if (!answer.ok) crowded = answer;
    }
    expect(crowded).toMatchObject({ error: { code: "rate_limited", retry_after_ms: expect.any(Number) } });

    // Ten a second and 500 at once: one was spent on the member.
    const handshake = () => fetch(`${program.url}/socket.io/?EIO=4&transport=polling`);
    let turnedAway: Response | undefined;
    for (let come = 0; come < 5_000 && turnedAway === undefined; come += 1) {
      const response = await handshake();
      if (response.status !== 200) turnedAway = response;
      else await response.text();
    }
    expect([turnedAway?.status, turnedAway?.headers.get("retry-after")]).toEqual([429, "1"]);
    expect(await turnedAway?.json()).toMatchObject({
      code: "rate_limited",
      retry_after_ms: expect.any(Number),
    });
    // Who is in stays in.
    expect(ana.socket.connected).toBe(true);

    expect(await program.end()).toBe(0);
    const counted = JSON.parse(await program.line(/"event":"stopped"/)) as Record<string, number>;
    expect(counted).toMatchObject({
      sends_rate_limited_total: 2,
      joins_rate_limited_total: 1,
      handshakes_rate_limited_total: 1,
    });
  });

  test.concurrent(
    "of rooms and of what waits each refusal says when to come again, and is counted",
    async () => {
      const cwd = await folder();
      const gate = join(cwd, "gate");
      const env = { RATE_LIMIT: "off", MAX_IN_FLIGHT: "3", ...(await slowDisk({ gate })) };
      const program = await start({ cwd, env });
      const ana = await member(program.url);
      const refusals: unknown[] = [];
      for (let joined = 1; joined <= LIMITS.roomsPerConnectionMax; joined += 1) {
        const answer = await ana.socket.emitWithAck("join_room", { room: `room ${joined}` });
        if (!answer.ok) refusals.push([joined, answer.error.code, answer.error.retry_after_ms]);
      }
      // With the lobby it is one too many.
      expect(refusals).toEqual([[LIMITS.roomsPerConnectionMax, "overloaded", 1_000]]);

      await writeFile(gate, "");
      const sent = [1, 2, 3, 4, 5].map((n) => ana.send({ room: ROOM, user_id: "ana", message: `${n}` }));
      expect((await Promise.all(sent.slice(3))).map((answer) => !answer.ok && answer.error)).toEqual([
        expect.objectContaining({ code: "overloaded", retry_after_ms: 100 }),
        expect.objectContaining({ code: "overloaded", retry_after_ms: 100 }),
      ]);
      // Behind a batch whose sync does not end it waits its time, and was then certainly not stored.
      const refused = await fetch(`${program.url}/rooms/${ROOM}/messages`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ user_id: "ben", message: "posted" }),
      });
      expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "1"]);
      expect(await refused.json()).toMatchObject({ error: { code: "overloaded" } });
      await rm(gate);
      // The first three were with the store, or waited behind the first of them.
      await Promise.all(sent);
      expect((await readRoom(program.url, ROOM)).map(({ message }) => message)).not.toContain("posted");

      expect(await program.end()).toBe(0);
      const counted = JSON.parse(await program.line(/"event":"stopped"/)) as Record<string, number>;
      expect(counted.joins_overloaded_total).toBe(1);
      expect(counted.sends_overloaded_total).toBeGreaterThanOrEqual(3);
    },
  );

  test.concurrent(
    "connections beyond what the system gives descriptors for are told so, and those that are in go on",
    async () => {
      const [shell, entry] = [Bun.which("sh") ?? "sh", join(import.meta.dir, "../../src/main.ts")];
      const program = await start({
        command: [shell, "-c", `ulimit -n 80 && exec "$0" "$1"`, process.execPath, entry],
        cwd: await folder(),
      });
      const members: Member[] = [];
      for (let n = 0; n < 40; n += 1) members.push(await member(program.url));
      const refused = await fetch(`${program.url}/socket.io/?EIO=4&transport=polling`);
      expect(refused.status).toBe(503);
      expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
      expect(await refused.json()).toMatchObject({ code: "overloaded" });
      const [first] = members as [Member];
      expect(await first.send({ room: ROOM, user_id: "ana", message: "still here" })).toMatchObject({
        ok: true,
      });
      expect((await fetch(`${program.url}/`)).status).toBe(200);
    },
  );
});
