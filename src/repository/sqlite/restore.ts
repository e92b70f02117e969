/** Puts a backup in the place of an embedded store. */

import { Database } from "bun:sqlite";
import {
  closeSync,
  copyFileSync,
  existsSync,
  fchmodSync,
  fsyncSync,
  linkSync,
  openSync,
  renameSync,
  statSync,
} from "node:fs";
import { dirname, resolve } from "node:path";
import type { Epoch } from "../../domain/ids.ts";
import { createCompanion } from "./companion.ts";
import { OperatorFault, startFault } from "./faults.ts";
import { checkFolder, isSameFile, syncFolder, truePath } from "./folder.ts";
import { openLocked } from "./hold.ts";
import { beginRestoring, removeStore, settleRestoring } from "./restoring.ts";
import { migrate } from "./schema.ts";

export interface Restored {
  readonly path: string;
  readonly messages: number;
  /** Where the store is now that was there before; undefined where there was none. */
  readonly former: string | undefined;
}

/**
 * Verifies the backup and puts a copy of it in the store's place, in one step, with a new epoch: readers are told to begin
 * afresh. The store that was there is kept beside it.
 * @param now names the former store
 * @throws Error of one line for the operator; then the store is as it was
 */
export function restore(
  asked: string,
  backup: string,
  { newEpoch, now }: { readonly newEpoch: () => Epoch; readonly now: Date },
): Restored {
  const from = resolve(backup);
  if (!existsSync(from)) throw new Error(`${from} does not exist`);
  if (!statSync(from).isFile()) throw new Error(`${from} is not a file`);
  const { path } = truePath(asked);
  const there = statSync(path, { throwIfNoEntry: false });
  if (there !== undefined && isSameFile(statSync(from), there))
    throw new Error(`${from} is the store itself`);
  const held: number[] = [];
  const made = `${path}-making`;
  try {
    checkFolder(path);
    const lock = asStopped(() => openLocked(`${path}.lock`));
    held.push(lock);
    const companion = createCompanion(lock);
    // One that was ended by force.
    settleRestoring(path, companion);
    // By its inode as well: a service that runs may hold it under another name.
    held.push(asStopped(() => openLocked(path)));
    removeStore(made);
    const store = openLocked(made);
    held.push(store);
    asVerified(from, () => {
      for (const suffix of ["", "-wal"])
        if (existsSync(from + suffix)) copyFileSync(from + suffix, made + suffix);
    });
    // A copy has the mode of the backup, which may be for all to read.
    fchmodSync(store, statSync(path).mode & 0o777);
    const epoch = newEpoch();
    const messages = asVerified(from, () => prepare(made, from, epoch));
    fsyncSync(store);
    const former = statSync(path).size > 0 ? nameFormer(path, now) : undefined;
    beginRestoring(path, epoch, former);
    try {
      if (former !== undefined) keep(path, former);
      renameSync(made, path);
    } finally {
      settleRestoring(path, companion);
    }
    return { path, messages, former };
  } catch (error) {
    throw startFault(path, error);
  } finally {
    removeStore(made);
    for (const descriptor of held.toReversed()) closeSync(descriptor);
  }
}

const nameFormer = (path: string, now: Date) => `${path}.${now.toISOString().replace(/[:.]/g, "-")}`;

/** Takes a lock that a service has as long as it runs. */
function asStopped(lock: () => number): number {
  try {
    return lock();
  } catch (error) {
    if (!(error instanceof OperatorFault)) throw error;
    throw new OperatorFault(`${error.message}: stop the service before you put a backup back`);
  }
}

/** Faults that are met are the backup's. */
function asVerified<T>(backup: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new Error(startFault(backup, error).message);
  }
}

/** Makes the copy a store of this program. @returns how many messages it has */
function prepare(made: string, from: string, epoch: Epoch): number {
  const database = new Database(made, { readwrite: true, create: false });
  try {
    if (database.query("PRAGMA quick_check(1)").values()[0]?.[0] !== "ok")
      throw new OperatorFault("is corrupt");
    if (Number(database.query("SELECT count(*) FROM sqlite_schema").values()[0]?.[0]) === 0)
      throw new OperatorFault("is empty");
    migrate(database, from);
    database.run("UPDATE store SET epoch = ?1, has_companion = 1", [epoch]);
    database.run("PRAGMA journal_mode = WAL");
    return Number(database.query("SELECT count(*) FROM messages").values()[0]?.[0]);
  } finally {
    database.close();
  }
}

/**
 * Gives the store, and its log where it has one, a second name, on disk. The log first: a store under that name has its log there.
 * Until the new store has its place the old one keeps its own names as well.
 */
function keep(path: string, former: string): void {
  for (const suffix of ["-wal", ""]) {
    if (!existsSync(path + suffix)) continue;
    try {
      linkSync(path + suffix, former + suffix);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") throw error;
      copyWhole(path + suffix, former + suffix);
    }
  }
  syncFolder(dirname(path));
}

/** For a file system without links. */
function copyWhole(from: string, to: string): void {
  const made = `${to}-making`;
  copyFileSync(from, made);
  const copy = openSync(made, "r+");
  try {
    fsyncSync(copy);
  } finally {
    closeSync(copy);
  }
  renameSync(made, to);
}
