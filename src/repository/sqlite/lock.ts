/** One file, one process: a lock that the kernel frees when its holder dies, however it dies. */

import { Database } from "bun:sqlite";

/**
 * Holds an exclusive SQLite lock on an empty file beside the database until released. The file stays: to remove it would
 * let two holders lock two different files of that name.
 * @throws SQLiteError SQLITE_BUSY when somebody else holds it, in this process or another
 */
export function lockFile(path: string): { release(): void } {
  const lock = new Database(`${path}.lock`, { create: true, readwrite: true });
  try {
    lock.run("PRAGMA busy_timeout = 0");
    lock.run("BEGIN EXCLUSIVE");
  } catch (error) {
    lock.close();
    throw error;
  }
  return { release: () => lock.close() };
}
