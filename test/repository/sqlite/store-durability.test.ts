/** What the embedded store promises about the disk: synced before told, never on the event loop, whole after a kill. */

import { Database } from "bun:sqlite";
import { expect, spyOn, test } from "bun:test";
import { statSync } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { Worker } from "node:worker_threads";
import type { RoomName, Seq } from "../../../src/domain/ids.ts";
import { LIMITS } from "../../../src/limits.ts";
import { compileLibrary, diskFaults } from "../../fixture/disk.ts";
import { areStored, openSqlite, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;
const SYNC_MS = 20;

test("append answers and shows nothing before the sync has ended, and no sync stops the event loop", async () => {
  await using place = await scratch();
  const disk = await diskFaults(place.folder, { syncMs: SYNC_MS, syncLog: `${place.folder}/syncs` });
  for (const _store of ["new", "there already"]) {
    await using slow = sqliteChild("watched", place.path, disk);
    const seen = await slow.next();
    expect(seen.fastestMs).toBeGreaterThanOrEqual(SYNC_MS);
    // A commit that shows too early shows a whole sync too early; a few milliseconds are the machine's.
    expect(seen.seenEarlyMs).toBeLessThan(SYNC_MS / 2);
    expect(seen.reads).toBeGreaterThan(100);
    // One for each append, and those of several checkpoints.
    expect(seen.syncs).toBeGreaterThanOrEqual(65);
    expect(seen.syncsOnTheLoop).toBe(0);
  }
});

test("append keeps every acked message through five kills", async () => {
  await using place = await scratch();
  const acked = new Map<number, string>();
  for (let kill = 1; kill <= 5; kill++) {
    {
      await using victim = sqliteChild("load", place.path);
      const until = acked.size + 300 + 100 * kill;
      while (acked.size < until) {
        const { acked: batch } = await victim.next();
        for (const [seq, id] of batch as [number, string][]) {
          expect(acked.has(seq)).toBe(false);
          acked.set(seq, id);
        }
      }
    }
    const repository = await openSqlite(place.path);
    const stored = new Map<number, string>();
    for (let after = 0 as Seq; ;) {
      const page = await repository.readAfter(room, after, { messagesMax: 500, textBytesMax: 1_000_000 });
      for (const { seq, id } of page.messages) stored.set(seq, id);
      after = page.messages.at(-1)?.seq ?? after;
      if (!page.more) {
        expect([...stored.keys()]).toEqual(Array.from({ length: page.head.seq }, (_, index) => index + 1));
        break;
      }
    }
    for (const [seq, id] of acked) expect(stored.get(seq)).toBe(id);
    const last = Math.max(...acked.keys());
    const [retry] = await repository.append(sends("a", last, 1));
    expect(retry).toMatchObject({ kind: "duplicate", message: { seq: last, id: acked.get(last) } });
    // What was committed but not acked is there as well, or not at all; either is numbered on.
    for (const [seq, id] of stored) acked.set(seq, id);
    await repository.close();
  }
}, 60_000);

test("append keeps the log bounded under constant load, and close leaves none", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  const log = `${place.path}-wal`;
  let longest = 0;
  let restarts = 0;
  let written = 0;
  for (let sent = 0, before = 0; restarts < 4 && written < 1_000_000_000; sent += LIMITS.batchMessagesMax) {
    await repository.append(sends("a", sent + 1, LIMITS.batchMessagesMax, 2_000));
    written += LIMITS.batchMessagesMax * 2_000;
    longest = Math.max(longest, statSync(log).size);
    // The log's header counts how often it started afresh: https://sqlite.org/fileformat2.html#walformat
    const sequence = new DataView(await Bun.file(log).slice(0, 32).arrayBuffer()).getUint32(12);
    if (before !== 0 && sequence !== before) restarts++;
    before = sequence;
  }
  expect(restarts).toBe(4);
  expect(longest).toBeLessThan(LIMITS.walBytesMax + 4 * LIMITS.batchBytesMax);
  await repository.close();
  expect((await readdir(place.folder)).toSorted()).toEqual(["chat.db", "chat.db.lock"]);
});

