/** The connections of a store that runs, and how its log begins. */

import { Database } from "bun:sqlite";
import { fstatSync, statSync } from "node:fs";
import type { Epoch } from "../../domain/ids.ts";
import { LIMITS } from "../../limits.ts";
import { createAppender } from "./append.ts";
import { OperatorFault } from "./faults.ts";
import type { Hold } from "./hold.ts";
import { createReads, type Reads } from "./reads.ts";
import { beginLog, migrate, readPragma } from "./schema.ts";
import { LOOP_BUSY_MS, openWal, recoverAside, type Wal } from "./wal.ts";

export interface Connections {
  /** Commits. */
  readonly writer: Database;
  /** Reads only. */
  readonly reader: Database;
  readonly wal: Wal;
}

/**
 * Connects to a file of which nothing is in doubt.
 * @param isVerified whether a small file's structure is known to be whole
 */
export function connect({ path, descriptor }: Hold, { isVerified }: { isVerified: boolean }): Connections {
  const writer = new Database(path, { readwrite: true, create: false });
  let reader: Database | undefined;
  try {
    writer.run(`PRAGMA busy_timeout = ${LIMITS.storeTimeoutMs}`);
    if (!isVerified && fstatSync(descriptor).size <= LIMITS.verifiedAtStartBytes) {
      const verdict = writer.query("PRAGMA quick_check(1)").values()[0]?.[0];
      if (verdict !== "ok") throw new OperatorFault("is corrupt");
    }
    const mode = writer.query("PRAGMA journal_mode = WAL").values()[0]?.[0];
    if (mode !== "wal") throw new OperatorFault("cannot have a write-ahead log where it lies");
    writer.run("PRAGMA wal_autocheckpoint = 0");
    // The log that begins next builds upon a file that has the schema.
    if (migrate(writer, path)) {
      const [busy] = writer.query("PRAGMA wal_checkpoint(TRUNCATE)").values()[0] as number[];
      if (busy !== 0)
        throw new OperatorFault(
          "is read by another program while it is brought to this version: close that program",
        );
    }
    // NORMAL syncs a restarted log's header before frames follow it, and nothing else on a commit: that is ours to do.
    writer.run("PRAGMA synchronous = NORMAL");
    writer.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
    reader = new Database(path, { readonly: true });
    reader.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
    return { writer, reader, wal: openWal(writer, path, descriptor) };
  } catch (error) {
    // The last one to close must not be the one that would copy the log and remove it.
    writer.close();
    reader?.close();
    throw error;
  }
}

/** Closes them and leaves the log as it is: the last connection copies it and removes it if it may write, the reader may not. */
export async function disconnect({ writer, reader, wal }: Connections): Promise<void> {
  await wal.leave();
  writer.close();
  reader.close();
}

/**
 * Begins the log and puts it on disk; with an epoch, which it then has, what the companion says as well.
 * Rejects when a sync failed.
 */
export async function begin({ writer, wal }: Connections, hold: Hold, epoch?: Epoch): Promise<void> {
  const isNew = !hasLog(hold.path);
  // The companion first: after a power failure the store must not know of an epoch that its companion lacks.
  if (epoch !== undefined) await hold.companion.sync();
  // An empty log's first commit writes its header and syncs it, on the event loop: so it is made before anyone waits, and
  // synced with the rest. That is safe where no frames of a former log can stand behind the header.
  if (isNew) writer.run("PRAGMA synchronous = OFF");
  // A new epoch must be written before anything is told of it, however long a foreign process holds the file.
  if (epoch !== undefined) writer.run(`PRAGMA busy_timeout = ${LIMITS.storeTimeoutMs}`);
  try {
    beginLog(writer, { isNew, epoch });
    markLog({ writer, wal }, hold);
  } catch (error) {
    if (epoch !== undefined) throw error;
    // The disk is full, or a foreign process has a lock: what is there can be read, and the first commit writes the header.
  } finally {
    writer.run("PRAGMA synchronous = NORMAL");
    writer.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
  }
  await wal.sync();
}

/** Tells the companion on which state of the file the log builds, where the log has begun afresh. */
export function markLog({ writer, wal }: Pick<Connections, "writer" | "wal">, { companion }: Hold): void {
  const salts = wal.salts();
  if (companion.read()?.log?.salts === salts) return;
  const number = Number(writer.query("SELECT wal_restarts FROM store").values()[0]?.[0]) - 1;
  companion.write({ log: { salts, number, cookie: readPragma(writer, "schema_version"), ended: false } });
}

/** Whether a process before has left a log with something in it. */
export const hasLog = (path: string): boolean =>
  Number(statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0) > 0;

/** After doubt: recovers as at the start, off the event loop, and connects again. Nothing may be connected. */
export async function reconnect(hold: Hold): Promise<Connections> {
  const { path, descriptor, companion } = hold;
  const mark = companion.read()?.log ?? null;
  if (hasLog(path)) await recoverAside({ path, descriptor, mark, isSound: false });
  const connections = connect(hold, { isVerified: true });
  try {
    await begin(connections, hold);
    return connections;
  } catch (error) {
    await disconnect(connections);
    throw error;
  }
}

/**
 * The connections with the statements that run on them, and the view that reads have. `finalize` ends the statements only.
 */
export function attach(connections: Connections, epoch: Epoch) {
  const { writer, reader } = connections;
  const appender = createAppender(writer, epoch);
  const reads = createReads(reader, epoch);
  const [begin, end] = [reader.prepare("BEGIN"), reader.prepare("COMMIT")];
  const takeView = reader.prepare("SELECT epoch FROM store");
  return {
    ...connections,
    appender,
    reads,
    /** From here on reads see what is on disk now, whatever is committed; until `show`. */
    freezeView() {
      begin.run();
      takeView.values();
    },
    show() {
      if (reader.inTransaction) end.run();
    },
    /** Runs a read in one view: the one that was frozen before an unsynced commit, else one of its own. */
    read<T>(work: (reads: Reads) => T): T {
      if (reader.inTransaction) return work(reads);
      begin.run();
      try {
        return work(reads);
      } finally {
        end.run();
      }
    },
    finalize() {
      appender.finalize();
      reads.finalize();
      for (const statement of [begin, end, takeView]) statement.finalize();
    },
  };
}
