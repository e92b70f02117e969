/**
 * The embedded store: one SQLite file. A batch is committed on the event loop, which takes microseconds, and then its
 * log is synced in the thread pool; only when that has ended is anybody told or shown anything (docs/adr/0002).
 */

import { Database } from "bun:sqlite";
import { closeSync, fstatSync, openSync, statSync } from "node:fs";
import type { Epoch } from "../domain/ids.ts";
import { parseEpoch } from "../domain/ids.ts";
import type { Draft } from "../domain/message.ts";
import { assert, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { AppendResult, MessageRepository, RepositoryWorld, StoreStatus } from "./repository.ts";
import { type Appended, createAppender } from "./sqlite-append.ts";
import { downReason, isBusy, isCorrupt, startFault, syncFailed } from "./sqlite-faults.ts";
import { syncFolders, truePath } from "./sqlite-folder.ts";
import { lockFile } from "./sqlite-lock.ts";
import { makeStore } from "./sqlite-making.ts";
import { createReads } from "./sqlite-reads.ts";
import { createRevisions } from "./sqlite-revisions.ts";
import { migrate, TOUCH, writeEpoch } from "./sqlite-schema.ts";
import { openWal, type Wal } from "./sqlite-wal.ts";

export interface SqliteWorld extends RepositoryWorld {
  /** The database file; its folder is made where it is missing. */
  readonly path: string;
}

/** Opens or makes the store. Rejects with an Error of one line for the operator when the file cannot be used. */
export async function openSqliteRepository(world: SqliteWorld): Promise<MessageRepository> {
  const { path, madeIn } = truePath(world.path);
  let lock: ReturnType<typeof lockFile>;
  try {
    lock = lockFile(path);
  } catch (error) {
    throw startFault(path, error);
  }
  let writer: Database | undefined;
  let reader: Database | undefined;
  // Closing any descriptor of the file drops the POSIX locks that this process holds on it, so this one outlives every
  // connection.
  let descriptor: number | undefined;
  /** The last connection that closes copies and removes the log if it may write: the reader may not. */
  const letGo = ({ keepLog }: { keepLog: boolean }) => {
    for (const database of keepLog ? [writer, reader] : [reader, writer]) database?.close();
    if (descriptor !== undefined) closeSync(descriptor);
    lock.release();
  };
  try {
    makeStore(path, world.newEpoch());
    writer = openWriter(path);
    const epoch = epochOf(writer, world.newEpoch);
    descriptor = openSync(path, "r+");
    reader = new Database(path, { readonly: true });
    reader.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
    const wal = openWal(writer, path, descriptor);
    await beginLog(wal, writer).catch(async (error) => {
      await wal.leave();
      throw new Error(`SQLite file ${path} cannot be written (${(error as Error).message})`);
    });
    syncFolders(path, madeIn);
    return createSqliteRepository({ world, path, descriptor, letGo, writer, reader, wal, epoch });
  } catch (error) {
    letGo({ keepLog: true });
    throw startFault(path, error);
  }
}

/**
 * What a killed process left in the log was committed but perhaps never synced: nobody may see it before it is. Of what
 * was copied from it a sync may have failed; SQLite copies it again, but not where a foreign process has held the file
 * open all the while.
 */
async function beginLog(wal: Wal, writer: Database): Promise<void> {
  // The usual start: nobody waits for the worker, which a program that has just begun is slow to start.
  if (!wal.isPartlyCopied()) {
    writeHeader(writer);
    return wal.sync();
  }
  await wal.mend();
  await wal.finish().catch((error) => {
    if (!isBusy(error)) throw error;
    return wal.sync();
  });
}

/**
 * An empty log's first commit writes its header and syncs it, on the event loop: so it is made before anybody waits, and
 * synced with the rest. Nothing was copied from this log, so that no frames of a former life stand behind the header.
 */
function writeHeader(writer: Database): void {
  writer.run("PRAGMA synchronous = OFF");
  try {
    writer.run(TOUCH);
  } catch {
    // A disk that is full, or somebody's lock: what is there can be read, and the first commit writes the header.
  } finally {
    writer.run("PRAGMA synchronous = NORMAL");
  }
}

/** How long SQLite may wait for a foreign lock on the event loop; longer waits are ours, off it. */
const LOOP_BUSY_MS = 5;

function openWriter(path: string): Database {
  const writer = new Database(path, { create: true, readwrite: true });
  try {
    writer.run(`PRAGMA busy_timeout = ${LIMITS.storeTimeoutMs}`);
    if (statSync(path).size <= LIMITS.verifiedAtStartBytes) {
      const verdict = writer.query("PRAGMA quick_check(1)").values()[0]?.[0];
      if (verdict !== "ok") throw new Error(`SQLite file ${path} is corrupt`);
    }
    const mode = writer.query("PRAGMA journal_mode = WAL").values()[0]?.[0];
    if (mode !== "wal") throw new Error(`SQLite file ${path} cannot have a write-ahead log where it lies`);
    writer.run("PRAGMA wal_autocheckpoint = 0");
    migrate(writer, path);
    // NORMAL syncs a restarted log's header before frames follow it, and nothing else on a commit: that is ours to do.
    writer.run("PRAGMA synchronous = NORMAL");
    writer.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
    return writer;
  } catch (error) {
    writer.close();
    throw error;
  }
}

function epochOf(writer: Database, newEpoch: () => Epoch): Epoch {
  writeEpoch(writer, newEpoch());
  const epoch = parseEpoch(String(writer.query("SELECT epoch FROM store").values()[0]?.[0]));
  assert(epoch !== undefined, "the store's epoch is one");
  return epoch;
}

interface Parts {
  readonly world: SqliteWorld;
  readonly path: string;
  readonly descriptor: number;
  /** Closes the connections and frees the file. */
  readonly letGo: (how: { keepLog: boolean }) => void;
  readonly writer: Database;
  readonly reader: Database;
  readonly wal: Wal;
  readonly epoch: Epoch;
}

function createSqliteRepository({
  world,
  path,
  descriptor,
  letGo,
  writer,
  reader,
  wal,
  epoch,
}: Parts): MessageRepository {
  const { log } = world;
  const appender = createAppender(writer);
  const reads = createReads(reader, epoch);
  const revisions = createRevisions(writer);
  const [begin, end] = [reader.prepare("BEGIN"), reader.prepare("COMMIT")];
  const takeView = reader.prepare("SELECT epoch FROM store");

  let status: StoreStatus = { up: true };
  let closed: Promise<void> | undefined;
  /** The connections are closed: what was begun before `close` has ended. */
  let gone = false;
  /** A sync failed: what was written may be lost, so nothing is shown or added until it was written again. */
  let doubtful = false;
  /** The file was found corrupt: before the log starts afresh it must give the file once more what it has. */
  let corrupt = false;
  /** The file was moved away or removed: what is written to it nobody would find again. */
  let astray = false;
  const inode = fstatSync(descriptor).ino;
  /** The tail of those who want to write or to restart the log: one at a time, in order. */
  let turns: Promise<unknown> = Promise.resolve();
  let checkpoint: Promise<void> | undefined;
  let checkpointNotBefore = 0;
  let lastCommitAt = 0;
  let retryMs: number = LIMITS.storeRetryMinMs;
  let failedAt = Number.NEGATIVE_INFINITY;
  let retry: ReturnType<typeof setTimeout> | undefined;

  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const turn = turns.then(work);
    turns = turn.catch(() => {});
    return turn;
  };

  /** From here on reads see what is on disk now, whatever is committed; until `showAll`. */
  function freezeView() {
    begin.run();
    takeView.values();
  }
  function showAll() {
    show();
    revisions.allChanged();
  }
  function show() {
    if (reader.inTransaction) end.run();
  }

  function unavailable(cause: unknown): ChatError {
    return new ChatError("storage_unavailable", { cause });
  }

  function refuseWhileUnsafe() {
    if (doubtful) throw unavailable("a sync failed");
    if (astray) throw unavailable(ASTRAY);
  }

  function failed(cause: unknown): ChatError {
    if (status.up) log.error("store_failed", { kind: "sqlite", error: cause });
    status = { up: false, reason: downReason(cause) };
    if (isCorrupt(cause)) corrupt = true;
    // A fault that comes again and again, e.g. a corrupt page that somebody reads, is not worth an attempt each time.
    if (performance.now() - failedAt > 2 * LIMITS.storeRetryMaxMs) retryMs = LIMITS.storeRetryMinMs;
    failedAt = performance.now();
    if (retry === undefined && closed === undefined) {
      retry = setTimeout(() => void recover(), retryMs);
      retry.unref();
      retryMs = Math.min(retryMs * 2, LIMITS.storeRetryMaxMs);
    }
    return unavailable(cause);
  }

  /** A sync of the log or the file failed, or nobody knows: from here on nothing is built upon what may be lost. */
  function doubted(cause: unknown): ChatError {
    doubtful = true;
    return failed(cause);
  }

  /** What a failed sync may have lost is written again and synced, the log and what was copied from it. */
  async function mend() {
    if (!doubtful && !corrupt) return;
    await wal.mend();
    // Until here the frozen view has kept every checkpoint from what was in doubt.
    showAll();
    // A page that was read meanwhile may have been the one of before.
    for (const connection of [writer, reader]) connection.run("PRAGMA shrink_memory");
    doubtful = false;
    corrupt = false;
  }

  /**
   * Tries whether the store can be written again. After a failed sync the kernel may have forgotten which pages never
   * reached the disk, so it is no use to sync again what was not written again.
   */
  async function recover() {
    retry = undefined;
    await inTurn(async () => {
      if (closed !== undefined) return;
      try {
        astray = isAstray();
        if (astray) throw ASTRAY;
        await mend();
        showAll();
        // While somebody's shell reads, the log cannot start afresh, but it may grow.
        await wal.finish().catch(async (error) => {
          if (!isBusy(error)) throw error;
          await wal.touch();
        });
        await wal.sync();
        log.info("store_recovered", { kind: "sqlite" });
        status = { up: true };
      } catch (error) {
        if (error !== ASTRAY && syncFailed(error)) doubted(error);
        else failed(error);
      }
    });
  }

  /** Keeps the log short: mostly while commits go on, and in the end with commits waiting. */
  function startCheckpoint() {
    if (checkpoint !== undefined || closed !== undefined || performance.now() < checkpointNotBefore) return;
    checkpoint = (async () => {
      try {
        await wal.backfill();
        await inTurn(async () => {
          if (!gone && !doubtful && !corrupt) await wal.finish();
        });
      } catch (error) {
        log.warn("wal_checkpoint_failed", { error });
        // Somebody's shell may read the file: commits go on, the log grows until that ends. What is mended may try at once.
        if (syncFailed(error)) doubted(error);
        else checkpointNotBefore = performance.now() + 1_000;
      } finally {
        checkpoint = undefined;
      }
    })();
  }

  /** The log's length; to learn it must not fail what it is learnt for. */
  function logBytes(): number {
    // Not while a batch is being written: the log is looked at when it has been.
    if (writer.inTransaction) return 0;
    try {
      return wal.bytes();
    } catch (error) {
      failed(error);
      return 0;
    }
  }

  const isAstray = () => statSync(path, { throwIfNoEntry: false })?.ino !== inode;

  const idle = setInterval(() => {
    if (!status.up) return;
    astray = isAstray();
    if (astray) failed(ASTRAY);
    else if (performance.now() - lastCommitAt >= LIMITS.walIdleMs && logBytes() > LIMITS.walIdleBytes)
      startCheckpoint();
  }, LIMITS.walIdleMs);
  idle.unref();

  async function commit(drafts: readonly Draft[], deadline: number): Promise<readonly AppendResult[]> {
    if (gone) throw unavailable("the store is closed");
    refuseWhileUnsafe();
    // Nobody waits for it any more.
    if (performance.now() > deadline) throw unavailable("the store is busy");
    let committed: Appended;
    try {
      freezeView();
      committed = await appender.commit(drafts);
    } catch (error) {
      showAll();
      if (!isBusy(error) || performance.now() > deadline) throw failed(error);
      await Bun.sleep(LOOP_BUSY_MS);
      return commit(drafts, deadline);
    }
    if (committed.written) {
      try {
        await wal.sync();
      } catch (error) {
        throw doubted(error);
      }
    }
    // From here on it is stored: whatever fails now is not this batch's.
    try {
      show();
      revisions.stored(
        committed.results.flatMap((result) => (result.kind === "stored" ? [result.message] : [])),
      );
    } catch (error) {
      failed(error);
    }
    lastCommitAt = performance.now();
    if (logBytes() > LIMITS.walCheckpointBytes) startCheckpoint();
    return committed.results;
  }

  async function append(drafts: readonly Draft[]): Promise<readonly AppendResult[]> {
    if (closed !== undefined) throw unavailable("the store is closed");
    const deadline = performance.now() + LIMITS.storeTimeoutMs;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(failed("the store is too slow")), LIMITS.storeTimeoutMs);
    });
    try {
      if (checkpoint !== undefined && logBytes() > LIMITS.walBytesMax) await Promise.race([checkpoint, late]);
      return await Promise.race([inTurn(() => commit(drafts, deadline)), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Runs a read in one view: the one that was frozen before an unsynced commit, else one of its own. */
  async function read<T>(work: () => T): Promise<T> {
    if (closed !== undefined) throw unavailable("the store is closed");
    refuseWhileUnsafe();
    try {
      if (reader.inTransaction) return work();
      begin.run();
      try {
        return work();
      } finally {
        end.run();
      }
    } catch (error) {
      throw failed(error);
    }
  }

  /** A user's messages in one room are picked from all of them, step by step with the event loop let go between. */
  async function readByUser(query: Parameters<MessageRepository["readByUser"]>[0]) {
    const { room, ...rest } = query;
    if (room === undefined) return read(() => reads.readByUser(rest));
    const deadline = performance.now() + LIMITS.storeTimeoutMs;
    const picked = reads.pickByUserInRoom({ ...rest, room });
    for (;;) {
      const page = await read(picked.step);
      if (page !== undefined) return page;
      if (performance.now() > deadline) throw unavailable("the search took too long");
      await new Promise((resume) => setImmediate(resume));
    }
  }

  async function close() {
    clearInterval(idle);
    clearTimeout(retry);
    await inTurn(async () => {
      gone = true;
      const emptied = await emptyLog();
      appender.finalize();
      revisions.finalize();
      reads.finalize();
      for (const statement of [begin, end, takeView]) statement.finalize();
      letGo({ keepLog: !emptied });
    });
  }

  /** Ends the log; false when it must stay, because it has what the file may not have. The next start goes on from it. */
  async function emptyLog(): Promise<boolean> {
    try {
      await mend();
      showAll();
    } catch (error) {
      log.error("wal_damaged", { error });
      await wal.leave();
      return false;
    }
    try {
      await wal.close();
      return true;
    } catch (error) {
      log.warn("wal_checkpoint_failed", { error });
      return false;
    }
  }

  return {
    kind: "sqlite",
    shared: false,
    place: path,
    status: () => status,
    append,
    head: (room) => read(() => reads.head(room)),
    heads: (rooms) => read(() => reads.heads(rooms)),
    readAfter: (...query) => read(() => reads.readAfter(...query)),
    readBefore: (...query) => read(() => reads.readBefore(...query)),
    readByUser,
    readRooms: (query) => read(() => reads.readRooms(query)),
    revision(subject) {
      if (closed !== undefined || !status.up || doubtful || astray || corrupt) return null;
      try {
        return revisions.of(subject);
      } catch {
        // Somebody holds the file for a moment: then it is not known.
        return null;
      }
    },
    close() {
      closed ??= close();
      return closed;
    },
  };
}

const ASTRAY = "the file was moved or removed while it was open";
