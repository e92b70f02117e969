/** Puts a backup in the place of an embedded store. */

import { Database } from "bun:sqlite";
import {
  closeSync,
  copyFileSync,
  existsSync,
  fstatSync,
  fsyncSync,
  linkSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname, resolve } from "node:path";
import type { Epoch } from "../../domain/ids.ts";
import { createCompanion } from "./companion.ts";
import { OperatorFault, startFault } from "./faults.ts";
import { checkFolder, syncFolder, truePath } from "./folder.ts";
import { openLocked } from "./hold.ts";
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
  const { path } = truePath(asked);
  if (existsSync(path) && statSync(from).ino === statSync(path).ino)
    throw new Error(`${from} is the store itself`);
  const held: number[] = [];
  const made = `${path}-making`;
  try {
    checkFolder(path);
    const companion = holdName(path);
    held.push(companion);
    remove(made);
    const store = openLocked(made);
    held.push(store);
    for (const suffix of ["", "-wal"])
      if (existsSync(from + suffix)) copyFileSync(from + suffix, made + suffix);
    const epoch = newEpoch();
    const messages = asVerified(from, () => prepare(made, from, epoch));
    fsyncSync(store);
    const former = existsSync(path) && statSync(path).size > 0 ? keep(path, now) : undefined;
    for (const suffix of SIDECARS) rmSync(path + suffix, { force: true });
    renameSync(made, path);
    const said = createCompanion(companion);
    said.write({ epoch, file: fstatSync(store).ino, last: null, log: null, sound: false });
    fsyncSync(companion);
    syncFolder(dirname(path));
    return { path, messages, former };
  } catch (error) {
    throw startFault(path, error);
  } finally {
    remove(made);
    for (const descriptor of held.toReversed()) closeSync(descriptor);
  }
}

/** A service holds the store by its name as long as it runs. */
function holdName(path: string): number {
  try {
    return openLocked(`${path}.lock`);
  } catch (error) {
    if (!(error instanceof OperatorFault)) throw error;
    throw new OperatorFault(`${error.message}: stop the service before you put a backup back`);
  }
}

const SIDECARS = ["-journal", "-wal", "-shm"];

function remove(path: string): void {
  for (const suffix of ["", ...SIDECARS]) rmSync(path + suffix, { force: true });
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
 * Gives the store, and its log where it has one, another name beside its own. Until the new store has its place the old one
 * keeps its name as well, and no service starts on a file of two names.
 * @returns that name
 */
function keep(path: string, now: Date): string {
  const former = `${path}.${now.toISOString().replace(/[:.]/g, "-")}`;
  for (const suffix of ["", "-wal"]) {
    if (!existsSync(path + suffix)) continue;
    try {
      linkSync(path + suffix, former + suffix);
    } catch {
      // A file system without links.
      copyFileSync(path + suffix, former + suffix);
    }
  }
  return former;
}