test("a failed sync makes the batch unknown, and the store goes on once the file holds the log", async () => {
  await using place = await scratch();
  const faultFile = `${place.folder}/fault`;
  await using store = sqliteChild("commanded", place.path, await diskFaults(place.folder, { faultFile }));
  await store.next();
  expect(await store.ask("append 1 10")).toEqual({ kinds: ["stored"] });
  await Bun.write(faultFile, "sync");
  expect(await store.ask("append 11 5")).toEqual({ refused: "storage_unavailable" });
  expect(await store.ask("status")).toMatchObject({ up: false });
  // What the failed sync was for may be lost: it is neither shown nor built upon.
  expect(await store.ask("read")).toEqual({ refused: "storage_unavailable" });
  expect(await store.ask("append 11 5")).toEqual({ rejected: "storage_unavailable" });
  await Bun.file(faultFile).delete();
  expect(await store.ask("up")).toEqual({ up: true });
  expect(await store.ask("append 11 5")).toEqual({ kinds: ["duplicate"] });
  expect(await store.ask("append 16 1")).toEqual({ kinds: ["stored"] });
  expect(await store.ask("read")).toMatchObject({ seq: 16 });
  store.child.stdin.end();
  expect(await store.child.exited).toBe(0);
  const repository = await openSqlite(place.path);
  expect(Number((await repository.head(room)).seq)).toBe(16);
  await repository.close();
});

test("a full disk refuses, keeps what was stored readable, and recovers without traffic", async () => {
  await using place = await scratch();
  const faultFile = `${place.folder}/fault`;
  await using store = sqliteChild("commanded", place.path, await diskFaults(place.folder, { faultFile }));
  await store.next();
  expect(await store.ask("append 1 10")).toEqual({ kinds: ["stored"] });
  await Bun.write(faultFile, "write");
  expect(await store.ask("append 11 400")).toEqual({ rejected: "storage_unavailable" });
  expect(await store.ask("status")).toMatchObject({ up: false });
  expect(await store.ask("read")).toMatchObject({ seq: 10, seqs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] });
  await Bun.file(faultFile).delete();
  expect(await store.ask("up")).toEqual({ up: true });
  expect(await store.ask("append 11 400")).toEqual({ kinds: ["stored"] });
  expect(await store.ask("read")).toMatchObject({ seq: 410 });
  store.child.stdin.end();
  expect(await store.child.exited).toBe(0);
});

test("append gives up on a sync that hangs, hides what it was for, and knows it when the sync has ended", async () => {
  await using place = await scratch();
  const faultFile = `${place.folder}/fault`;
  await using store = sqliteChild("commanded", place.path, await diskFaults(place.folder, { faultFile }));
  await store.next();
  expect(await store.ask("append 1 3")).toEqual({ kinds: ["stored"] });
  await Bun.write(faultFile, "hang");
  const askedAt = performance.now();
  expect(await store.ask("append 4 2")).toEqual({ refused: "storage_unavailable" });
  expect(performance.now() - askedAt).toBeLessThan(LIMITS.storeTimeoutMs * 1.5);
  expect(await store.ask("status")).toMatchObject({ up: false });
  expect(await store.ask("read")).toMatchObject({ seq: 3, seqs: [1, 2, 3] });
  await Bun.file(faultFile).delete();
  expect(await store.ask("up")).toEqual({ up: true });
  expect(await store.ask("append 4 2")).toEqual({ kinds: ["duplicate"] });
  expect(await store.ask("read")).toMatchObject({ seq: 5 });
}, 20_000);

test("of a log that a failed sync has damaged all is kept that was acked, and the store goes on by itself", async () => {
  await using place = await scratch();
  const faultFile = `${place.folder}/fault`;
  {
    await using store = sqliteChild("commanded", place.path, await diskFaults(place.folder, { faultFile }));
    await store.next();
    expect(await store.ask("append 1 10")).toEqual({ kinds: ["stored"] });
    const log = `${place.path}-wal`;
    const ackedBytes = statSync(log).size;
    await Bun.write(faultFile, "sync");
    expect(await store.ask("append 11 5")).toEqual({ refused: "storage_unavailable" });
    expect(statSync(log).size).toBeGreaterThan(ackedBytes);
    // What a kernel does that forgets the page: the first frame of the failed sync is not there when read again.
    const file = await open(log, "r+");
    await file.write(Buffer.alloc(1_000, 0xa5), 0, 1_000, ackedBytes + 1_000);
    await file.close();
    await Bun.file(faultFile).delete();
    expect(await store.ask("up")).toEqual({ up: true });
    expect(await store.ask("read")).toMatchObject({ seq: 10 });
    expect(await store.ask("append 11 5")).toEqual({ kinds: ["stored"] });
    store.child.stdin.end();
    expect(await store.child.exited).toBe(0);
  }
  const repository = await openSqlite(place.path);
  expect(Number((await repository.head(room)).seq)).toBe(15);
  await repository.close();
}, 20_000);

