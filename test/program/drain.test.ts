/**
 * How the program ends: at SIGTERM, SIGINT, SIGQUIT and the loss of its terminal in order, at a second signal at once, at the
 * deadline in any case.
 */

import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { belongings } from "../fixture/belongings.ts";
import { connectMember, type Member, readRoom } from "../fixture/member.ts";
import { ownServers, startMongo } from "../fixture/mongodb.ts";
import { FROM_SOURCE, spawnProgram } from "../fixture/program.ts";
import { slowDisk } from "../fixture/slow-disk.ts";

setDefaultTimeout(30_000);

// Each test waits more than it works, so they run side by side and are cleared away together.
const { undo, folder, start, member } = belongings(afterAll);

/** Why each one was disconnected, and whether it would come back by itself, in the order in which that happened. */
function partings(members: readonly Member[]) {
  const began = performance.now();
  return members.map(({ socket }) => {
    const { promise, resolve } = Promise.withResolvers<{
      reason: string;
      comesBack: boolean;
      atMs: number;
      transport: string;
    }>();
    const transport = socket.io.engine.transport.name;
    socket.once("disconnect", (reason) => {
      resolve({ reason, comesBack: socket.active, atMs: performance.now() - began, transport });
      socket.disconnect();
    });
    return promise;
  });
}

const numbers = (count: number): unknown[] => Array.from({ length: count }, (_, n) => n + 1);
const handshake = (url: string) => fetch(`${url}/socket.io/?EIO=4&transport=polling`);

