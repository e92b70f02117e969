/** A backup that is put back: whole, as a new epoch, with the former store kept; or nothing is changed. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  statSync,
  writeFileSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import type { Epoch, RoomName } from "../../../src/domain/ids.ts";
import { createLog } from "../../../src/observe/log.ts";
import { backUp } from "../../../src/repository/sqlite/backup.ts";
import { openSqliteRepository } from "../../../src/repository/sqlite/open.ts";
import { restore } from "../../../src/repository/sqlite/restore.ts";
import { platter } from "../../fixture/platter.ts";
import { openSqlite, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;
const now = new Date("2026-11-27T08:09:10.123Z");
const newEpoch = () => Bun.randomUUIDv7() as Epoch;

const failure = (work: () => unknown) => {
  try {
    work();
    return "it went on";
  } catch (error) {
    return (error as Error).message;
  }
};

async function looked(path: string) {
  const repository = await openSqlite(path);
  const { epoch, seq } = await repository.head(room);
  await repository.close();
  return { epoch, seq: Number(seq) };
}

/** A store of ten messages, and a backup of it that has five. */
async function backedUp(folder: string, end: "closed" | "killed") {
  const [path, backup] = [join(folder, "chat.db"), join(folder, "backup")];
  await using store = sqliteChild("commanded", path);
  await store.next();
  await store.ask("append 1 5");
  backUp(path, backup);
  await store.ask("append 6 5");
  const { epoch } = await store.ask("epoch");
  if (end === "closed") {
    store.child.stdin.end();
    expect(await store.child.exited).toBe(0);
  }
  return { path, backup, epoch: epoch as Epoch };
}

test.each(["closed", "killed"] as const)(
  "restore puts a backup in the place of a store whose process was %s, as a new epoch, and keeps the former one",
  async (end) => {
    await using place = await scratch();
    const { path, backup, epoch } = await backedUp(place.folder, end);
    const former = `${path}.2026-11-27T08-09-10-123Z`;
    expect(restore(path, backup, { newEpoch, now })).toEqual({ path, messages: 5, former });
    expect(["-wal", "-shm", "-making"].filter((suffix) => existsSync(path + suffix))).toEqual([]);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const restored = await looked(path);
    expect(restored.seq).toBe(5);
    expect(restored.epoch).not.toBe(epoch);
    // It has one epoch from here on, and the backup is as it was.
    expect(await looked(path)).toEqual(restored);
    expect(readdirSync(place.folder)).toContain("backup");
    // The way back.
    expect(restore(path, former, { newEpoch, now: new Date() }).messages).toBe(10);
    const back = await looked(path);
    expect(back.seq).toBe(10);
    expect([epoch, restored.epoch]).not.toContain(back.epoch);
  },
);

test("restore is refused while a service holds the store, which goes on", async () => {
  await using place = await scratch();
  const { path, backup } = await backedUp(place.folder, "closed");
  await using store = sqliteChild("commanded", path);
  await store.next();
  expect(failure(() => restore(path, backup, { newEpoch, now }))).toBe(
    `SQLite file ${path} is locked by another process: stop the service before you put a backup back`,
  );
  expect(await store.ask("append 11 1")).toEqual({ kinds: ["stored"] });
  expect(await store.ask("read")).toMatchObject({ seq: 11 });
  // Nor where somebody has removed what is locked by the store's name.
  rmSync(`${path}.lock`);
  expect(failure(() => restore(path, backup, { newEpoch, now }))).toBe(
    `SQLite file ${path} is locked by another process: stop the service before you put a backup back`,
  );
  expect(await store.ask("append 12 1")).toEqual({ kinds: ["stored"] });
});

test("restore refuses what is no whole backup of ours, and leaves the store as it was", async () => {
  await using place = await scratch();
  const { path, backup, epoch } = await backedUp(place.folder, "killed");
  const at = (name: string) => join(place.folder, name);
  writeFileSync(at("empty"), "");
  writeFileSync(at("text"), "this is no database at all, but long enough to look at ".repeat(40));
  const foreign = new Database(at("foreign"), { create: true });
  foreign.run("CREATE TABLE theirs (x)");
  foreign.close();
  copyFileSync(backup, at("corrupt"));
  const corrupt = await Bun.file(at("corrupt")).bytes();
  corrupt.fill(0xa5, 4_096, 3 * 4_096);
  writeFileSync(at("corrupt"), corrupt);
  const before = readdirSync(place.folder).toSorted();
  const refusals = ["empty", "text", "foreign", "corrupt", "missing"].map((name) =>
    failure(() => restore(path, at(name), { newEpoch, now })),
  );
  expect(refusals).toEqual([
    `SQLite file ${at("empty")} is empty`,
    `SQLite file ${at("text")} is not a database`,
    `SQLite file ${at("foreign")} belongs to another program`,
    `SQLite file ${at("corrupt")} is corrupt`,
    `${at("missing")} does not exist`,
  ]);
  expect(failure(() => restore(path, path, { newEpoch, now }))).toBe(`${path} is the store itself`);
  expect(readdirSync(place.folder).toSorted()).toEqual(before);
  expect(await looked(path)).toEqual({ epoch, seq: 10 });
});

test("restore makes a store where there is none, and takes the place of a corrupt one", async () => {
  await using place = await scratch();
  const { path, backup } = await backedUp(place.folder, "closed");
  const fresh = join(place.folder, "deep", "chat.db");
  expect(restore(fresh, backup, { newEpoch, now })).toEqual({ path: fresh, messages: 5, former: undefined });
  expect((await looked(fresh)).seq).toBe(5);
  writeFileSync(path, "x".repeat(10_000));
  const { former } = restore(path, backup, { newEpoch, now });
  expect((await looked(path)).seq).toBe(5);
  expect(await Bun.file(former ?? "").text()).toBe("x".repeat(10_000));
  const repository = await openSqlite(path);
  expect(await repository.append(sends("a", 5, 2))).toMatchObject([
    { kind: "duplicate" },
    { kind: "stored" },
  ]);
  await repository.close();
});

