/**
 * Makes a new embedded store: whole, in a file beside its place, and then given its name in one step. Nobody ever finds
 * half of one, and it takes one sync where SQLite in its place takes seven, for a journal, a log and the file.
 */

import { Database } from "bun:sqlite";
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
} from "node:fs";
import { dirname } from "node:path";
import type { Epoch } from "../../domain/ids.ts";
import { syncFolder } from "./folder.ts";
import { migrate, writeEpoch } from "./schema.ts";

/**
 * Puts a new store in the place of an empty file. The caller holds the lock, and makes the folder durable afterwards.
 * An empty file that is not as ours would be (another's, another mode, a second name, a mount of its own) is left as it
 * is: then SQLite makes the store in it.
 * @throws SQLiteError or a system call's error when it cannot be written
 */
export function makeStore(path: string, epoch: Epoch): void {
  const empty = statSync(path, { throwIfNoEntry: false });
  if (empty === undefined || empty.size > 0) return;
  // Of the kind of SQLite's own names: what lies there is removed, so nobody else may give a file such a name.
  const made = `${path}-making`;
  try {
    // One may be left that was being made when its process died.
    remove([made, ...sidecars(made)]);
    write(made, epoch);
    if (!isAlike(statSync(made), empty)) return;
    // A log or a journal without its file is of a store that is gone: the new one must never take it for its own.
    if (remove(sidecars(path))) syncFolder(dirname(path));
    takePlace(made, path);
  } finally {
    remove([made]);
  }
}

function write(path: string, epoch: Epoch): void {
  const store = new Database(path, { create: true, readwrite: true });
  try {
    store.run("PRAGMA synchronous = OFF");
    store.run("PRAGMA journal_mode = MEMORY");
    migrate(store, path);
    writeEpoch(store, epoch);
    store.run("PRAGMA journal_mode = WAL");
  } finally {
    store.close();
  }
  const descriptor = openSync(path, "r+");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

const sidecars = (path: string) => ["-journal", "-wal", "-shm"].map((suffix) => `${path}${suffix}`);

/** Whether any of them was there. */
function remove(paths: readonly string[]): boolean {
  const found = paths.filter((path) => existsSync(path));
  for (const path of found) rmSync(path);
  return found.length > 0;
}

const isAlike = (one: Stats, other: Stats) =>
  one.uid === other.uid && one.gid === other.gid && one.mode === other.mode && other.nlink === 1;

/** A file that is mounted by itself keeps its place. */
function takePlace(made: string, path: string): void {
  try {
    renameSync(made, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EBUSY") throw error;
  }
}
