/** SQLite's and the disk's faults in an operator's words. */

import { SQLiteError } from "bun:sqlite";

/** The one line for an operator whose file cannot be used; what is no fault of SQLite's is passed on as it is. */
export function startFault(path: string, thrown: unknown): Error {
  if (!(thrown instanceof SQLiteError)) return thrown instanceof Error ? thrown : new Error(String(thrown));
  return new Error(`SQLite file ${path} ${FAULTS[thrown.errno & 0xff] ?? `cannot be used (${thrown.code})`}`);
}

/** Why a store that runs does not work, without a database's words. */
export function downReason(thrown: unknown): string {
  if (typeof thrown === "string") return thrown;
  const errno = errnoOf(thrown);
  // Below zero it is a system call's.
  if (errno < 0) return "the disk reports an error";
  return `the file ${FAULTS[errno & 0xff] ?? "cannot be used"}`;
}

/** Somebody else is in the way; SQLITE_BUSY and its extended codes. */
export const isBusy = (thrown: unknown): boolean => (errnoOf(thrown) & 0xff) === 5;

/** Pages are not what they should be: SQLITE_CORRUPT and SQLITE_NOTADB, with their extended codes. */
export const isCorrupt = (thrown: unknown): boolean => [11, 26].includes(errnoOf(thrown) & 0xff);

/**
 * A sync failed, or nobody knows whether one did: what was written before it may be lost, and the kernel does not say so
 * again. That is so for SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC, a system call's number, and none. A write that fails
 * is no such thing: SQLite does not take it for done.
 */
export function syncFailed(thrown: unknown): boolean {
  const errno = errnoOf(thrown);
  return !(errno > 0) || errno === 1_034 || errno === 1_290;
}

function errnoOf(thrown: unknown): number {
  return thrown instanceof Error && "errno" in thrown ? Number(thrown.errno) : Number.NaN;
}

// The primary result codes of sqlite3.h.
const FAULTS: Readonly<Record<number, string>> = {
  3: "may not be accessed",
  5: "is locked by another process",
  6: "is locked by another process",
  8: "cannot be written: the file or its folder is read-only",
  10: "cannot be read or written: the disk reports an error",
  11: "is corrupt",
  13: "cannot be written: the disk is full",
  14: "cannot be opened: the file or its folder is missing, a folder, or not accessible",
  26: "is not a database",
};
