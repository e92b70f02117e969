/** SQLite's and the disk's faults in an operator's words. */

import { SQLiteError } from "bun:sqlite";

/** A fault that only the operator can end: words that follow "the file", and say what to do. */
export class OperatorFault extends Error {}

/** The one line for an operator whose file cannot be used. A fault that is neither SQLite's nor the system's is passed on. */
export function startFault(path: string, thrown: unknown): Error {
  if (thrown instanceof SQLiteError)
    return new Error(
      `SQLite file ${path} ${FAULTS[thrown.errno & 0xff] ?? `cannot be used (${thrown.code})`}`,
    );
  if (thrown instanceof OperatorFault) return new Error(`SQLite file ${path} ${thrown.message}`);
  if (!(thrown instanceof Error)) return new Error(String(thrown));
  const { code, syscall } = thrown as NodeJS.ErrnoException;
  if (syscall === undefined) return thrown;
  return new Error(`SQLite file ${path} ${FAULTS[PRIMARY[code ?? ""] ?? 0] ?? `cannot be used (${code})`}`);
}

/** Why a store that runs does not work, without a database's words. */
export function downReason(thrown: unknown): string {
  if (typeof thrown === "string") return thrown;
  if (thrown instanceof OperatorFault) return `the file ${thrown.message}`;
  const errno = errnoOf(thrown);
  // Below zero it is a system call's.
  if (errno < 0) return "the disk reports an error";
  return `the file ${FAULTS[errno & 0xff] ?? "cannot be used"}`;
}

/** Another connection is in the way; SQLITE_BUSY and its extended codes. */
export const isBusy = (thrown: unknown): boolean => (errnoOf(thrown) & 0xff) === 5;

/**
 * A COMMIT that failed so has stored nothing: the file is in use, read-only, or the disk is full. Of other faults it is not known
 * how far the write came.
 */
export const isRolledBack = (thrown: unknown): boolean => [5, 8, 13].includes(errnoOf(thrown) & 0xff);

/** Pages are not what they should be: SQLITE_CORRUPT and SQLITE_NOTADB, with their extended codes. */
export const isCorrupt = (thrown: unknown): boolean => [11, 26].includes(errnoOf(thrown) & 0xff);

/**
 * A sync failed, or its outcome is unknown: what was written before it may be lost, and the kernel does not say so again.
 * That is so for SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC, a system call's number, and an error without a number. A write
 * that fails is different: SQLite does not take it for done.
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

/** What SQLite would say where the system says this. */
const PRIMARY: Readonly<Record<string, number>> = {
  EACCES: 14,
  EISDIR: 14,
  ENOENT: 14,
  EPERM: 14,
  EROFS: 8,
  EIO: 10,
  ENOSPC: 13,
};
