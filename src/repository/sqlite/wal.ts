/** The event loop's end of the write-ahead log: syncs it in the thread pool and has a worker keep it small. */

import type { Database } from "bun:sqlite";
import { closeSync, fdatasync, fstatSync, openSync, readlinkSync, type Stats, statSync } from "node:fs";
import { dirname } from "node:path";
import type { CheckpointAnswer, CheckpointAsk } from "./checkpoint.ts";
import { readSalts } from "./companion.ts";
import { OperatorFault } from "./faults.ts";
import { isSameFile } from "./folder.ts";
import type { Recovery } from "./recovery.ts";

export interface Wal {
  /** Settles when all that was committed before the call is on disk, or rejects when that is unknown. */
  sync(): Promise<void>;
  /** Bytes of the log that are in use. */
  bytes(): number;
  /** What tells this log from the one before, once it has begun. */
  salts(): string;
  /**
   * What happened to the names of the open files, in words that follow "the file"; undefined where each name still leads to
   * its file. What is written to a file without its name would not be found again.
   */
  displaced(): string | undefined;
  /** Whether the name of the database file leads to it. */
  isInPlace(): boolean;
  /** Has the worker copy what it can while commits go on. */
  backfill(): Promise<void>;
  /** Has the worker copy the rest and start the log afresh. No commit and no read transaction may run meanwhile. */
  finish(): Promise<void>;
  /** Has the worker commit a trifle, unsynced: it shows whether the file can be written. */
  touch(): Promise<void>;
  /** Has the worker empty the log, and lets go of both. Rejects when the log is left as it is. */
  close(): Promise<void>;
  /** Has the worker disconnect. The connections here must still be open. */
  dismiss(): Promise<void>;
  /** Lets go of both and leaves the log as it is. The connections here must still be open. */
  leave(): Promise<void>;
}

/** How long SQLite may wait for a foreign lock on the event loop; longer waits are ours, off it. */
export const LOOP_BUSY_MS = 5;

/** A frame's header, https://sqlite.org/fileformat2.html#walformat */
const FRAME_HEADER_BYTES = 24;

/** How soon after the opening the worker is started, and the module that starts it is loaded. */
const WORKER_START_MS = 100;

/** How long the end of a worker that died is waited for. */
const WORKER_END_MS = 1_000;

/**
 * @param writer the connection that commits; it must have opened the log
 * @param path of the database file
 * @param descriptor of the database file, may be written; to be closed by the caller when no connection is open any more
 */
export function openWal(writer: Database, path: string, descriptor: number): Wal {
  const pageBytes = Number(writer.query("PRAGMA page_size").values()[0]?.[0]);
  // Looks at the log without touching it; answers [busy, frames in the log, frames copied].
  const look = writer.prepare("PRAGMA wal_checkpoint(NOOP)");
  // The log is one file from the first connection's opening to the last one's closing. Unlike the database file and its
  // -shm it holds no POSIX locks that the closing of another descriptor would drop.
  const log = openSync(`${path}-wal`, "r");
  const file = watchName(path, fstatSync(descriptor));
  const index = watchName(`${path}-shm`);
  const isLogInPlace = watchOpen(log, `${path}-wal`);
  const isFolderUnchanged = watchFolder(dirname(path));
  function lookAtNames(): string | undefined {
    if (!file()) return "was moved or replaced while it was open";
    if (!isLogInPlace()) return "has lost its log: -wal was removed or replaced while it was open";
    if (!index()) return "has lost the index of its log: -shm was removed or replaced while it was open";
    return undefined;
  }
  let fault: string | undefined;
  function displaced(): string | undefined {
    // Before the look at the names, so that a change during it is seen the next time.
    const isUnchanged = isFolderUnchanged();
    if (!isUnchanged || fault !== undefined) fault = lookAtNames();
    return fault;
  }

  let worker: CheckpointWorker | undefined;
  function start(): CheckpointWorker {
    // It opens the log by its name.
    const lost = displaced();
    if (lost !== undefined) throw new OperatorFault(lost);
    return startWorker((id) => ({ id, step: "open", path, descriptor }));
  }
  // Not while the program starts, of which it would take a third, nor when the log is long already: then acks would wait for it.
  const soon = setTimeout(() => {
    if (displaced() === undefined) worker ??= start();
  }, WORKER_START_MS);
  soon.unref();
  /** Asks the worker; one that died is replaced. */
  async function ask(step: Step): Promise<void> {
    worker ??= start();
    const asked = worker;
    try {
      await asked.begun;
      await asked.ask(step);
    } finally {
      if (asked.isDead() && worker === asked) worker = undefined;
    }
  }
  async function dismiss() {
    clearTimeout(soon);
    const dismissed = worker;
    worker = undefined;
    if (dismissed === undefined) return;
    const hasLeft = await dismissed.ask("leave").then(
      () => true,
      () => false,
    );
    const ended = dismissed.terminate();
    // One that died leaves its connections when its thread has ended. Else its end is not waited for: on Bun it never comes
    // once the wall clock was set forward.
    if (!hasLeft) await Promise.race([ended, Bun.sleep(WORKER_END_MS)]);
  }
  async function leave() {
    await dismiss();
    look.finalize();
    closeSync(log);
  }

  const sync = () =>
    new Promise<void>((resolve, reject) => fdatasync(log, (error) => (error ? reject(error) : resolve())));

  return {
    sync,
    bytes: () => Math.max(0, Number(look.values()[0]?.[1])) * (pageBytes + FRAME_HEADER_BYTES),
    salts: () => readSalts(log),
    displaced,
    isInPlace: file,
    backfill: () => ask("backfill"),
    finish: () => ask("finish"),
    touch: () => ask("touch"),
    // Where a foreign connection keeps the log's name, the end of its content is put on disk too.
    close: () => ask("close").then(sync).finally(leave),
    dismiss,
    leave,
  };
}

