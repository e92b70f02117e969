/**
 * The worker that moves what was committed from the write-ahead log into the database file: its fsyncs never meet the
 * event loop. It runs in its own thread with its own connections; the other end is wal.ts.
 */

import { Database } from "bun:sqlite";
import { fdatasyncSync } from "node:fs";
import { parentPort } from "node:worker_threads";
import { isBusy, OperatorFault } from "./faults.ts";
import { type Recovery, recover } from "./recovery.ts";
import { beginLog, TRIAL } from "./schema.ts";

/**
 * - `open`: connects; the descriptor is one of the database file, and the asker closes it.
 * - `backfill`: copies what it can while commits go on.
 * - `finish`: copies the rest and starts the log afresh; commits must rest meanwhile.
 * - `touch`: writes a trifle.
 * - `close`: copies the rest, empties the log and disconnects; no commit follows.
 * - `leave`: disconnects and leaves the log as it is; others must be connected.
 * - `recover`: as at the start (recovery.ts); nothing may be connected, and nothing else is asked of this worker.
 */
export type CheckpointAsk =
  | { readonly id: number; readonly step: "open"; readonly path: string; readonly descriptor: number }
  | { readonly id: number; readonly step: "recover"; readonly recovery: Recovery }
  | { readonly id: number; readonly step: "backfill" | "finish" | "touch" | "close" | "leave" };
export interface CheckpointAnswer {
  readonly id: number;
  /** What went wrong, for the log; its number, SQLite's or below zero a system call's; whether it is an OperatorFault. */
  readonly fault?: { readonly message: string; readonly errno: number; readonly isOperators: boolean };
}

/** How long the worker waits for a foreign reader or writer, e.g. an operator's sqlite3 shell, while commits wait for it. */
const BUSY_MS = 20;

// Of sqlite3.h.
const BUSY = 5;
const NOT_OPEN = 14;
const fault = (message: string, errno: number) => Object.assign(new Error(message), { errno });

let writer: Database | undefined;
let holder: Database | undefined;
let file = -1;

const steps = {
  open(path: string, descriptor: number): void {
    file = descriptor;
    writer = new Database(path, { readwrite: true, create: false });
    writer.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
    writer.run("PRAGMA synchronous = NORMAL");
    writer.run("PRAGMA wal_autocheckpoint = 0");
    holder = new Database(path, { readonly: true });
    holder.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
  },
  backfill(): void {
    // A log that was copied whole is restarted by the next commit, and the restart's fsync would stop the event loop.
    // An open read transaction keeps it from being restarted until `finish`.
    letGo();
    hold();
    checkpoint("PASSIVE");
    // SQLite syncs the file only with the last frame copied, and takes what it has copied for done: this sync is the only
    // one that those pages get. It also need not be made while commits wait.
    fdatasyncSync(file);
  },
  finish(): void {
    letGo();
    try {
      checkpoint("RESTART");
    } catch (error) {
      // All of it may be copied, and a foreign process only reads it still: the next commit would start it afresh, and sync.
      if (isBusy(error)) steps.touch();
      throw error;
    }
    // The first commit after a restart writes the log's new header and syncs it: this one does, so that no other does.
    if (writer !== undefined) beginLog(writer);
  },
  touch(): void {
    writer?.run(TRIAL);
  },
  close(): void {
    letGo();
    try {
      checkpoint("TRUNCATE");
    } finally {
      // Where a foreign process reads, some of the log was copied and stays in it, too.
      fdatasyncSync(file);
      steps.leave();
    }
  },
  leave(): void {
    holder?.close();
    writer?.close();
  },
};

function hold() {
  holder?.run("BEGIN");
  holder?.query("SELECT epoch FROM store").get();
}

function letGo() {
  if (holder?.inTransaction) holder.run("COMMIT");
}

function checkpoint(mode: "PASSIVE" | "RESTART" | "TRUNCATE") {
  if (writer === undefined) throw fault("the worker is not connected", NOT_OPEN);
  const [busy] = writer.query(`PRAGMA wal_checkpoint(${mode})`).values()[0] as number[];
  if (mode !== "PASSIVE" && busy !== 0) throw fault("another program reads or writes the file", BUSY);
}

parentPort?.on("message", (ask: CheckpointAsk) => {
  let reply: CheckpointAnswer = { id: ask.id };
  try {
    if (ask.step === "open") steps.open(ask.path, ask.descriptor);
    else if (ask.step === "recover") recover(ask.recovery);
    else steps[ask.step]();
  } catch (error) {
    const { message, errno = 0 } = error as Error & { errno?: number };
    reply = { id: ask.id, fault: { message, errno, isOperators: error instanceof OperatorFault } };
  }
  parentPort?.postMessage(reply);
});
