/** The log's end that the event loop holds: when the log starts afresh, it is the worker that syncs its new header. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { closeSync, openSync, readSync, writeFileSync } from "node:fs";
import type { Epoch } from "../../../src/domain/ids.ts";
import { createCompanion } from "../../../src/repository/sqlite/companion.ts";
import { makeStore } from "../../../src/repository/sqlite/making.ts";
import { TRIAL } from "../../../src/repository/sqlite/schema.ts";
import { openWal } from "../../../src/repository/sqlite/wal.ts";
import { scratch } from "../../fixture/sqlite.ts";

/** How often the log has started afresh, as its header says: https://sqlite.org/fileformat2.html#walformat */
function restarts(path: string): number {
  const log = openSync(`${path}-wal`, "r");
  const header = Buffer.alloc(32);
  readSync(log, header, 0, header.length, 0);
  closeSync(log);
  return header.readUInt32BE(12);
}

test("finish that a reader keeps from starting the log afresh does not leave that to the next commit", async () => {
  await using place = await scratch();
  writeFileSync(place.path, "");
  const lock = openSync(`${place.path}.lock`, "w+");
  makeStore(place.path, "epoch-1" as Epoch, createCompanion(lock));
  closeSync(lock);
  const writer = new Database(place.path, { readwrite: true });
  writer.run("PRAGMA wal_autocheckpoint = 0");
  writer.run(TRIAL);
  const descriptor = openSync(place.path, "r+");
  const wal = openWal(writer, place.path, descriptor);
  const reader = new Database(place.path, { readonly: true });
  try {
    await wal.backfill();
    // It reads in the log, as far as the log goes: all of it can be copied, but not started afresh.
    writer.run(TRIAL);
    reader.run("BEGIN");
    reader.query("SELECT epoch FROM store").values();
    expect(await wal.finish().catch(String)).toContain("another program reads");
    reader.run("COMMIT");
    const before = restarts(place.path);
    writer.run(TRIAL);
    expect(restarts(place.path)).toBe(before);
    await wal.finish();
    expect(restarts(place.path)).toBe(before + 1);
  } finally {
    reader.close();
    await wal.leave();
    writer.close();
    closeSync(descriptor);
  }
});
