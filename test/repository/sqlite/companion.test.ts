/** One epoch of the store: kept through every end and start, and a new one for whatever is not the same store going on. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import {
  closeSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Epoch, RoomName } from "../../../src/domain/ids.ts";
import { createLog } from "../../../src/observe/log.ts";
import { readSalts } from "../../../src/repository/sqlite/companion.ts";
import { nameOfFile } from "../../../src/repository/sqlite/folder.ts";
import { openSqliteRepository } from "../../../src/repository/sqlite/open.ts";
import { MIGRATIONS, migrate } from "../../../src/repository/sqlite/schema.ts";
import { foreignProcess } from "../../fixture/foreign-process.ts";
import { platter } from "../../fixture/platter.ts";
import { openSqlite, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;

/** Opens a store, and tells the epoch, the head and what the log warns of. */
async function looked(path: string, append = 0) {
  const warned: string[] = [];
  const log = createLog({
    level: "warn",
    pretty: false,
    write: (line) => warned.push(String((JSON.parse(line) as { reason?: string }).reason)) > 0,
    now: Date.now,
  });
  const newEpoch = () => Bun.randomUUIDv7() as Epoch;
  const repository = await openSqliteRepository({ path, log, newEpoch });
  const { epoch, seq } = await repository.head(room);
  if (append > 0) await repository.append(sends("a", Number(seq) + 1, append));
  await repository.close();
  return { epoch, seq: Number(seq), warned };
}

/** As operators make one while the service runs. */
function backUp(path: string, to: string) {
  const shell = new Database(path, { readonly: true });
  shell.run(`VACUUM INTO '${to}'`);
  shell.close();
}

/** A process that has acked so much, and is killed when the scope ends. */
async function running(path: string, count: number) {
  const store = sqliteChild("commanded", path);
  await store.next();
  await store.ask("read");
  expect(await store.ask(`append 1 ${count}`)).toMatchObject({ kinds: expect.anything() });
  return store;
}

function saltsOf(path: string): string {
  const log = openSync(`${path}-wal`, "r");
  const salts = readSalts(log);
  closeSync(log);
  return salts;
}

test("settleEpoch keeps the epoch through ends, kills, and a companion that lags behind", async () => {
  await using place = await scratch();
  const { epoch } = await looked(place.path, 3);
  const companion = await Bun.file(`${place.path}.lock`).bytes();
  for (const count of [5, 8]) {
    {
      await using _killed = await running(place.path, count);
    }
    expect(await looked(place.path)).toEqual({ epoch, seq: count, warned: [] });
  }
  // What a power failure may do to it.
  writeFileSync(`${place.path}.lock`, companion);
  expect(await looked(place.path)).toEqual({ epoch, seq: 8, warned: [] });
});

test("settleEpoch gives a backup that was put back a new epoch, and one that lacks nothing its own", async () => {
  await using place = await scratch();
  const backup = join(place.folder, "backup");
  const { epoch } = await looked(place.path, 5);
  backUp(place.path, backup);
  copyFileSync(backup, place.path);
  expect(await looked(place.path, 3)).toEqual({ epoch, seq: 5, warned: [] });
  copyFileSync(backup, place.path);
  const restored = await looked(place.path, 9);
  expect(restored).toMatchObject({
    seq: 5,
    warned: ["the store lacks messages that were acknowledged: it is an older copy"],
  });
  expect(restored.epoch).not.toBe(epoch);
  // The backup is of the former epoch.
  copyFileSync(backup, place.path);
  const again = await looked(place.path);
  expect(again.warned).toEqual(["the companion is of another epoch"]);
  expect([epoch, restored.epoch]).not.toContain(again.epoch);
});

