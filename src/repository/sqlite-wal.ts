/** The event loop's end of the write-ahead log: syncs it in the thread pool and has a worker keep it small. */

import type { Database } from "bun:sqlite";
import { closeSync, fdatasync, openSync } from "node:fs";
import { Worker } from "node:worker_threads";
import type { CheckpointAnswer, CheckpointAsk } from "./sqlite-checkpoint.ts";

export interface Wal {
  /** Settles when all that was committed before the call is on disk, or rejects when that is unknown. */
  sync(): Promise<void>;
  /** Bytes of the log that are in use. */
  bytes(): number;
  /** Has the worker copy what it can while commits go on. */
  backfill(): Promise<void>;
  /** Has the worker find out whether the log is readable as it was written; rejects when it is not. */
  verify(): Promise<void>;
  /** Has the worker copy the rest and start the log afresh. Nobody may commit or hold a read transaction meanwhile. */
  finish(): Promise<void>;
  /** Has the worker empty the log, and lets go of both. */
  close(): Promise<void>;
  /** Lets go of the worker and leaves the log as it is. */
  abandon(): void;
}

/** A frame's header, https://sqlite.org/fileformat2.html#walformat */
const FRAME_HEADER_BYTES = 24;

/**
 * @param writer the connection that commits; it must have opened the log
 * @param path of the database file
 * @param descriptor of the database file, to be closed by the caller when no connection is open any more
 */
export async function openWal(writer: Database, path: string, descriptor: number): Promise<Wal> {
  const pageBytes = Number(writer.query("PRAGMA page_size").values()[0]?.[0]);
  // Looks at the log without touching it; answers [busy, frames in the log, frames copied].
  const look = writer.prepare("PRAGMA wal_checkpoint(NOOP)");
  // The log is one file from the first connection's opening to the last one's closing. Unlike the database file and its
  // -shm it holds no POSIX locks that the closing of another descriptor would drop.
  const log = openSync(`${path}-wal`, "r");

  type Step = CheckpointAsk["step"];
  const waiting = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
  let asked = 0;
  // In a compiled program the worker is an entry point of its own, found by name beside the main one: it has to be built
  // with entry naming "[name].[ext]".
  const worker = new Worker(new URL("./sqlite-checkpoint.ts", import.meta.url));
  worker.on("message", ({ id, fault }: CheckpointAnswer) => {
    const asker = waiting.get(id);
    waiting.delete(id);
    if (waiting.size === 0) worker.unref();
    if (fault === undefined) asker?.resolve();
    else asker?.reject(Object.assign(new Error(fault.message), { errno: fault.errno }));
  });
  worker.on("error", (error: unknown) => {
    for (const asker of waiting.values()) asker.reject(new Error("the worker failed", { cause: error }));
    waiting.clear();
  });
  const ask = (step: Step) =>
    new Promise<void>((resolve, reject) => {
      const id = ++asked;
      waiting.set(id, { resolve, reject });
      worker.ref();
      worker.postMessage(
        (step === "open" ? { id, step, path, descriptor } : { id, step }) satisfies CheckpointAsk,
      );
    });

  await ask("open");
  return {
    sync: () =>
      new Promise((resolve, reject) => fdatasync(log, (error) => (error ? reject(error) : resolve()))),
    bytes: () => Number(look.values()[0]?.[1]) * (pageBytes + FRAME_HEADER_BYTES),
    backfill: () => ask("backfill"),
    verify: () => ask("verify"),
    finish: () => ask("finish"),
    async close() {
      try {
        await ask("close");
      } finally {
        void worker.terminate();
        look.finalize();
        closeSync(log);
      }
    },
    abandon: () => void worker.terminate(),
  };
}
