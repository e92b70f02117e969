/** What a store that is recovered keeps: all that was acked, whatever syncs failed and whenever power fails after it. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { copyFile, mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { RoomName, Seq } from "../../../src/domain/ids.ts";
import { createChance } from "../../fixture/chance.ts";
import { foreignProcess } from "../../fixture/foreign-process.ts";
import { platter } from "../../fixture/platter.ts";
import { openSqlite, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;

/** A store in a folder of its own, on a disk that forgets. */
async function onPlatter(folder: string) {
  const disk = await platter(folder);
  const own = join(folder, "store");
  await mkdir(own);
  return { disk, own, path: join(own, "chat.db") };
}

async function seqsIn(path: string): Promise<number[]> {
  const repository = await openSqlite(path);
  const seqs: number[] = [];
  for (let after = 0 as Seq, more = true; more;) {
    const page = await repository.readAfter(room, after, { messagesMax: 500, textBytesMax: 10_000_000 });
    seqs.push(...page.messages.map(({ seq }) => Number(seq)));
    after = page.messages.at(-1)?.seq ?? after;
    more = page.more;
  }
  await repository.close();
  return seqs;
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

test.each(["a failed sync and a kill", "a failed sync and an orderly end", "a first start that failed"])(
  "recover keeps what is acked after %s, when power fails then",
  async (before) => {
    await using place = await scratch();
    const { disk, own, path } = await onPlatter(place.folder);
    {
      await using store = sqliteChild("commanded", path, disk.env);
      await store.next();
      expect(await store.ask("append 1 10")).toEqual({ kinds: ["stored"] });
      await Bun.write(disk.faultFile, "s");
      expect(await store.ask("append 11 5")).toEqual({ refused: "storage_unavailable" });
      if (before.includes("orderly")) {
        store.child.stdin.end();
        expect(await store.child.exited).toBe(0);
      }
    }
    if (before.includes("first start")) {
      await using broken = sqliteChild("commanded", path, disk.env);
      expect((await broken.next()).refused).toMatch(/^SQLite file [^\n]*$/);
    }
    await rm(disk.faultFile);
    let acked = 0;
    {
      await using store = sqliteChild("commanded", path, disk.env);
      expect(await store.next()).toEqual({ open: true });
      for (; acked < 30; acked++)
        expect(await store.ask(`append ${16 + acked} 1`)).toEqual({ kinds: ["stored"] });
    }
    disk.failPower(own);
    // The five in doubt may be there or not.
    const seqs = await seqsIn(path);
    expect(seqs).toEqual(upTo(seqs.length));
    expect(seqs.length).toBeGreaterThanOrEqual(40);
    const repository = await openSqlite(path);
    const again = await repository.append([...sends("a", 1, 10), ...sends("a", 16, 30)]);
    expect(again.map(({ kind }) => kind)).toEqual(Array(40).fill("duplicate"));
    await repository.close();
  },
  20_000,
);

test.each([
  ["the log", "l"],
  ["the file", "f"],
])(
  "recover copies the log whole after one failed sync of %s, when power fails later",
  async (_of, fault) => {
    await using place = await scratch();
    const { disk, own, path } = await onPlatter(place.folder);
    let sent = 0;
    {
      await using store = sqliteChild("commanded", path, { ...disk.env, DISK_FAULT: disk.faultFile });
      await store.next();
      await Bun.write(disk.faultFile, fault);
      // More than starts a checkpoint. The store recovers by itself.
      sent = Number((await store.ask("flood 2500 100")).sent);
    }
    disk.failPower(own);
    expect(await seqsIn(path)).toEqual(upTo(sent));
  },
  30_000,
);

test("recover leaves a whole store where it is killed, power fails, and some of what it wrote has survived", async () => {
  for (let sync = 1; sync <= 3; sync++)
    for (const seed of [1, 2, 3]) {
      await using place = await scratch();
      const { disk, own, path } = await onPlatter(place.folder);
      {
        await using store = sqliteChild("commanded", path, disk.env);
        await store.next();
        expect(await store.ask("append 1 1000 300")).toEqual({ kinds: ["stored"] });
        store.child.stdin.end();
        expect(await store.child.exited).toBe(0);
      }
      {
        // The few in the log touch few of the file's pages, those in doubt touch many.
        await using store = sqliteChild("commanded", path, disk.env);
        await store.next();
        expect(await store.ask("append 1001 3")).toEqual({ kinds: ["stored"] });
        await Bun.write(disk.faultFile, "s");
        expect(await store.ask("append 1004 900 300")).toEqual({ refused: "storage_unavailable" });
      }
      await rm(disk.faultFile);
      {
        await using killed = sqliteChild("commanded", path, { ...disk.env, PLATTER_KILL: String(sync) });
        await expect(killed.next()).rejects.toThrow("the child ended");
      }
      const chance = createChance(seed);
      disk.failPower(own, () => chance.often(0.5));
      const seqs = await seqsIn(path);
      expect(seqs).toEqual(upTo(seqs.length));
      expect(seqs.length).toBeGreaterThanOrEqual(1_003);
      const file = new Database(path, { readonly: true });
      expect(file.query("PRAGMA integrity_check").values()).toEqual([["ok"]]);
      file.close();
    }
}, 30_000);

const BATCHES = 22;

/** A store that a killed process has left with a log; another process that starts, fills, checkpoints and ends it. */
async function killedAt(sync: number, powerFails: boolean): Promise<"killed" | "ended"> {
  await using place = await scratch();
  const { disk, own, path } = await onPlatter(place.folder);
  {
    await using first = sqliteChild("commanded", path, disk.env);
    await first.next();
    expect(await first.ask("append 1 5")).toEqual({ kinds: ["stored"] });
  }
  const before = await epochOf(path, disk.env);
  let acked = 5;
  let end: "killed" | "ended" = "killed";
  {
    await using victim = sqliteChild("commanded", path, { ...disk.env, PLATTER_KILL: String(sync) });
    try {
      await victim.next();
      for (let batch = 0; batch < BATCHES; batch++) {
        expect(await victim.ask(`append ${acked + 1} 100 8000`)).toEqual({ kinds: ["stored"] });
        acked += 100;
      }
      victim.child.stdin.end();
      if ((await victim.child.exited) === 0) end = "ended";
    } catch (error) {
      expect(String(error)).toContain("the child ended");
    }
  }
  if (powerFails) disk.failPower(own);
  expect(await epochOf(path, disk.env)).toBe(before);
  const seqs = await seqsIn(path);
  expect(seqs).toEqual(upTo(seqs.length));
  expect(seqs.length).toBeGreaterThanOrEqual(acked);
  return end;
}

/** Starts the store and is killed: the log stays as it began. */
async function epochOf(path: string, env: Record<string, string>) {
  await using looking = sqliteChild("commanded", path, env);
  expect(await looking.next()).toEqual({ open: true });
  return (await looking.ask("epoch")).epoch;
}

test("recover never refuses what a kill at any sync leaves, and keeps epoch and messages, whether or not power fails", async () => {
  // The start, with a log and without; then the checkpoint and the orderly end, which come after the batches.
  for (let sync = 1; sync <= 8; sync++) expect(await killedAt(sync, sync % 2 === 0)).toBe("killed");
  for (let sync = BATCHES; ; sync++) if ((await killedAt(sync, sync % 2 === 1)) === "ended") break;
}, 120_000);

/** A store with a backup and an older file, whose process was killed later: its log has what neither of them has. */
async function killedWithLog(folder: string) {
  const [path, backup, older] = ["chat.db", "backup", "older"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await (await openSqlite(path)).close();
  await using store = sqliteChild("commanded", path);
  await store.next();
  // Before its log has copied anything.
  await copyFile(path, older);
  expect(await store.ask("append 1 5")).toEqual({ kinds: ["stored"] });
  const shell = new Database(path, { readonly: true });
  shell.run(`VACUUM INTO '${backup}'`);
  shell.close();
  expect(await store.ask("append 6 5")).toEqual({ kinds: ["stored"] });
  return { path, backup, older };
}

const refusal = (path: string) =>
  openSqlite(path).then(
    async (repository) => {
      await repository.close();
      return "it opened";
    },
    (error: Error) => error.message,
  );

const companions = [
  ["beside its companion", () => {}],
  ["without its companion", (path: string) => rm(`${path}.lock`)],
] as const;

test.each(companions)(
  "recover refuses the log of a later state beside a backup that was put back %s",
  async (_companion, arrange) => {
    for (const put of [copyFile, rename]) {
      await using place = await scratch();
      const { path, backup } = await killedWithLog(place.folder);
      await arrange(path);
      await put(backup, path);
      const line = `SQLite file ${path} is not the one that the log beside it was written for: if it is a backup, put it back with "chat-service restore", or remove ${path}-wal and ${path}-shm`;
      for (let start = 1; start <= 2; start++) expect(await refusal(path)).toBe(line);
      await rm(`${path}-wal`);
      await rm(`${path}-shm`, { force: true });
      expect(await seqsIn(path)).toEqual(upTo(5));
    }
  },
);

test.each(companions)(
  "recover refuses a log beside a file of several logs before %s",
  async (_companion, arrange) => {
    await using place = await scratch();
    const { path } = await killedWithLog(place.folder);
    const former = join(place.folder, "former");
    await (await openSqlite(path)).close();
    await copyFile(path, former);
    for (let run = 0; run < 2; run++) {
      const repository = await openSqlite(path);
      await repository.append(sends("a", 11 + run, 1));
      await repository.close();
    }
    {
      await using store = sqliteChild("commanded", path);
      await store.next();
      expect(await store.ask("append 13 1")).toEqual({ kinds: ["stored"] });
    }
    await arrange(path);
    await copyFile(former, path);
    expect(await refusal(path)).toContain("is not the one that the log beside it was written for");
  },
);

test("recover refuses a log of which the file has had all, and more, since", async () => {
  await using place = await scratch();
  const { path } = await killedWithLog(place.folder);
  const log = join(place.folder, "log");
  await copyFile(`${path}-wal`, log);
  expect(await seqsIn(path)).toEqual(upTo(10));
  for (let run = 0; run < 2; run++) {
    const repository = await openSqlite(path);
    await repository.append(sends("a", 11 + run, 1));
    await repository.close();
    await copyFile(log, `${path}-wal`);
    expect(await refusal(path)).toContain("is not the one that the log beside it was written for");
    await rm(`${path}-wal`);
    expect(await seqsIn(path)).toEqual(upTo(11 + run));
  }
});

test("recover refuses a copy of the last log from before an orderly end, which the file has whole", async () => {
  await using place = await scratch();
  const { path } = place;
  const log = join(place.folder, "log");
  const repository = await openSqlite(path);
  await repository.append(sends("a", 1, 5));
  await copyFile(`${path}-wal`, log);
  await repository.append(sends("a", 6, 5));
  await repository.close();
  await copyFile(log, `${path}-wal`);
  expect(await refusal(path)).toContain("is not the one that the log beside it was written for");
  await rm(`${path}-wal`);
  expect(await seqsIn(path)).toEqual(upTo(10));
});

test("recover refuses a log to which another process is about to write, until that one ends", async () => {
  await using place = await scratch();
  const { path } = await killedWithLog(place.folder);
  {
    await using writer = sqliteChild("writer", path);
    expect(await writer.next()).toEqual({ writes: true });
    expect(await refusal(path)).toBe(`SQLite file ${path} is locked by another process`);
  }
  expect(await seqsIn(path)).toEqual(upTo(10));
});

test("recover syncs what it copied in part beside a process that reads, and does not start where that fails", async () => {
  await using place = await scratch();
  const { disk, path } = await onPlatter(place.folder);
  await using store = sqliteChild("commanded", path);
  await store.next();
  expect(await store.ask("append 1 5")).toEqual({ kinds: ["stored"] });
  // It reads what is there now: of what comes later nothing can be copied as long as it does.
  await using reader = sqliteChild("reader", path);
  expect(await reader.next()).toEqual({ reads: true });
  expect(await store.ask("append 6 5")).toEqual({ kinds: ["stored"] });
  await store[Symbol.asyncDispose]();
  await Bun.write(disk.faultFile, "f");
  {
    await using broken = sqliteChild("commanded", path, disk.env);
    expect((await broken.next()).refused).toContain("the disk reports an error");
  }
  await reader[Symbol.asyncDispose]();
  expect(await seqsIn(path)).toEqual(upTo(10));
});

test("recover refuses a log beside a backup that was given a log's format meanwhile", async () => {
  await using place = await scratch();
  const { path, backup } = await killedWithLog(place.folder);
  const shell = new Database(backup);
  shell.run("PRAGMA journal_mode = WAL");
  shell.close();
  await copyFile(backup, path);
  expect(await refusal(path)).toContain("is not the one that the log beside it was written for");
});

test("recover takes a file with its own log, wherever both were copied", async () => {
  await using place = await scratch();
  const { path } = await killedWithLog(place.folder);
  const copy = join(place.folder, "copy.db");
  for (const suffix of ["", "-wal"]) await copyFile(path + suffix, copy + suffix);
  expect(await seqsIn(copy)).toEqual(upTo(10));
  expect(await seqsIn(path)).toEqual(upTo(10));
});

test("recover takes the file beside its log after what an operator's shell did to both", async () => {
  await using place = await scratch();
  const { path } = await killedWithLog(place.folder);
  const during = [
    "PRAGMA wal_checkpoint(PASSIVE)",
    "CREATE INDEX theirs ON messages (text); PRAGMA wal_checkpoint(PASSIVE)",
    "VACUUM",
    "PRAGMA wal_checkpoint(RESTART); DELETE FROM messages WHERE seq = 1",
  ];
  for (const sql of during) {
    {
      await using store = sqliteChild("commanded", path);
      await store.next();
      expect(await store.ask("append 100 1")).toMatchObject({ kinds: expect.anything() });
      const shell = new Database(path);
      shell.run("PRAGMA busy_timeout = 1000");
      shell.run(sql);
      shell.close();
      expect(await store.ask("append 101 1")).toMatchObject({ kinds: expect.anything() });
    }
    expect(await refusal(path)).toBe("it opened");
  }
});

/** Another process that reads in one transaction, beside which some of the log was copied. */
async function readerOfCopied(path: string) {
  const reader = sqliteChild("reader", path);
  expect(await reader.next()).toEqual({ reads: true });
  const shell = new Database(path);
  const [, , copied] = shell.query("PRAGMA wal_checkpoint(PASSIVE)").values()[0] as number[];
  shell.close();
  expect(Number(copied)).toBeGreaterThan(0);
  return { reader };
}

test("recover refuses a log that it cannot copy again until the process that keeps it from that has ended", async () => {
  await using place = await scratch();
  const { path } = place;
  const store = sqliteChild("commanded", path);
  await store.next();
  expect(await store.ask("append 1 5")).toEqual({ kinds: ["stored"] });
  {
    const { reader } = await readerOfCopied(path);
    await using _reader = reader;
    await store[Symbol.asyncDispose]();
    expect(await refusal(path)).toBe(
      `SQLite file ${path} is open in another program, and its log must be copied again: close that program`,
    );
  }
  expect(await seqsIn(path)).toEqual(upTo(5));
});

test("a store in doubt says which process keeps it from being recovered, and goes on when that has ended", async () => {
  await using place = await scratch();
  const { disk, path } = await onPlatter(place.folder);
  await using store = sqliteChild("commanded", path, disk.env);
  await store.next();
  expect(await store.ask("append 1 5")).toEqual({ kinds: ["stored"] });
  {
    const { reader } = await readerOfCopied(path);
    await using _reader = reader;
    await Bun.write(disk.faultFile, "s");
    expect(await store.ask("append 6 1")).toEqual({ refused: "storage_unavailable" });
    await rm(disk.faultFile);
    let reason = "";
    while (!reason.includes("another program")) reason = String((await store.ask("status")).reason);
    expect(reason).toBe(
      "the file is open in another program, and its log must be copied again: close that program",
    );
    expect(await store.ask("append 6 1")).toEqual({ rejected: "storage_unavailable" });
  }
  expect(await store.ask("up")).toEqual({ up: true });
  expect(await store.ask("append 6 2")).toMatchObject({ kinds: expect.arrayContaining(["stored"]) });
});

test("close beside a foreign connection puts the log's end on disk: the next start goes on when power fails then", async () => {
  await using place = await scratch();
  const { disk, own, path } = await onPlatter(place.folder);
  {
    await using store = sqliteChild("commanded", path, disk.env);
    await store.next();
    expect(await store.ask("append 1 20")).toEqual({ kinds: ["stored"] });
    await using foreign = await foreignProcess(path);
    await foreign.begin("one");
    await foreign.end("one");
    store.child.stdin.end();
    expect(await store.child.exited).toBe(0);
  }
  disk.failPower(own);
  expect(await seqsIn(path)).toEqual(upTo(20));
});

test("recover believes an orderly end beside a reader once: not behind a start that has copied some and failed", async () => {
  await using place = await scratch();
  const { disk, own, path } = await onPlatter(place.folder);
  {
    await using foreign = await foreignProcess(path);
    {
      await using store = sqliteChild("commanded", path, disk.env);
      await store.next();
      expect(await store.ask("append 1 50")).toEqual({ kinds: ["stored"] });
      await foreign.begin("one");
      expect(await store.ask("append 51 50")).toEqual({ kinds: ["stored"] });
      await foreign.begin("two");
      expect(await store.ask("append 101 50")).toEqual({ kinds: ["stored"] });
      store.child.stdin.end();
      expect(await store.child.exited).toBe(0);
    }
    await foreign.end("one");
    await Bun.write(disk.faultFile, "f");
    await using broken = sqliteChild("commanded", path, disk.env);
    expect((await broken.next()).refused).toContain("cannot be read or written");
    await rm(disk.faultFile, { force: true });
    await foreign.end("two");
    // What the failed start copied may be lost, and cannot be copied again while another program has the file open.
    await using second = sqliteChild("commanded", path, disk.env);
    expect((await second.next()).refused).toContain("its log must be copied again: close that program");
  }
  {
    await using store = sqliteChild("commanded", path, disk.env);
    expect(await store.next()).toEqual({ open: true });
    expect(await store.ask("append 151 5")).toEqual({ kinds: ["stored"] });
  }
  disk.failPower(own);
  expect(await seqsIn(path)).toEqual(upTo(155));
}, 20_000);