test("settleEpoch misses no message that was acked before a kill: the companion has it before the ack", async () => {
  await using place = await scratch();
  const backup = join(place.folder, "backup");
  const { epoch } = await looked(place.path, 5);
  {
    await using store = await running(place.path, 6);
    backUp(place.path, backup);
    expect(await store.ask("append 7 1")).toEqual({ kinds: ["stored"] });
  }
  for (const suffix of ["-wal", "-shm"]) rmSync(place.path + suffix);
  copyFileSync(backup, place.path);
  const found = await looked(place.path);
  expect(found).toMatchObject({ seq: 6, warned: [expect.stringContaining("lacks messages")] });
  expect(found.epoch).not.toBe(epoch);
});

test("settleEpoch knows of a backup that is older than the last checkpoint, when power fails before it is put back", async () => {
  await using place = await scratch();
  const own = join(place.folder, "store");
  mkdirSync(own);
  const [path, backup] = [join(own, "chat.db"), join(place.folder, "backup")];
  {
    await using store = sqliteChild("commanded", path);
    await store.next();
    // As long as those of the flood, which begins with them.
    expect(await store.ask("append 1 5 8000")).toEqual({ kinds: ["stored"] });
  }
  const { epoch } = await looked(path);
  backUp(path, backup);
  const disk = await platter(place.folder);
  {
    await using store = sqliteChild("commanded", path, disk.env);
    await store.next();
    const first = saltsOf(path);
    // More than starts a checkpoint, at the end of which the log starts afresh.
    let { sent } = await store.ask("flood 3000 100");
    const append = async () => {
      sent = Number(sent) + 1;
      expect(await store.ask(`append ${sent} 1`)).toEqual({ kinds: ["stored"] });
    };
    while (saltsOf(path) === first) await append();
    // The sync of the companion comes next, in the same process and at the same time as the first of these.
    for (let more = 0; more < 20; more++) await append();
  }
  disk.failPower(own);
  for (const suffix of ["-wal", "-shm"]) rmSync(path + suffix, { force: true });
  copyFileSync(backup, path);
  const found = await looked(path);
  expect(found).toMatchObject({ seq: 5, warned: [expect.stringContaining("lacks messages")] });
  expect(found.epoch).not.toBe(epoch);
});

test("settleEpoch gives a store a new epoch that went on elsewhere in the same places", async () => {
  await using place = await scratch();
  const backup = join(place.folder, "backup");
  const { epoch } = await looked(place.path, 5);
  copyFileSync(place.path, backup);
  await looked(place.path, 5);
  const elsewhere = new Database(backup);
  elsewhere.run("PRAGMA journal_mode = DELETE");
  elsewhere.run(`INSERT INTO messages (place, id, user_id, text, timestamp, received_at)
    SELECT place + 5, id || 'x', user_id, text, timestamp, received_at FROM messages`);
  elsewhere.run("UPDATE rooms SET seq = 10");
  elsewhere.close();
  copyFileSync(backup, place.path);
  const found = await looked(place.path);
  expect(found).toMatchObject({
    seq: 10,
    warned: ["the store has other messages than were acknowledged"],
  });
  expect(found.epoch).not.toBe(epoch);
});

test("settleEpoch gives a copy a new epoch, and the original keeps its own", async () => {
  await using place = await scratch();
  const { epoch } = await looked(place.path, 5);
  const [alone, whole] = [join(place.folder, "alone.db"), join(place.folder, "whole")];
  copyFileSync(place.path, alone);
  const copied = await looked(alone);
  expect(copied).toMatchObject({ seq: 5, warned: [expect.stringContaining("companion is missing")] });
  for (const name of readdirSync(place.folder).filter((name) => name.startsWith("chat.db")))
    cpSync(join(place.folder, name), join(whole, name));
  const withCompanion = await looked(join(whole, "chat.db"));
  expect(withCompanion).toMatchObject({ seq: 5, warned: [expect.stringContaining("this one is a copy")] });
  expect(new Set([epoch, copied.epoch, withCompanion.epoch]).size).toBe(3);
  expect(await looked(place.path)).toMatchObject({ epoch, warned: [] });
  expect(await looked(alone)).toMatchObject({ epoch: copied.epoch, warned: [] });
});

