/**
 * Makes a new embedded store: whole, in a file beside its place, and then given its name in one step. No process ever
 * finds half of one, and it takes one sync where SQLite in its place takes seven, for a journal, a log and the file.
 */

import { Database } from "bun:sqlite";
import {
  closeSync,
  fchmodSync,
  fstatSync,
  fsyncSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
} from "node:fs";
import { dirname } from "node:path";
import type { Epoch } from "../../domain/ids.ts";
import type { Companion } from "./companion.ts";
import { nameOfFile, syncFolder } from "./folder.ts";
import { openLocked } from "./hold.ts";
import { migrate, writeEpoch } from "./schema.ts";

/**
 * Puts a new store in the place of an empty file. The caller holds the lock, and makes the folder durable afterwards.
 * The companion has its first record, on disk, before the store has its name: a store without the record would be taken for a copy.
 * The new file has the empty one's mode. An empty file of another owner is left as it is: then SQLite makes the store in it.
 * @returns the descriptor by which the new file is locked, for the caller to close; undefined where no file was made
 * @throws SQLiteError or a system call's error when it cannot be written
 */
export function makeStore(path: string, epoch: Epoch, companion: Companion): number | undefined {
  const empty = statSync(path, { throwIfNoEntry: false });
  if (empty === undefined || empty.size > 0) return;
  // The name begins as SQLite's own do, and what lies there is removed: an operator must not use such a name.
  const made = `${path}-making`;
  let descriptor: number | undefined;
  try {
    // One may be left that was being made when its process died.
    remove([made, ...sidecars(made)]);
    // Locked before it has the store's name, so that no other process can have it under that name unlocked.
    descriptor = openLocked(made);
    write(made, epoch);
    if (!hasOwnerOf(statSync(made), empty)) return;
    fchmodSync(descriptor, empty.mode & 0o777);
    fsyncSync(descriptor);
    companion.begin({ epoch, file: nameOfFile(fstatSync(descriptor)) });
    // A log or a journal without its file is of a store that is gone: the new one must never take it for its own. And the
    // companion's own name has to be durable before the store's.
    remove(sidecars(path));
    syncFolder(dirname(path));
    renameSync(made, path);
    const kept = descriptor;
    descriptor = undefined;
    return kept;
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
    remove([made]);
  }
}

function write(path: string, epoch: Epoch): void {
  const store = new Database(path, { readwrite: true, create: false });
  try {
    store.run("PRAGMA synchronous = OFF");
    store.run("PRAGMA journal_mode = MEMORY");
    migrate(store, path);
    writeEpoch(store, epoch);
    store.run("PRAGMA journal_mode = WAL");
  } finally {
    store.close();
  }
}

const sidecars = (path: string) => ["-journal", "-wal", "-shm"].map((suffix) => `${path}${suffix}`);

function remove(paths: readonly string[]): void {
  for (const path of paths) rmSync(path, { force: true });
}

const hasOwnerOf = (one: Stats, other: Stats) => one.uid === other.uid && one.gid === other.gid;
