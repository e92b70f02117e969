/** One file, one process: a database file is locked by its name and by itself, and the kernel frees it when its holder dies. */

import { closeSync, constants, fstatSync, openSync, statSync } from "node:fs";
import type { Epoch } from "../../domain/ids.ts";
import { lockFile } from "../../runtime/libc.ts";
import { type Companion, createCompanion } from "./companion.ts";
import { OperatorFault } from "./faults.ts";
import { checkFolder, checkMount, isSameFile } from "./folder.ts";
import { makeStore } from "./making.ts";
import { settleRestoring } from "./restoring.ts";

export interface Hold {
  readonly path: string;
  /** Of the database file. It holds the lock, and is closed after the last connection. */
  readonly descriptor: number;
  readonly companion: Companion;
  release(): void;
}

/**
 * Holds the file at its true path, and makes a store where the file is missing or empty.
 * @throws OperatorFault when another process holds it or it must not lie there; SQLite's and the system's errors
 */
export function hold(path: string, newEpoch: () => Epoch): Hold {
  checkFolder(path);
  const descriptors = [openLocked(`${path}.lock`)];
  const release = () => {
    for (const descriptor of descriptors.toReversed()) closeSync(descriptor);
  };
  try {
    const companion = createCompanion(descriptors[0] as number);
    settleRestoring(path, companion);
    // The file that is there, and the one that is put in its place.
    const found = openLocked(path);
    descriptors.push(found);
    checkMount(path, found);
    const made = makeStore(path, newEpoch(), companion);
    if (made !== undefined) descriptors.push(made);
    return { path, descriptor: made ?? found, companion, release };
  } catch (error) {
    release();
    throw error;
  }
}

/**
 * Opens and locks a file as it is named now. The file is made for its owner only where it is missing, and never removed: to
 * remove it would let two processes lock two different files of one name.
 * @returns the descriptor that holds the lock. Where the file is a database it must outlive every connection: to close any
 *   descriptor of it drops the locks that SQLite has on it.
 * @throws OperatorFault when it is locked already, in this process or another, or when it has a second name
 */
export function openLocked(path: string): number {
  const descriptor = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    if (!lockFile(descriptor)) throw new OperatorFault("is locked by another process");
    const opened = fstatSync(descriptor);
    const { nlink } = opened;
    // Its name may have been given to another file meanwhile.
    const named = statSync(path, { throwIfNoEntry: false });
    if (named === undefined || !isSameFile(named, opened))
      throw new OperatorFault("was replaced while it was opened: start again");
    if (nlink > 1)
      throw new OperatorFault(
        `has ${nlink} names (hard links), and its log belongs to one: remove the other names, or copy the file`,
      );
    return descriptor;
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}