test("settleEpoch gives a store whose companion cannot be read a new epoch, once", async () => {
  await using place = await scratch();
  for (const spoil of [
    () => rmSync(`${place.path}.lock`),
    () => writeFileSync(`${place.path}.lock`, ""),
    () => writeFileSync(`${place.path}.lock`, "x".repeat(512)),
  ]) {
    const { epoch } = await looked(place.path, 2);
    spoil();
    const anew = await looked(place.path);
    expect(anew.epoch).not.toBe(epoch);
    expect(anew.warned).toEqual([expect.stringContaining("missing or cannot be read")]);
    expect(await looked(place.path)).toMatchObject({ epoch: anew.epoch, warned: [] });
  }
});

test("settleEpoch keeps the epoch of a room that retention has emptied", async () => {
  await using place = await scratch();
  const { epoch } = await looked(place.path, 5);
  const operator = new Database(place.path);
  operator.run("DELETE FROM messages");
  operator.close();
  expect(await looked(place.path)).toEqual({ epoch, seq: 5, warned: [] });
});

/** A store of a program that knew no companions. */
function makeOldStore(path: string) {
  const old = new Database(path, { create: true });
  old.run("PRAGMA journal_mode = WAL");
  migrate(old, path, MIGRATIONS.slice(0, 1));
  old.run("INSERT INTO store (only_row, epoch, wal_restarts) VALUES (1, 'epoch-of-old', 7)");
  old.close();
  writeFileSync(`${path}.lock`, "");
}

test("settleEpoch keeps the epoch of a store that was made before there were companions", async () => {
  await using place = await scratch();
  makeOldStore(place.path);
  expect(await looked(place.path, 2)).toMatchObject({ epoch: "epoch-of-old" as Epoch, warned: [] });
  expect(await looked(place.path)).toMatchObject({ epoch: "epoch-of-old" as Epoch, seq: 2, warned: [] });
  rmSync(`${place.path}.lock`);
  expect((await looked(place.path)).epoch).not.toBe("epoch-of-old" as Epoch);
});

test("settleEpoch gives a backup of an old schema a new epoch that was put back after the upgrade", async () => {
  await using place = await scratch();
  const backup = join(place.folder, "backup");
  makeOldStore(place.path);
  copyFileSync(place.path, backup);
  expect(await looked(place.path, 5)).toMatchObject({ epoch: "epoch-of-old" as Epoch, warned: [] });
  copyFileSync(backup, place.path);
  const found = await looked(place.path);
  expect(found).toMatchObject({ seq: 0, warned: [expect.stringContaining("lacks messages")] });
  expect(found.epoch).not.toBe("epoch-of-old" as Epoch);
  expect(await looked(place.path)).toMatchObject({ epoch: found.epoch, warned: [] });
});

test.each(["new", "old"])(
  "settleEpoch gives a %s store a new epoch that lost its first log, and a copy of its file as well",
  async (age) => {
    await using place = await scratch();
    if (age === "old") makeOldStore(place.path);
    let epoch: unknown;
    {
      await using store = sqliteChild("commanded", place.path);
      await store.next();
      expect(await store.ask("append 1 5")).toEqual({ kinds: ["stored"] });
      epoch = (await store.ask("epoch")).epoch;
    }
    for (const suffix of ["-wal", "-shm"]) rmSync(place.path + suffix);
    const copy = join(place.folder, "copy.db");
    copyFileSync(place.path, copy);
    const found = await looked(place.path);
    expect(found).toMatchObject({ seq: 0, warned: [expect.stringContaining("lacks messages")] });
    const copied = await looked(copy);
    expect(copied).toMatchObject({ seq: 0, warned: [expect.stringContaining("companion is missing")] });
    expect(new Set([epoch, found.epoch, copied.epoch]).size).toBe(3);
  },
);

