/** Reads a database file without its log, and without taking a lock. */

import { constants, Database } from "bun:sqlite";

/** Undefined where the work threw: the file is half of a copy, or no database of ours. The file must not change meanwhile. */
export function readAlone<T>(path: string, work: (database: Database) => T): T | undefined {
  const { SQLITE_OPEN_READONLY, SQLITE_OPEN_URI } = constants;
  const database = new Database(uriOf(path), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
  try {
    return work(database);
  } catch {
    return undefined;
  } finally {
    database.close();
  }
}

const uriOf = (path: string) => `file:${encodeURI(path).replace(/[?#]/g, encodeURIComponent)}?immutable=1`;