/** Starts the store, and tells what the log warns of besides. */
async function started(path: string) {
  const warned: string[] = [];
  const write = (line: string) => warned.push(line) > 0;
  const log = createLog({ level: "warn", pretty: false, write, now: Date.now });
  const repository = await openSqliteRepository({ path, log, newEpoch });
  const { epoch, seq } = await repository.head(room);
  await repository.close();
  return { epoch, seq: Number(seq), warned };
}

const messagesIn = (path: string) => {
  const database = new Database(path);
  try {
    return database.query("SELECT count(*) FROM messages").values()[0]?.[0];
  } finally {
    database.close();
  }
};

test.each(["closed", "killed"] as const)(
  "restore that is killed at any step leaves a store that was %s whole, or the restored one with the former beside it",
  async (end) => {
    const seen: number[] = [];
    for (let step = 1, isKilled = true; isKilled; step++) {
      await using place = await scratch();
      const { path, backup, epoch } = await backedUp(place.folder, end);
      const former = `${path}.2026-11-27T08-09-10-123Z`;
      {
        const env = { RESTORE_FROM: backup, KILL_AT: String(step) };
        await using restoring = sqliteChild("restore", path, env);
        isKilled = await restoring.next().then(
          () => false,
          (error) => String(error).includes("the child ended"),
        );
      }
      // What an operator may do then: start the service, or restore again.
      if (step % 2 === 0 && isKilled) {
        const again = restore(path, backup, { newEpoch, now: new Date() });
        expect([5, 10]).toContain(messagesIn(again.former ?? "") as number);
      }
      const found = await started(path);
      expect(found.warned).toEqual([]);
      seen.push(found.seq);
      if (found.seq === 10) expect(found.epoch).toBe(epoch);
      else expect(found).toMatchObject({ seq: 5, epoch: expect.not.stringMatching(epoch) });
      // Whatever it is, ten messages are in one of the two.
      const kept = readdirSync(place.folder).filter((name) => /^chat\.db\.20[0-9-]+T[0-9-]+Z$/.test(name));
      const counts = [path, ...kept.map((name) => join(place.folder, name))].map(messagesIn);
      expect(counts).toContain(10);
      if (!isKilled) expect(messagesIn(former)).toBe(10);
      expect(readdirSync(place.folder)).not.toContain("chat.db-restoring");
    }
    // Before and after the step that decides.
    expect(new Set(seen)).toEqual(new Set([5, 10]));
  },
  60_000,
);

test("restore is on disk when it has ended: its epoch stays when power fails then", async () => {
  await using place = await scratch();
  const own = join(place.folder, "store");
  mkdirSync(own);
  const { path, backup, epoch } = await backedUp(own, "closed");
  const disk = await platter(place.folder);
  {
    await using restoring = sqliteChild("restore", path, { ...disk.env, RESTORE_FROM: backup });
    expect(await restoring.next()).toMatchObject({ messages: 5 });
  }
  disk.failPower(own);
  const found = await started(path);
  expect(found).toMatchObject({ seq: 5, warned: [] });
  expect(found.epoch).not.toBe(epoch);
});

test("restore builds no change of a name on one that a power failure could still undo", async () => {
  await using place = await scratch();
  const { path, backup } = await backedUp(place.folder, "killed");
  const calls = join(place.folder, "calls");
  {
    await using restoring = sqliteChild("restore", path, {
      RESTORE_FROM: backup,
      KILL_AT: "0",
      CALLS: calls,
    });
    expect(await restoring.next()).toMatchObject({ messages: 5 });
  }
  let waiting: string[] = [];
  const steps: [string, string[]][] = [];
  for (const line of (await Bun.file(calls).text()).trim().split("\n")) {
    const [call = "", ...given] = JSON.parse(line) as unknown[];
    if (call === "fsyncSync" && given[0] === place.folder) waiting = [];
    const names = given.filter((one) => typeof one === "string").map((name) => name.replace(path, "store"));
    const change = [call, ...names].join(" ");
    if (!/^(linkSync|renameSync|rmSync store-(wal|restoring)$)/.test(change)) continue;
    steps.push([change, waiting]);
    waiting = [...waiting, change];
  }
  const former = "store.2026-11-27T08-09-10-123Z";
  const [log, file] = [`linkSync store-wal ${former}-wal`, `linkSync store ${former}`];
  expect(steps).toEqual([
    ["renameSync store-restoring-making store-restoring", []],
    [log, []],
    // A crash between the two leaves the former store's name in its place, and the note.
    [file, [log]],
    ["renameSync store-making store", []],
    ["rmSync store-wal", []],
    ["rmSync store-restoring", []],
  ]);
  expect(waiting).toEqual([]);
});

test("restore keeps the mode of the former store, and makes a new one for its owner, whatever the backup has", async () => {
  await using place = await scratch();
  const { path, backup } = await backedUp(place.folder, "closed");
  chmodSync(backup, 0o644);
  const fresh = join(place.folder, "fresh.db");
  restore(fresh, backup, { newEpoch, now });
  expect(statSync(fresh).mode & 0o777).toBe(0o600);
  chmodSync(path, 0o640);
  restore(path, backup, { newEpoch, now });
  expect(statSync(path).mode & 0o777).toBe(0o640);
});
