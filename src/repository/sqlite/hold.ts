/** A database file that this process has for itself: locked by its name and by itself, with its companion. */

import { closeSync } from "node:fs";
import type { Epoch } from "../../domain/ids.ts";
import { type Companion, createCompanion } from "./companion.ts";
import { checkPlace } from "./folder.ts";
import { openLocked } from "./lock.ts";
import { makeStore } from "./making.ts";

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
  checkPlace(path);
  const descriptors = [openLocked(`${path}.lock`)];
  const release = () => {
    for (const descriptor of descriptors.toReversed()) closeSync(descriptor);
  };
  try {
    // The file that is there, and the one that is put in its place.
    descriptors.push(openLocked(path));
    const made = makeStore(path, newEpoch());
    if (made !== undefined) descriptors.push(made);
  } catch (error) {
    release();
    throw error;
  }
  const [companion, file] = [descriptors[0] as number, descriptors.at(-1) as number];
  return { path, descriptor: file, companion: createCompanion(companion), release };
}