/** How long the names in a folder that seems unchanged are believed: its time may be as coarse as a tick of the kernel's clock. */
const FOLDER_BELIEVED_MS = 1_000;

/**
 * Tells whether the folder is as it was when this was asked last, and that is not long ago: then every name in it leads where
 * it did. It takes a fifth of what it takes to look at each of them, and is asked after each sync.
 */
function watchFolder(folder: string): () => boolean {
  let seen: Stats | undefined;
  let seenAt = Number.NEGATIVE_INFINITY;
  return () => {
    const now = performance.now();
    const found = statOf(folder);
    const isSame = isSameStats(found, seen) && found?.mtimeMs === seen?.mtimeMs;
    if (isSame && now - seenAt < FOLDER_BELIEVED_MS) return true;
    [seen, seenAt] = [found, now];
    return false;
  };
}

/** Tells whether the name still leads to this file. */
const watchName =
  (name: string, file = statOf(name)) =>
  () =>
    isSameStats(statOf(name), file);

const isSameStats = (one: Stats | undefined, other: Stats | undefined) =>
  one === undefined || other === undefined ? one === other : isSameFile(one, other);

/**
 * The same of the open log, without asking for its status: Linux gives a file whose times were asked for a new time at its
 * next write, and a sync behind such a write takes a fifth longer.
 */
function watchOpen(descriptor: number, name: string): () => boolean {
  const link = `/proc/self/fd/${descriptor}`;
  const isNamed = () => readlinkSync(link) === name;
  try {
    if (isNamed()) return isNamed;
  } catch {
    // A system without such links.
  }
  return watchName(name, fstatSync(descriptor));
}

/** Undefined where the name leads nowhere, or cannot even be followed. */
function statOf(name: string): Stats | undefined {
  try {
    return statSync(name, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

/** Recovers in a worker's thread, for a store that runs. No connection may be open. */
export async function recoverAside(recovery: Recovery): Promise<void> {
  const worker = startWorker((id) => ({ id, step: "recover", recovery }));
  await worker.begun.finally(() => void worker.terminate());
}

type Step = Exclude<CheckpointAsk["step"], "open" | "recover">;
type CheckpointWorker = ReturnType<typeof startWorker>;

function startWorker(first: (id: number) => CheckpointAsk) {
  const waiting = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
  let asked = 0;
  let dead: Error | undefined;
  // In a compiled program the worker is an entry point of its own, found by name beside the main one: it has to be built
  // with entry naming "[name].[ext]".
  const { Worker } = process.getBuiltinModule("node:worker_threads");
  const worker = new Worker(new URL("./checkpoint.ts", import.meta.url));
  worker.on("message", ({ id, fault }: CheckpointAnswer) => {
    const asker = waiting.get(id);
    waiting.delete(id);
    if (waiting.size === 0) worker.unref();
    if (fault === undefined) asker?.resolve();
    else if (fault.isOperators) asker?.reject(new OperatorFault(fault.message));
    else asker?.reject(Object.assign(new Error(fault.message), { errno: fault.errno }));
  });
  const die = (cause?: unknown) => {
    dead ??= new Error("the checkpoint worker ended", { cause });
    for (const asker of waiting.values()) asker.reject(dead);
    waiting.clear();
  };
  worker.on("error", die);
  worker.on("exit", () => die());
  const send = (message: (id: number) => CheckpointAsk) =>
    new Promise<void>((resolve, reject) => {
      if (dead !== undefined) throw dead;
      const id = ++asked;
      waiting.set(id, { resolve, reject });
      worker.ref();
      worker.postMessage(message(id));
    });

  const terminate = async () => {
    die();
    await worker.terminate();
  };
  const begun = send(first).catch((error) => {
    void terminate();
    throw error;
  });
  // The asker hears of it.
  begun.catch(() => {});
  return {
    begun,
    isDead: () => dead !== undefined,
    ask: (step: Step) => send((id) => ({ id, step })),
    terminate,
  };
}
