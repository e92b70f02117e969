/**
 * The embedded store: one SQLite file. A batch is committed on the event loop, which takes microseconds, and then its
 * log is synced in the thread pool; only when that has ended is anybody told or shown anything (docs/adr/0002).
 */

import { Database, SQLiteError } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { Epoch } from "../domain/ids.ts";
import { parseEpoch } from "../domain/ids.ts";
import type { Draft } from "../domain/message.ts";
import { assert, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { AppendResult, MessageRepository, RepositoryWorld, StoreStatus } from "./repository.ts";
import { createAppender } from "./sqlite-append.ts";
import { downReason, startFault } from "./sqlite-faults.ts";
import { lockFile } from "./sqlite-lock.ts";
import { createReads } from "./sqlite-reads.ts";
import { migrate } from "./sqlite-schema.ts";
import { openWal } from "./sqlite-wal.ts";

export interface SqliteWorld extends RepositoryWorld {
  /** The database file; its folder is made where it is missing. */
  readonly path: string;
}

/** Opens or makes the store. Rejects with an Error of one line for the operator when the file cannot be used. */
export async function openSqliteRepository(world: SqliteWorld): Promise<MessageRepository> {
  const path = madeFolder(world.path);
  let lock: ReturnType<typeof lockFile>;
  try {
    lock = lockFile(path);
  } catch (error) {
    throw startFault(path, error);
  }
  const opened: Database[] = [];
  // For syncs only. Closing any descriptor of the file drops the POSIX locks that this process holds on it, so this one
  // outlives every connection.
  let descriptor: number | undefined;
  const letGo = () => {
    // The writer last: only a connection that may write removes the log with its going.
    for (const database of opened.toReversed()) database.close();
    if (descriptor !== undefined) closeSync(descriptor);
    lock.release();
  };
  try {
    const writer = openWriter(path);
    opened.push(writer);
    descriptor = openSync(path, "r");
    const epoch = epochOf(writer, world.newEpoch);
    const reader = new Database(path, { readonly: true });
    opened.push(reader);
    reader.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
    const wal = await openWal(writer, path, descriptor);
    // What a killed process left in the log was committed but perhaps never synced: nobody may see it before it is.
    await wal.finish().catch(async (error) => {
      await wal.close().catch(() => {});
      throw new Error(`SQLite file ${path} cannot be written (${(error as Error).message})`);
    });
    syncFolder(dirname(path));
    return createSqliteRepository({ world, path, letGo, writer, reader, wal, epoch });
  } catch (error) {
    letGo();
    throw startFault(path, error);
  }
}

/** How long SQLite may wait for a foreign lock on the event loop; longer waits are ours, off it. */
const LOOP_BUSY_MS = 5;

/** Makes the folder and gives the file's one true path, so that two names of one file meet at one lock. */
function madeFolder(asked: string): string {
  const path = resolve(asked);
  try {
    mkdirSync(dirname(path), { recursive: true });
    return existsSync(path) ? realpathSync(path) : join(realpathSync(dirname(path)), basename(path));
  } catch (error) {
    throw new Error(
      `SQLite file ${path}: its folder cannot be made (${(error as NodeJS.ErrnoException).code})`,
    );
  }
}

/** A new file's name is durable only once its folder is. */
function syncFolder(folder: string): void {
  const descriptor = openSync(folder, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function openWriter(path: string): Database {
  const writer = new Database(path, { create: true, readwrite: true });
  try {
    writer.run(`PRAGMA busy_timeout = ${LIMITS.storeTimeoutMs}`);
    if (statSync(path).size <= LIMITS.verifiedAtStartBytes) {
      const verdict = writer.query("PRAGMA quick_check(1)").values()[0]?.[0];
      if (verdict !== "ok") throw new Error(`SQLite file ${path} is corrupt`);
    }
    writer.run("PRAGMA journal_mode = WAL");
    migrate(writer, path);
    // NORMAL syncs a restarted log's header before frames follow it, and nothing else on a commit: that is ours to do.
    writer.run("PRAGMA synchronous = NORMAL");
    writer.run("PRAGMA wal_autocheckpoint = 0");
    writer.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
    return writer;
  } catch (error) {
    writer.close();
    throw error;
  }
}

function epochOf(writer: Database, newEpoch: () => Epoch): Epoch {
  writer
    .query("INSERT INTO store (only_row, epoch, wal_restarts) VALUES (1, ?1, 0) ON CONFLICT DO NOTHING")
    .run(newEpoch());
  const epoch = parseEpoch(String(writer.query("SELECT epoch FROM store").values()[0]?.[0]));
  assert(epoch !== undefined, "the store's epoch is one");
  return epoch;
}

interface Parts {
  readonly world: SqliteWorld;
  readonly path: string;
  /** Closes the connections and frees the file. */
  readonly letGo: () => void;
  readonly writer: Database;
  readonly reader: Database;
  readonly wal: Awaited<ReturnType<typeof openWal>>;
  readonly epoch: Epoch;
}

function createSqliteRepository({
  world,
  path,
  letGo,
  writer,
  reader,
  wal,
  epoch,
}: Parts): MessageRepository {
  const { log } = world;
  const appender = createAppender(writer);
  const reads = createReads(reader, epoch);
  const [begin, end] = [reader.prepare("BEGIN"), reader.prepare("COMMIT")];
  const takeView = reader.prepare("SELECT epoch FROM store");

  let status: StoreStatus = { up: true };
  let closed: Promise<void> | undefined;
  /** The connections are closed: what was begun before `close` has ended. */
  let gone = false;
  /** A sync failed: what the log holds may be lost, so nothing is shown or added until the file holds it. */
  let doubtful = false;
  /** The tail of those who want to write or to restart the log: one at a time, in order. */
  let turns: Promise<unknown> = Promise.resolve();
  let checkpoint: Promise<void> | undefined;
  let checkpointNotBefore = 0;
  let lastCommitAt = 0;
  let retryMs: number = LIMITS.storeRetryMinMs;
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
    if (reader.inTransaction) end.run();
  }

  function unavailable(cause: unknown): ChatError {
    return new ChatError("storage_unavailable", { cause });
  }

  function failed(cause: unknown): ChatError {
    if (status.up) log.error("store_failed", { kind: "sqlite", error: cause });
    status = { up: false, reason: downReason(cause) };
    if (retry === undefined && closed === undefined) {
      retry = setTimeout(() => void recover(), retryMs);
      retry.unref();
      retryMs = Math.min(retryMs * 2, LIMITS.storeRetryMaxMs);
    }
    return unavailable(cause);
  }

  function works() {
    if (!status.up) log.info("store_recovered", { kind: "sqlite" });
    status = { up: true };
    retryMs = LIMITS.storeRetryMinMs;
  }

  /**
   * Tries whether the store can be written again. After a failed sync the kernel may have forgotten which pages of the
   * log never reached the disk, so it is no use to sync it again: the log is verified frame by frame and copied into the
   * file as a whole, the file is synced, and the log starts afresh. Only then is what it held shown and added to.
   */
  async function recover() {
    retry = undefined;
    await inTurn(async () => {
      if (closed !== undefined) return;
      try {
        if (doubtful) await wal.verify();
        // Until here the frozen view has kept every checkpoint from what is in doubt.
        showAll();
        await wal.finish();
        await wal.sync();
        doubtful = false;
        works();
      } catch (error) {
        failed(error);
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
          if (!gone) await wal.finish();
        });
      } catch (error) {
        // Somebody's shell may read the file: commits go on, the log grows until that ends.
        checkpointNotBefore = performance.now() + 1_000;
        log.warn("wal_checkpoint_failed", { error });
      } finally {
        checkpoint = undefined;
      }
    })();
  }

  const idle = setInterval(() => {
    if (performance.now() - lastCommitAt < LIMITS.walIdleMs || !status.up) return;
    if (wal.bytes() > LIMITS.walIdleBytes) startCheckpoint();
  }, LIMITS.walIdleMs);
  idle.unref();

  async function commit(drafts: readonly Draft[], deadline: number): Promise<readonly AppendResult[]> {
    if (gone) throw unavailable("the store is closed");
    if (doubtful) throw unavailable("a sync failed");
    // Nobody waits for it any more.
    if (performance.now() > deadline) throw unavailable("the store is busy");
    let committed: ReturnType<typeof appender.commit>;
    try {
      freezeView();
      committed = appender.commit(drafts);
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
        doubtful = true;
        throw failed(error);
      }
    }
    showAll();
    works();
    lastCommitAt = performance.now();
    if (wal.bytes() > LIMITS.walCheckpointBytes) startCheckpoint();
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
      if (checkpoint !== undefined && wal.bytes() > LIMITS.walBytesMax)
        await Promise.race([checkpoint, late]);
      return await Promise.race([inTurn(() => commit(drafts, deadline)), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Runs a read in one view: the one that was frozen before an unsynced commit, else one of its own. */
  async function read<T>(work: () => T): Promise<T> {
    if (closed !== undefined) throw unavailable("the store is closed");
    if (doubtful) throw unavailable("a sync failed");
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
      try {
        if (doubtful) await wal.verify();
      } catch (error) {
        // Closing the connections would copy the log. The frozen view keeps SQLite from it to the end of the process.
        log.error("wal_damaged", { error });
        wal.abandon();
        return;
      }
      showAll();
      try {
        await wal.close();
      } catch (error) {
        log.warn("wal_checkpoint_failed", { error });
      }
      appender.finalize();
      reads.finalize();
      for (const statement of [begin, end, takeView]) statement.finalize();
      letGo();
    });
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
    close() {
      closed ??= close();
      return closed;
    },
  };
}

// SQLITE_BUSY and its extended codes.
const isBusy = (error: unknown) => error instanceof SQLiteError && (error.errno & 0xff) === 5;
