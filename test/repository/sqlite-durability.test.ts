/** What the embedded store promises about the disk: synced before told, never on the event loop, whole after a kill. */

import { expect, test } from "bun:test";
import { statSync } from "node:fs";
import { open, readdir } from "node:fs/promises";
import type { RoomName, Seq } from "../../src/domain/ids.ts";
import { LIMITS } from "../../src/limits.ts";
import { intactFrames } from "../../src/repository/sqlite-log-check.ts";
import { diskFaults } from "../fixture/disk.ts";
import { openSqlite, scratch, sends, sqliteChild } from "../fixture/sqlite.ts";

const room = "a" as RoomName;
const SYNC_MS = 20;

test("append answers and shows nothing before the sync has ended, and no sync stops the event loop", async () => {
  await using place = await scratch();
  const disk = await diskFaults(place.folder, { syncMs: SYNC_MS, syncLog: `${place.folder}/syncs` });
  await using slow = sqliteChild("watched", place.path, disk);
  const seen = await slow.next();
  expect(seen.fastestMs).toBeGreaterThanOrEqual(SYNC_MS);
  // A commit that shows too early shows a whole sync too early; a few milliseconds are the machine's.
  expect(seen.seenEarlyMs).toBeLessThan(SYNC_MS / 2);
  expect(seen.reads).toBeGreaterThan(100);
  // One for each append, and those of several checkpoints.
  expect(seen.syncs).toBeGreaterThanOrEqual(65);
  expect(seen.syncsOnTheLoop).toBe(0);
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
  expect(await store.ask("append 11 5")).toEqual({ refused: "storage_unavailable" });
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
  expect(await store.ask("append 11 400")).toEqual({ refused: "storage_unavailable" });
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

test("a log that a failed sync has damaged is not copied into the file, and a restart keeps what was acked", async () => {
  await using place = await scratch();
  const faultFile = `${place.folder}/fault`;
  {
    await using store = sqliteChild("commanded", place.path, await diskFaults(place.folder, { faultFile }));
    await store.next();
    expect(await store.ask("append 1 10")).toEqual({ kinds: ["stored"] });
    const log = `${place.path}-wal`;
    const ackedFrames = intactFrames(log);
    expect(ackedFrames).toBeGreaterThan(1);
    await Bun.write(faultFile, "sync");
    expect(await store.ask("append 11 5")).toEqual({ refused: "storage_unavailable" });
    const frames = intactFrames(log);
    expect(frames).toBeGreaterThan(ackedFrames);
    // What a kernel does that forgets the page: the first frame of the failed sync is not there when read again.
    const file = await open(log, "r+");
    const { size } = await file.stat();
    const frameBytes = 24 + 4_096;
    await file.write(Buffer.alloc(1_000, 0xa5), 0, 1_000, 32 + ackedFrames * frameBytes + 1_000);
    expect((await file.stat()).size).toBe(size);
    await file.close();
    expect(intactFrames(log)).toBe(ackedFrames);
    await Bun.file(faultFile).delete();
    expect(await store.ask("damaged")).toEqual({ damaged: true });
    expect(await store.ask("append 11 5")).toEqual({ refused: "storage_unavailable" });
    // Nor does an orderly end copy it.
    store.child.stdin.end();
    expect(await store.child.exited).toBe(0);
  }
  const repository = await openSqlite(place.path);
  expect(Number((await repository.head(room)).seq)).toBe(10);
  expect(await repository.append(sends("a", 11, 5))).toMatchObject(Array(5).fill({ kind: "stored" }));
  await repository.close();
}, 20_000);
