/** Fills an embedded store in bulk, past the service: the rows and indexes that so many sends would have left. */

import { Database } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, openSync } from "node:fs";
import { copyFile, rm } from "node:fs/promises";
import { migrate, SEQ_BITS } from "../../../src/repository/sqlite/schema.ts";
import { makeTexts } from "./texts.ts";

export interface Fill {
  readonly rooms: number;
  readonly messagesPerRoom: number;
  /** They speak in turn. */
  readonly users: number;
  readonly seed: number;
}

/** When the first message was said; each came a millisecond after the one before, to the next room. */
export const FILLED_FROM_MS = Date.UTC(2026, 0, 1);

export const filledRoom = (index: number) => `room ${String(index).padStart(6, "0")}`;
export const filledUser = (index: number) => `user ${String(index).padStart(6, "0")}`;

/** @param path of a file that is not there yet */
export function fillStore(path: string, { rooms, messagesPerRoom, users, seed }: Fill): void {
  const db = new Database(path, { create: true });
  try {
    // A file that is not whole is thrown away: nothing is gained by a journal.
    for (const pragma of ["journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"])
      db.run(`PRAGMA ${pragma}`);
    migrate(db, path);
    // An index that is made at the end is made by one sort.
    const indexes = db
      .query(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = 'messages'",
      )
      .values() as [string, string][];
    for (const [name] of indexes) db.run(`DROP INDEX ${name}`);
    db.run("CREATE TEMP TABLE texts (n INTEGER PRIMARY KEY, text TEXT NOT NULL)");
    const texts = makeTexts(seed);
    const addText = db.prepare("INSERT INTO temp.texts VALUES (?1, ?2)");
    db.run("BEGIN");
    for (const [index, text] of texts.entries()) addText.run(index, text);
    addText.finalize();
    db.run(
      `WITH RECURSIVE r(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM r WHERE i + 1 < ?1)
       INSERT INTO rooms (id, name, seq, last_received_at)
       SELECT i + 1, printf('room %06d', i), ?2, ?3 + (?2 - 1) * ?1 + i FROM r`,
      [rooms, messagesPerRoom, FILLED_FROM_MS],
    );
    // In the order of the table: room by room. `at` counts as time went: all rooms in turn.
    db.run(
      `WITH RECURSIVE n(room, seq, at) AS (
         VALUES (0, 0, 0) UNION ALL
         SELECT CASE WHEN seq + 1 < ?2 THEN room ELSE room + 1 END, CASE WHEN seq + 1 < ?2 THEN seq + 1 ELSE 0 END,
           CASE WHEN seq + 1 < ?2 THEN at + ?1 ELSE room + 1 END
         FROM n WHERE room < ?1 - 1 OR seq + 1 < ?2)
       INSERT INTO messages (place, id, user_id, client_id, text, timestamp, received_at)
       SELECT ((room + 1) << ${SEQ_BITS}) | (seq + 1),
         printf('%08x-%04x-7000-8000-%012x', (?3 + at) >> 16, (?3 + at) & 65535, at),
         printf('user %06d', at % ?4), NULL, (SELECT text FROM temp.texts WHERE n = at % ${texts.length}),
         ?3 + at, ?3 + at FROM n`,
      [rooms, messagesPerRoom, FILLED_FROM_MS, users],
    );
    db.run("COMMIT");
    for (const [, sql] of indexes) db.run(sql);
  } finally {
    db.close();
  }
  writtenOut(path);
}

/** Else the system would write it out while something is measured. */
function writtenOut(path: string): void {
  const file = openSync(path, "r+");
  fsyncSync(file);
  closeSync(file);
}

/** Beside the database: its log, and the log's index. */
const COMPANIONS = ["-wal", "-shm"];

/** A copy of a store that nobody has open. */
export async function copyStore(from: string, to: string): Promise<void> {
  await copyFile(from, to);
  if (existsSync(`${from}-wal`)) await copyFile(`${from}-wal`, `${to}-wal`);
  writtenOut(to);
}

export async function removeStore(path: string): Promise<void> {
  for (const file of ["", ...COMPANIONS]) await rm(`${path}${file}`, { force: true });
}
