/**
 * The one way on from a log that is not empty, at every start and after every doubt: its bytes are written again, all of it
 * is copied into the file, the log is emptied, and both are synced. Only then is the store opened (docs/adr/0008).
 */

import { Database } from "bun:sqlite";
import { closeSync, fdatasyncSync, fsyncSync, openSync, readSync, writeSync } from "node:fs";
import { readAlone } from "./alone.ts";
import { type LogMark, readSalts } from "./companion.ts";
import { OperatorFault } from "./faults.ts";
import { readPragma } from "./schema.ts";

export interface Recovery {
  readonly path: string;
  /** Of the database file; the caller keeps it open. */
  readonly descriptor: number;
  /** What the companion says of the log; null where it says nothing. */
  readonly mark: LogMark | null;
  /** The last process ended in order: what was copied from the log was synced. */
  readonly isSound: boolean;
}

/** How long a foreign process that comes and goes is waited for. */
const BUSY_MS = 100;
const CHUNK_BYTES = 1_048_576;

/**
 * For a log that has something in it, while no connection of this process is open. After it the log is empty; or, beside a
 * foreign process that reads it, it is on disk, and nothing in doubt was copied from it.
 * @throws OperatorFault when the log is not of this file's state, or a foreign process keeps it from being copied whole;
 *   what SQLite or the system threw when something cannot be written or synced: then it must be run again
 */
export function recover({ path, descriptor, mark, isSound }: Recovery): void {
  const log = `${path}-wal`;
  const file = readFileAlone(path, descriptor);
  // The last connection that closes copies the log and removes it if it may write. The reader may not, and is the last: where
  // something fails the log stays as it is.
  const reader = new Database(path, { readonly: true });
  let writer: Database | undefined;
  try {
    refuseForeignLog(reader, file, log, mark);
    writer = new Database(path, { readwrite: true, create: false });
    writer.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
    writer.run("PRAGMA synchronous = FULL");
    // No foreign process appends to the log, or starts it afresh, while it is read and written again.
    writer.run("BEGIN IMMEDIATE");
    rewrite(log);
    writer.run("ROLLBACK");
    if (!isSound) refuseCopied(writer);
    // Where a foreign process reads, it is copied in part: it stays, and both together are whole.
    writer.query("PRAGMA wal_checkpoint(TRUNCATE)").values();
  } finally {
    writer?.close();
    reader.close();
  }
  // SQLite has synced what it copied, by a descriptor of its own: a write before that may have failed for this one.
  fdatasyncSync(descriptor);
  // An old log that came back after a power failure would hide what the file gets from here on.
  withFile(log, "r+", fsyncSync);
}

/**
 * The first connection to a file makes the index of its log anew, and takes nothing of it for copied. Where something is, a
 * foreign process has the file open and keeps the index.
 */
function refuseCopied(database: Database): void {
  const [, , copied] = database.query("PRAGMA wal_checkpoint(NOOP)").values()[0] as number[];
  if (copied !== 0)
    throw new OperatorFault(
      "is open in another program, and its log must be copied again: close that program",
    );
}

/**
 * Writes the log's own bytes again and syncs them. After a failed sync the system takes the pages for written: they can be
 * read, are not on the disk, and later syncs do not write them.
 */
function rewrite(log: string): void {
  withFile(log, "r+", (descriptor) => {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    for (let at = 0; ;) {
      const bytes = readSync(descriptor, chunk, 0, CHUNK_BYTES, at);
      if (bytes === 0) break;
      for (let done = 0; done < bytes;) done += writeSync(descriptor, chunk, done, bytes - done, at + done);
      at += bytes;
    }
    fdatasyncSync(descriptor);
  });
}

/** What the file says without its log. */
interface FileAlone {
  /** Whether it is a file that has a log: a backup by VACUUM INTO is not. */
  readonly hasLog: boolean;
  readonly cookie: number;
  /** `wal_restarts`; undefined where it cannot be read, as when power failed while the log was being copied. */
  readonly number: number | undefined;
}

function readFileAlone(path: string, descriptor: number): FileAlone {
  // https://sqlite.org/fileformat2.html#the_database_header
  const header = Buffer.alloc(100);
  readSync(descriptor, header, 0, header.length, 0);
  // Where it is half of a copy, or no database of ours: the log, or the opening that follows, tells.
  const number = readAlone(path, numberIn);
  return { hasLog: header[19] !== 1, cookie: header.readUInt32BE(40), number };
}

const numberIn = (database: Database) =>
  database.query("SELECT wal_restarts FROM store").values()[0]?.[0] as number | undefined;

/**
 * Every log of ours begins with a commit that has the file's first page and raises `wal_restarts`: the file alone has a
 * number of that log, the one before, or, once that page was copied, a later one.
 * @throws OperatorFault when the log belongs to another state of the file
 */
function refuseForeignLog(database: Database, file: FileAlone, log: string, mark: LogMark | null): void {
  // Older stores raised the number at other times, too; and another program's file is refused later.
  if (readPragma(database, "user_version") < 2) return;
  const number = numberIn(database);
  // A store that was being made has no row yet.
  if (file.number === undefined || number === undefined) return;
  if (
    file.hasLog &&
    isOf(file, file.number, number, readPragma(database, "schema_version"), marked(log, mark))
  )
    return;
  throw new OperatorFault(
    `is not the one that the log beside it was written for: if it is a backup, put it back with "chat-service restore", or remove ${log} and ${log.replace(/wal$/, "shm")}`,
  );
}

function isOf(
  file: FileAlone,
  fileNumber: number,
  number: number,
  cookie: number,
  mark: LogMark | null,
): boolean {
  // A log that began while the companion was not looked after (a foreign process, power that failed): the last number or this.
  if (mark === null) return fileNumber === number || fileNumber === number - 1;
  if (mark.ended) return false;
  const isFromThenOn = mark.number <= fileNumber && fileNumber <= number;
  return isFromThenOn && (file.cookie === mark.cookie || file.cookie === cookie);
}

/** What the companion says of this very log. */
const marked = (log: string, mark: LogMark | null) =>
  mark !== null && withFile(log, "r", readSalts) === mark.salts ? mark : null;

function withFile<T>(path: string, flags: string, work: (descriptor: number) => T): T {
  const descriptor = openSync(path, flags);
  try {
    return work(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
