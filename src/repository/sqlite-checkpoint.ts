/**
 * The worker that moves what was committed from the write-ahead log into the database file: its fsyncs never meet the
 * event loop. It runs in its own thread with its own connections; the other end is sqlite-wal.ts.
 */

import { Database } from "bun:sqlite";
import { fdatasyncSync } from "node:fs";
import { parentPort } from "node:worker_threads";
import { intactFrames } from "./sqlite-log-check.ts";

/**
 * - `open`: connects; the descriptor is one of the database file, for syncs only, and whoever asks closes it.
 * - `backfill`: copies what it can while commits go on.
 * - `verify`: fails unless every frame of the log is as it was written.
 * - `finish`: copies the rest and starts the log afresh; commits must rest meanwhile.
 * - `close`: copies the rest, empties the log and disconnects; nobody commits any more.
 */
export type CheckpointAsk =
  | { readonly id: number; readonly step: "open"; readonly path: string; readonly descriptor: number }
  | { readonly id: number; readonly step: "backfill" | "verify" | "finish" | "close" };
export interface CheckpointAnswer {
  readonly id: number;
  /** What went wrong, in SQLite's words, for the log; and its number there, or a system call's below zero. */
  readonly fault?: { readonly message: string; readonly errno: number };
}

/** How long the worker waits for a foreign reader or writer, e.g. somebody's sqlite3 shell. */
const BUSY_MS = 250;

// Of sqlite3.h.
const BUSY = 5;
const CORRUPT = 11;
const fault = (message: string, errno: number) => Object.assign(new Error(message), { errno });

let writer: Database | undefined;
let holder: Database | undefined;
let file = -1;

const steps = {
  open(path: string, descriptor: number) {
    file = descriptor;
    writer = new Database(path, { readwrite: true, create: false });
    writer.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
    writer.run("PRAGMA synchronous = NORMAL");
    writer.run("PRAGMA wal_autocheckpoint = 0");
    holder = new Database(path, { readonly: true });
    holder.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
  },
  backfill() {
    // A log that was copied whole is restarted by the next commit, and the restart's fsync would stop the event loop.
    // An open read transaction keeps it from being restarted until `finish`.
    letGo();
    holder?.run("BEGIN");
    holder?.query("SELECT epoch FROM store").get();
    checkpoint("PASSIVE");
    // SQLite syncs the file only with the last frame copied; what is synced now need not be while commits wait.
    fdatasyncSync(file);
  },
  verify() {
    const frames = Number(writer?.query("PRAGMA wal_checkpoint(NOOP)").values()[0]?.[1]);
    const intact = intactFrames(`${writer?.filename}-wal`);
    if (intact < frames) throw fault(`${intact} of the log's ${frames} frames are intact`, CORRUPT);
  },
  finish() {
    letGo();
    checkpoint("RESTART");
    // The first commit after a restart writes the log's new header and syncs it: this one does, so that no other does.
    writer?.run("UPDATE store SET wal_restarts = wal_restarts + 1");
  },
  close() {
    letGo();
    try {
      checkpoint("TRUNCATE");
    } finally {
      holder?.close();
      writer?.close();
    }
  },
};

function letGo() {
  if (holder?.inTransaction) holder.run("COMMIT");
}

function checkpoint(mode: "PASSIVE" | "RESTART" | "TRUNCATE") {
  const row = writer?.query(`PRAGMA wal_checkpoint(${mode})`).values()[0];
  if (mode !== "PASSIVE" && row?.[0] !== 0) throw fault("somebody else reads or writes the file", BUSY);
}

parentPort?.on("message", (ask: CheckpointAsk) => {
  let answer: CheckpointAnswer = { id: ask.id };
  try {
    if (ask.step === "open") steps.open(ask.path, ask.descriptor);
    else steps[ask.step]();
  } catch (error) {
    const { message, errno } = error as Error & { errno?: number };
    answer = { id: ask.id, fault: { message, errno: errno ?? 0 } };
  }
  parentPort?.postMessage(answer);
});