describe("the program's end", () => {
  for (const signal of ["SIGTERM", "SIGINT", "SIGQUIT"] as const) {
    test.concurrent(`at ${signal} is clean: exit 0, and the store is one file`, async () => {
      const cwd = await folder();
      const program = await start({ cwd, env: { DRAIN_MS: "0" } });
      const ana = await member(program.url);
      await ana.join({ room: "lobby", user_id: "ana" });
      await ana.send({ room: "lobby", user_id: "ana", message: "bye" });
      const [parting] = partings([ana]);
      expect(await program.end(signal)).toBe(0);
      expect((await parting)?.reason).toBe("transport close");
      expect((await readdir(join(cwd, "data"))).sort()).toEqual(["chat.db", "chat.db.lock"]);
      expect(program.output()).toMatch(/"event":"stopped","in_time":true,"messages_stored_total":1,/);
    });
  }

  test.concurrent("does not come at SIGHUP where there is no terminal: the service goes on", async () => {
    const program = await start({ cwd: await folder(), env: { DRAIN_MS: "0" } });
    const ignored = program.line(/"event":"sighup_ignored"/);
    program.end("SIGHUP");
    await ignored;
    expect((await fetch(`${program.url}/readyz`)).status).toBe(200);
    expect(await program.end()).toBe(0);
  });

  test.concurrent("is clean when its terminal goes away: exit 0, and the store is one file", async () => {
    const cwd = await folder();
    const { promise: listening, resolve: listens } = Promise.withResolvers<string>();
    const { promise: ignored, resolve: ignores } = Promise.withResolvers<void>();
    let shown = "";
    const child = Bun.spawn([...FROM_SOURCE], {
      cwd,
      env: { PATH: process.env.PATH, HOST: "127.0.0.1", PORT: "0", DRAIN_MS: "0" },
      terminal: {
        cols: 500,
        data(_, bytes) {
          shown += bytes.toString();
          const url = /listening url=(\S+)/.exec(shown)?.[1];
          if (url !== undefined) listens(url);
          if (shown.includes("sighup_ignored")) ignores();
        },
      },
    });
    undo.push(() => child.kill("SIGKILL"));
    const ana = await member(await listening);
    await ana.join({ room: "lobby", user_id: "ana" });
    await ana.send({ room: "lobby", user_id: "ana", message: "bye" });
    const [parting] = partings([ana]);
    // While the terminal is there SIGHUP ends nothing.
    child.kill("SIGHUP");
    await ignored;
    expect((await fetch(`${await listening}/readyz`)).status).toBe(200);
    child.terminal?.close();
    expect([await child.exited, child.signalCode]).toEqual([0, null]);
    expect((await parting)?.reason).toBe("transport close");
    expect((await readdir(join(cwd, "data"))).sort()).toEqual(["chat.db", "chat.db.lock"]);
  });

  test.concurrent("waits for the sends in flight: they are stored, delivered and acked", async () => {
    const cwd = await folder();
    const gate = join(cwd, "gate");
    const program = await start({ cwd, env: { DRAIN_MS: "0", ...(await slowDisk({ gate })) } });
    const [ana, ben] = [await member(program.url), await member(program.url)];
    await ana.join({ room: "lobby", user_id: "ana" });
    await ben.join({ room: "lobby", user_id: "ben" });

    await writeFile(gate, "");
    const sends = Array.from({ length: 20 }, (_, n) =>
      ana.send({ room: "lobby", user_id: "ana", message: `m${n}` }),
    );
    // The server answers a connection in order: the refusal of a later event says that the sends have been taken.
    await ana.socket.emitWithAck("leave_room", { room: "elsewhere" });
    const posting = fetch(`${program.url}/rooms/lobby/messages`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user_id: "cy", message: "posted" }),
    });
    await fetch(`${program.url}/livez`);
    const draining = program.line(/"event":"draining"/);
    const partedFrom = partings([ana, ben]);
    const ended = program.end();
    await draining;

    const ready = await fetch(`${program.url}/readyz`);
    expect([ready.status, await ready.json()]).toEqual([503, { status: "unavailable", reason: "draining" }]);
    expect((await fetch(`${program.url}/`)).status).toBe(200);
    expect((await fetch(`${program.url}/livez`)).status).toBe(200);
    expect((await fetch(`${program.url}/rooms`)).status).toBe(200);
    const refused = await handshake(program.url);
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ code: "draining" });
    await expect(connectMember(program.url)).rejects.toThrow();
    expect(ana.socket.connected).toBe(true);

    await rm(gate);
    const acks = await Promise.all(sends);
    expect<unknown[]>(acks.map((ack) => (ack.ok ? ack.seq : null))).toEqual(numbers(20));
    expect((await posting).status).toBe(201);
    expect(await ended).toBe(0);
    for (const parting of partedFrom) expect((await parting).reason).toBe("transport close");
    expect<unknown[]>(ben.live.map(({ seq }) => seq)).toEqual(numbers(21));

    const next = await start({ cwd });
    expect((await readRoom(next.url, "lobby")).map(({ message }) => message)).toEqual([
      ...Array.from({ length: 20 }, (_, n) => `m${n}`),
      "posted",
    ]);
  });

  test.concurrent("lets connections go one after the other over DRAIN_MS, each to come back", async () => {
    const drainMs = 1_000;
    const program = await start({ cwd: await folder(), env: { DRAIN_MS: String(drainMs) } });
    const members = await Promise.all([
      ...Array.from({ length: 9 }, () => member(program.url, { reconnection: true })),
      member(program.url, { reconnection: true, transports: ["polling"] }),
    ]);
    const partedFrom = partings(members);
    const began = performance.now();
    const draining = program.line(/"event":"draining"/);
    const ended = program.end();
    await draining;
    expect((await handshake(program.url)).status).toBe(503);

    const parted = (await Promise.all(partedFrom)).toSorted((a, b) => a.atMs - b.atMs);
    expect(await ended).toBe(0);
    expect(performance.now() - began).toBeLessThan(drainMs + 3_000);
    for (const { reason, comesBack } of parted) {
      expect(reason).toBe("transport close");
      expect(comesBack).toBe(true);
    }
    const gaps = parted.slice(1).map(({ atMs }, n) => atMs - (parted[n]?.atMs ?? 0));
    console.log(`let go at ${parted.map(({ atMs }) => Math.round(atMs)).join(", ")} ms of ${drainMs}`);
    expect((parted.at(-1)?.atMs ?? 0) - (parted[0]?.atMs ?? 0)).toBeGreaterThan(drainMs * 0.6);
    expect(Math.max(...gaps)).toBeLessThan(drainMs * 0.5);
  });

  test.concurrent(
    "is in order when a terminal's Ctrl-C comes twice, as it does through bun start",
    async () => {
      const cwd = await folder();
      const program = await start({ cwd, env: { DRAIN_MS: "300" } });
      const ana = await member(program.url);
      expect(ana.socket.connected).toBe(true);
      program.end("SIGINT");
      expect(await program.end("SIGINT")).toBe(0);
      expect(await readdir(join(cwd, "data"))).not.toContain("chat.db-wal");
    },
  );

  test.concurrent("at a second signal that comes later is at once, exit 1", async () => {
    const program = await start({ cwd: await folder(), env: { DRAIN_MS: "60000" } });
    const [ana, ben] = [await member(program.url), await member(program.url)];
    const draining = program.line(/"event":"draining"/);
    program.end("SIGTERM");
    await draining;
    expect([ana, ben].filter(({ socket }) => socket.connected)).not.toEqual([]);
    const began = performance.now();
    const insisting = setInterval(() => program.end("SIGINT"), 100);
    expect(await program.exited).toBe(1);
    clearInterval(insisting);
    expect(performance.now() - began).toBeLessThan(3_000);
  });

  test.concurrent("at a second signal is at once also while a sync of the disk hangs", async () => {
    // The deadline, a minute away, is not what ends it.
    const { program, unanswered } = await hangOnDisk({ DRAIN_MS: "60000" });
    const draining = program.line(/"event":"draining"/);
    program.end("SIGTERM");
    await draining;
    const began = performance.now();
    const insisting = setInterval(() => program.end("SIGTERM"), 100);
    expect(await program.exited).toBe(1);
    clearInterval(insisting);
    const tookMs = performance.now() - began;
    console.log(`ended ${Math.round(tookMs)} ms after the first signal, with a disk that hangs`);
    expect(tookMs).toBeLessThan(3_000);
    expect(await unanswered).toBe(false);
  });

  test.concurrent("at a signal while it starts is at once, also while a sync of the disk hangs", async () => {
    const cwd = await folder();
    const gate = join(cwd, "gate");
    await writeFile(gate, "");
    const { child, exited, output } = spawnProgram({ cwd, env: await slowDisk({ gate }) });
    undo.push(() => child.kill("SIGKILL"));
    // What is being made is there before its first sync.
    while (!existsSync(join(cwd, "data/chat.db-making")))
      await new Promise((resume) => setTimeout(resume, 5));
    child.kill("SIGTERM");
    await exited;
    expect([child.signalCode, output()]).toEqual(["SIGTERM", ""]);
  });

  test.concurrent("comes at DRAIN_MS and 5 s, whatever hangs", async () => {
    // Side by side: both take their five seconds.
    await Promise.all([endWhileDiskHangs(), ...(ownServers ? [endWhileMongoHangs()] : [])]);
  });
});

