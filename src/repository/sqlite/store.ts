/**
 * The embedded store: one SQLite file. A batch is committed on the event loop, which takes microseconds, and then its
 * log is synced in the thread pool; only when that has ended is anybody told or shown anything (docs/adr/0002).
 */

import type { Database } from "bun:sqlite";
import { fstatSync, statSync } from "node:fs";
import type { Epoch } from "../../domain/ids.ts";
import type { Draft } from "../../domain/message.ts";
import { ChatError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import type { Log } from "../../observe/log.ts";
import type { AppendResult, MessageRepository, StoreStatus } from "../repository.ts";
import { type Appended, createAppender } from "./append.ts";
import { downReason, isBusy, isCorrupt, syncFailed } from "./faults.ts";
import { createReads } from "./reads.ts";
import { createRevisions } from "./revisions.ts";
import { LOOP_BUSY_MS, type Wal } from "./wal.ts";

/** What an opened store consists of. */
export interface SqliteParts {
  readonly log: Log;
  readonly path: string;
  readonly descriptor: number;
  /** Closes the connections and frees the file. */
  readonly letGo: (how: { keepLog: boolean }) => void;
  readonly writer: Database;
  readonly reader: Database;
  readonly wal: Wal;
  readonly epoch: Epoch;
}

/** The store on connections that are open. */
export function createSqliteRepository({
  log,
  path,
  descriptor,
  letGo,
  writer,
  reader,
  wal,
  epoch,
}: SqliteParts): MessageRepository {
  const appender = createAppender(writer, epoch);
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
  /** The tail of the searches that take more than one step: one at a time, or each turn of the event loop had a step of each. */
  let searches: Promise<void> = Promise.resolve();
  let searching = 0;
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

  /** Where the path cannot even be followed (a folder that was closed, a loop of links) nobody would find the file either. */
  function isAstray(): boolean {
    try {
      return statSync(path, { throwIfNoEntry: false })?.ino !== inode;
    } catch {
      return true;
    }
  }

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
    const first = await read(picked.step);
    if (first !== undefined) return first;
    if (searching >= LIMITS.searchesMax) throw new ChatError("overloaded");
    searching += 1;
    const search = searches.then(async () => {
      for (;;) {
        if (performance.now() > deadline) throw unavailable("the search took too long");
        await new Promise((resume) => setImmediate(resume));
        const page = await read(picked.step);
        if (page !== undefined) return page;
      }
    });
    const over = () => {
      searching -= 1;
    };
    searches = search.then(over, over);
    return search;
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
