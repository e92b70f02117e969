/** Backs an embedded store up into one file, while a service uses it or not. */

import { Database } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { LIMITS } from "../../limits.ts";
import { OperatorFault, startFault } from "./faults.ts";
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
    rmSync(made, { force: true });
    throw error instanceof BackupFault ? startFault(path, error.cause) : startFault(resolve(store), error);
  }
}

/** What went wrong is in the backup, not in the store. */
class BackupFault extends Error {}

function copyTo(store: string, made: string): void {
  const database = new Database(store, { readonly: true });
  try {
    database.run(`PRAGMA busy_timeout = ${LIMITS.storeTimeoutMs}`);
    database.run("VACUUM INTO ?1", [made]);
  } finally {
    database.close();
  }
}

/** @returns how many messages it has */
function verify(path: string): number {
  const database = new Database(path, { readonly: true });
  try {
    if (database.query("PRAGMA quick_check(1)").values()[0]?.[0] !== "ok")
      throw new OperatorFault("is corrupt");
    return Number(database.query("SELECT count(*) FROM messages").values()[0]?.[0]);
  } catch (error) {
    throw new BackupFault("the backup is not whole", { cause: error });
  } finally {
    database.close();
  }
}