const ages = ["new", "old"] as const;
const kills = ages.flatMap((age) => [
  [age, "PLATTER_KILL", false] as const,
  [age, "PLATTER_KILL", true] as const,
  [age, "KILL_AT", false] as const,
]);

test.each(kills)(
  "settleEpoch takes a %s store for itself whose first start was killed (%s), also when power fails then: %p",
  async (age, kind, powerFails) => {
    let at = 1;
    for (let isKilled = true; isKilled; at++) {
      await using place = await scratch();
      const own = join(place.folder, "store");
      mkdirSync(own);
      const path = join(own, "chat.db");
      if (age === "old") makeOldStore(path);
      const disk = await platter(place.folder);
      const env = kind === "KILL_AT" ? { KILL_AT: String(at) } : { ...disk.env, PLATTER_KILL: String(at) };
      {
        await using first = sqliteChild("commanded", path, env);
        isKilled = await first.next().then(
          () => false,
          (error) => String(error).includes("the child ended"),
        );
      }
      if (powerFails) disk.failPower(own);
      const found = await looked(path, 1);
      expect(found).toMatchObject({ seq: 0, warned: [] });
      if (age === "old") expect(found.epoch).toBe("epoch-of-old" as Epoch);
      expect(await looked(path)).toEqual({ ...found, seq: 1 });
    }
    // It was killed a few times, and then there were no more steps.
    expect(at).toBeGreaterThan(3);
  },
  30_000,
);

test("settleEpoch gives a wiped store one new epoch, and leaves it at the next start", async () => {
  await using place = await scratch();
  const before = await openSqlite(place.path);
  await before.append(sends("a", 1, 5));
  const { epoch: former } = await before.head(room);
  await before.close();
  rmSync(place.path);
  const made = await openSqlite(place.path);
  const { epoch } = await made.head(room);
  expect(epoch).not.toBe(former);
  await made.close();
  const again = await openSqlite(place.path);
  expect((await again.head(room)).epoch).toBe(epoch);
  await again.close();
});

test("a new epoch that is served is written, also where a foreign writer holds the copy for a moment", async () => {
  await using place = await scratch();
  const before = await openSqlite(place.path);
  await before.append(sends("a", 1, 5));
  await before.close();
  copyFileSync(place.path, `${place.path}-copy`);
  renameSync(`${place.path}-copy`, place.path);
  await using foreign = await foreignProcess(place.path);
  await foreign.hold(1_000);
  const copy = await openSqlite(place.path);
  const { epoch } = await copy.head(room);
  expect(await copy.append(sends("a", 6, 1))).toMatchObject([{ kind: "stored", epoch }]);
  await copy.close();
  const again = await openSqlite(place.path);
  expect((await again.head(room)).epoch).toBe(epoch);
  await again.close();
});

test("nameOfFile tells a file from one that has its inode later, and is the same for as long as it lives", async () => {
  await using place = await scratch();
  writeFileSync(place.path, "one");
  const name = nameOfFile(statSync(place.path));
  writeFileSync(place.path, "another text");
  expect(nameOfFile(statSync(place.path))).toBe(name);
  const { ino, birthtimeMs } = statSync(place.path);
  expect(nameOfFile({ ino, birthtimeMs: birthtimeMs + 1 })).not.toBe(name);
});

test("an upgrade that a foreign reader keeps from the file is refused with one line, and made at the next start", async () => {
  await using place = await scratch();
  makeOldStore(place.path);
  {
    await using foreign = await foreignProcess(place.path);
    await foreign.begin("long read");
    await expect(openSqlite(place.path)).rejects.toThrow(
      `SQLite file ${place.path} is read by another program while it is brought to this version: close that program`,
    );
  }
  {
    await using store = sqliteChild("commanded", place.path);
    await store.next();
    expect(await store.ask("append 1 5")).toEqual({ kinds: ["stored"] });
  }
  expect(await looked(place.path)).toMatchObject({ epoch: "epoch-of-old" as Epoch, seq: 5, warned: [] });
}, 20_000);
