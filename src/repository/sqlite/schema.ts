/** The embedded store's tables, as numbered migrations: each runs in one transaction and none is ever changed. */

import type { Database } from "bun:sqlite";
import type { Epoch } from "../../domain/ids.ts";

export interface Migration {
  readonly version: number;
  readonly sql: string;
}

/** Numbers of a room fit into so many bits beside the room's id: 4 billion messages a room. */
export const SEQ_BITS = 32;
export const SEQ_MAX = 2 ** SEQ_BITS - 1;

/**
 * `place` is the room's id and the number in one integer, so that a room's messages lie side by side in the table's own
 * b-tree (no second one for the order), and a text search can point at them by rowid. `room_id` and `seq` take no room.
 * `rooms` keeps a room's newest number and time, also when all its messages are gone.
 */
export const MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    sql: `
      CREATE TABLE store (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        epoch TEXT NOT NULL,
        wal_restarts INTEGER NOT NULL
      ) STRICT;
      CREATE TABLE rooms (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        seq INTEGER NOT NULL,
        last_received_at INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX rooms_by_activity ON rooms (last_received_at, name);
      CREATE TABLE messages (
        place INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        client_id TEXT,
        text TEXT NOT NULL,
        timestamp INTEGER NOT NULL,
        received_at INTEGER NOT NULL,
        room_id INTEGER GENERATED ALWAYS AS (place >> ${SEQ_BITS}) VIRTUAL,
        seq INTEGER GENERATED ALWAYS AS (place & ${SEQ_MAX}) VIRTUAL
      ) STRICT;
      CREATE INDEX messages_by_user ON messages (user_id, received_at, id);
      CREATE UNIQUE INDEX messages_by_client_id ON messages (room_id, user_id, client_id)
        WHERE client_id IS NOT NULL;
    `,
  },
  {
    // Whether a companion goes with the store (companion.ts); and what is changed where a write is to be tried.
    version: 2,
    sql: `
      ALTER TABLE store ADD COLUMN has_companion INTEGER NOT NULL DEFAULT 0;
      ALTER TABLE store ADD COLUMN trials INTEGER NOT NULL DEFAULT 0;
    `,
  },
];

/** "chat" in ASCII, so that another program's database is told from ours. */
const APPLICATION_ID = 0x63686174;

/**
 * Brings the file to the newest schema.
 * @returns whether anything had to be done
 * @throws Error with one line for the operator when the file is another program's, or a newer one's.
 */
export function migrate(db: Database, path: string, migrations: readonly Migration[] = MIGRATIONS): boolean {
  const newest = migrations.at(-1)?.version ?? 0;
  const known = readPragma(db, "user_version");
  const application = readPragma(db, "application_id");
  const tables = Number(db.query("SELECT count(*) FROM sqlite_schema").values()[0]?.[0]);
  if (application !== APPLICATION_ID && (application !== 0 || known !== 0 || tables > 0))
    throw new Error(`SQLite file ${path} belongs to another program`);
  if (known > newest)
    throw new Error(
      `SQLite file ${path} has schema ${known}, this program knows only up to ${newest}: use a newer program`,
    );
  for (const { version, sql } of migrations) {
    if (version <= known) continue;
    // Not by db.transaction(): it keeps statements of its own, and the file is not let go of before those are collected.
    db.run("BEGIN IMMEDIATE");
    try {
      db.run(sql);
      db.run(`PRAGMA application_id = ${APPLICATION_ID}`);
      db.run(`PRAGMA user_version = ${version}`);
      db.run("COMMIT");
    } catch (error) {
      if (db.inTransaction) db.run("ROLLBACK");
      throw error;
    }
  }
  return known < newest;
}

/** A trifle to commit, which shows whether the file can be written. */
export const TRIAL = "UPDATE store SET trials = trials + 1";

/**
 * The first commit of each log: raises `wal_restarts`, and writes the first page as it is, so that every log says by itself
 * on which state of the file it builds (recovery.ts).
 * @param epoch the store's name from now on, where it is a new one
 * @param isNew false where a log goes on that is there already: then its number stays
 */
export function beginLog(
  db: Database,
  { epoch, isNew = true }: { readonly epoch?: Epoch | undefined; readonly isNew?: boolean } = {},
): void {
  db.run("BEGIN IMMEDIATE");
  try {
    db.run(`PRAGMA user_version = ${MIGRATIONS.at(-1)?.version}`);
    db.run(
      "UPDATE store SET wal_restarts = wal_restarts + ?1, has_companion = 1, epoch = coalesce(?2, epoch)",
      [Number(isNew), epoch ?? null],
    );
    db.run("COMMIT");
  } catch (error) {
    if (db.inTransaction) db.run("ROLLBACK");
    throw error;
  }
}

/** Names this epoch of the store, where it has no name yet. The companion must have its record already, on disk. */
export function writeEpoch(db: Database, epoch: Epoch): void {
  db.run(
    "INSERT INTO store (only_row, epoch, wal_restarts, has_companion) VALUES (1, ?1, 0, 1) ON CONFLICT DO NOTHING",
    [epoch],
  );
}

/** Has the file itself say, and not only its log, that a companion goes with it. The companion must have its record already, on disk. */
export function writeHasCompanion(db: Database): void {
  db.run("UPDATE store SET has_companion = 1");
  db.run("PRAGMA wal_checkpoint(TRUNCATE)");
}

export const readPragma = (db: Database, name: string) => Number(db.query(`PRAGMA ${name}`).values()[0]?.[0]);