test.each(["closed", "killed"])(
  "a failed sync of the file loses nothing that was acked, goes on by itself, and stays whole when %s",
  async (end) => {
    await using place = await scratch();
    const faultFile = `${place.folder}/fault`;
    let messages = 4_000;
    {
      await using store = sqliteChild("commanded", place.path, await diskFaults(place.folder, { faultFile }));
      await store.next();
      await Bun.write(faultFile, "forget");
      // Twice as much as starts a checkpoint, which fails.
      messages = Number((await store.ask(`flood ${messages} 100`)).sent);
      expect(await store.ask("up")).toEqual({ up: true });
      // A second one, at another step.
      await Bun.write(faultFile, "forget");
      messages = Number((await store.ask(`flood ${messages + 3_000} 100`)).sent);
      expect(await store.ask("up")).toEqual({ up: true });
      if (end === "closed") {
        store.child.stdin.end();
        expect(await store.child.exited).toBe(0);
      }
    }
    const file = new Database(place.path);
    expect(file.query("PRAGMA integrity_check").values()).toEqual([["ok"]]);
    file.close();
    const repository = await openSqlite(place.path);
    const seqs: number[] = [];
    for (let after = 0 as Seq, more = true; more;) {
      const page = await repository.readAfter(room, after, { messagesMax: 500, textBytesMax: 10_000_000 });
      for (const { seq, text } of page.messages) if (text.startsWith(`message ${seq}.`)) seqs.push(seq);
      after = page.messages.at(-1)?.seq ?? after;
      more = page.more;
    }
    expect(seqs).toEqual(Array.from({ length: messages }, (_, index) => index + 1));
    await repository.close();
  },
  60_000,
);

test("a checkpoint worker that dies is replaced, and close does not wait for it", async () => {
  await using place = await scratch();
  const workers: Worker[] = [];
  let isKilled = false;
  const post = Worker.prototype.postMessage;
  using _spy = spyOn(Worker.prototype, "postMessage").mockImplementation(function (this: Worker, ...args) {
    workers.push(this);
    // The first that is asked for a copy dies of it, and never answers.
    if (!isKilled && args[0].step === "backfill") {
      isKilled = true;
      void this.terminate();
    }
    return post.apply(this, args);
  });
  const repository = await openSqlite(place.path);
  const log = `${place.path}-wal`;
  const messages = 50 * LIMITS.batchMessagesMax;
  let longest = 0;
  for (let sent = 0; sent < messages; sent += LIMITS.batchMessagesMax) {
    const drafts = sends("a", sent + 1, LIMITS.batchMessagesMax, 2_000);
    // The death may have hidden a failed sync: batches are refused until that is mended.
    while (!(await areStored(repository.append(drafts))))
      await new Promise((resume) => setTimeout(resume, 5));
    longest = Math.max(longest, statSync(log).size);
  }
  // Less than was written: it started afresh.
  expect(longest).toBeLessThan(LIMITS.walBytesMax + 4 * LIMITS.batchBytesMax);
  // The one that died, one that recovered the store, and its successor.
  expect(new Set(workers).size).toBeGreaterThanOrEqual(3);
  await workers.at(-1)?.terminate();
  await repository.close();
  const reopened = await openSqlite(place.path);
  expect(Number((await reopened.head(room)).seq)).toBe(messages);
  await reopened.close();
}, 30_000);

test("close and a recovery do not wait for a worker's thread, which has no end once the clock was set forward", async () => {
  await using place = await scratch();
  const faultFile = `${place.folder}/fault`;
  const shift = `${place.folder}/shift`;
  const hours = Buffer.alloc(8);
  await Bun.write(shift, hours);
  const disk = await diskFaults(place.folder, { faultFile });
  const clock = await compileLibrary("../lab/chaos/clock-faults.c", place.folder);
  const env = { ...disk, LD_PRELOAD: `${disk.LD_PRELOAD}:${clock}`, CLOCK_SHIFT: shift };
  await using store = sqliteChild("commanded", place.path, env);
  await store.next();
  // More than starts a checkpoint, and with it the worker.
  await store.ask("flood 2500 100");
  hours.writeBigInt64LE(7_200n);
  // In place: the child has it mapped.
  const file = await open(shift, "r+");
  await file.write(hours, 0, 8, 0);
  await file.close();
  await Bun.write(faultFile, "sync");
  expect(await store.ask("append 2501 1")).toEqual({ refused: "storage_unavailable" });
  await Bun.file(faultFile).delete();
  expect(await store.ask("up")).toEqual({ up: true });
  expect(await store.ask("append 2501 2")).toMatchObject({ kinds: expect.arrayContaining(["stored"]) });
  store.child.stdin.end();
  expect(await store.next()).toEqual({ closed: true });
}, 20_000);
