/** One file, one process: locks that the kernel frees when their holder dies. */

import { closeSync, constants, fstatSync, openSync, type PathLike, statSync } from "node:fs";
import { lockFile } from "../../runtime/file-lock.ts";
import { OperatorFault } from "./faults.ts";

/**
 * Opens and locks a file as it is named now. The file is made for its owner only where it is missing, and never removed: to
 * remove it would let two processes lock two different files of one name.
 * @returns the descriptor that holds the lock. Where the file is a database it must outlive every connection: to close any
 *   descriptor of it drops the locks that SQLite has on it.
 * @throws OperatorFault when it is locked already, in this process or another, or when it has a second name
 */
export function openLocked(path: PathLike, flags: number = constants.O_CREAT): number {
  const descriptor = openSync(path, constants.O_RDWR | flags, 0o600);
  try {
    if (!lockFile(descriptor)) throw new OperatorFault("is locked by another process");
    const { ino, nlink } = fstatSync(descriptor);
    // Its name may have been given to another file meanwhile.
    if (statSync(path, { throwIfNoEntry: false })?.ino !== ino)
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