/** A service with a send that waits for a sync that does not end. */
async function hangOnDisk(env: Record<string, string>) {
  const cwd = await folder();
  const gate = join(cwd, "gate");
  const program = await start({ cwd, env: { ...env, ...(await slowDisk({ gate })) } });
  const ana = await member(program.url);
  await ana.join({ room: "lobby", user_id: "ana" });
  await writeFile(gate, "");
  const hanging = ana.send({ room: "lobby", user_id: "ana", message: "lost?" });
  const unanswered = hanging.then(
    (answer) => answer.ok,
    () => false,
  );
  await ana.socket.emitWithAck("leave_room", { room: "elsewhere" });
  return { program, unanswered };
}

async function endWhileDiskHangs() {
  const { program, unanswered } = await hangOnDisk({ DRAIN_MS: "0" });
  const began = performance.now();
  const code = await program.end();
  const tookMs = performance.now() - began;
  console.log(`ended after ${Math.round(tookMs)} ms with a disk that hangs`);
  expect(code).toBe(1);
  expect(tookMs).toBeGreaterThan(4_000);
  expect(tookMs).toBeLessThan(8_000);
  expect(program.output()).toContain('"event":"stopped","in_time":false');
  expect(await unanswered).toBe(false);
}

async function endWhileMongoHangs() {
  const mongo = await startMongo();
  undo.push(mongo.stop);
  const program = await start({ env: { DRAIN_MS: "0", MONGODB_URI: mongo.uri } });
  await program.line(/"event":"store_up"/);
  const ana = await member(program.url);
  await ana.join({ room: "lobby", user_id: "ana" });
  mongo.pause();
  undo.push(mongo.resume);
  const hanging = ana.send({ room: "lobby", user_id: "ana", message: "lost?" });
  const answer = hanging.catch(() => "no answer");
  await ana.socket.emitWithAck("leave_room", { room: "elsewhere" });
  const began = performance.now();
  const code = await program.end();
  const tookMs = performance.now() - began;
  console.log(`ended with ${code} after ${Math.round(tookMs)} ms with a MongoDB that hangs`);
  expect(tookMs).toBeLessThan(8_000);
  // The operation's ceiling or the deadline, whichever comes first: nothing says that it was stored.
  const said = await answer;
  if (said !== "no answer" || code === 0)
    expect(said).toMatchObject({ error: { code: "storage_unavailable" } });
  // Both are five seconds away: either may be first.
  expect(program.output()).toContain(`"event":"stopped","in_time":${code === 0}`);
}
