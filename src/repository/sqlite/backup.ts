/** Backs an embedded store up into one file, while a service uses it or not. */

import { Database } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { LIMITS } from "../../limits.ts";
import { isBusy, isCorrupt, OperatorFault, startFault } from "./faults.ts";
import { syncFolder } from "./folder.ts";

export interface BackedUp {
  readonly path: string;
  readonly messages: number;
  readonly bytes: number;
}

/**
 * Writes all that is committed into a new file that only its owner may read, verified and on disk before it has its name.
 * A service goes on meanwhile; its log grows until the backup is made.
 * @throws Error of one line for the operator, who then has no file of that name
 */
export function backUp(store: string, to: string): BackedUp {
  const path = resolve(to);
  if (existsSync(path)) throw new Error(`${path} exists already: a backup does not replace a file`);
  if (!existsSync(store)) throw new Error(`SQLite file ${resolve(store)} does not exist`);
  const made = `${path}-making`;
  try {
    rmSync(made, { force: true });
    closeSync(openSync(made, "wx", 0o600));
    copyTo(store, made);
    const messages = verify(made);
    const descriptor = openSync(made, "r+");
    fsyncSync(descriptor);
    closeSync(descriptor);
    renameSync(made, path);
    syncFolder(dirname(path));
    return { path, messages, bytes: statSync(path).size };
  } catch (error) {
    throw error instanceof StoreFault ? startFault(resolve(store), error.cause) : startFault(path, error);
  } finally {
    remove(made);
  }
}

/** What went wrong is in the store, not in the backup. */
class StoreFault extends Error {}

function copyTo(store: string, made: string): void {
  const database = openStore(store);
  try {
    database.run("VACUUM INTO ?1", [made]);
  } catch (error) {
    // Of what else can go wrong the new file is the cause: it cannot be written, or its disk is full.
    throw isCorrupt(error) || isBusy(error)
      ? new StoreFault("the store cannot be read", { cause: error })
      : error;
  } finally {
    database.close();
  }
}

function openStore(store: string): Database {
  try {
    const database = new Database(store, { readonly: true });
    database.run(`PRAGMA busy_timeout = ${LIMITS.storeTimeoutMs}`);
    database.query("SELECT count(*) FROM sqlite_schema").get();
    return database;
  } catch (error) {
    throw new StoreFault("the store cannot be read", { cause: error });
  }
}

/** @returns how many messages it has */
function verify(path: string): number {
  const database = new Database(path, { readonly: true });
  try {
    if (database.query("PRAGMA quick_check(1)").values()[0]?.[0] !== "ok")
      throw new OperatorFault("is corrupt");
    return Number(database.query("SELECT count(*) FROM messages").values()[0]?.[0]);
  } finally {
    database.close();
  }
}

/** Where not even that can be done, the fault before says why. */
function remove(made: string): void {
  try {
    rmSync(made, { force: true });
  } catch {
    // Its folder cannot be reached.
  }
}
