/**
 * The embedded store: one SQLite file. A batch is committed on the event loop, which takes microseconds, and then its
 * log is synced in the thread pool. Until that has ended nothing is answered, and reads show what was there before
 * (docs/adr/0002).
 */

import { fdatasync } from "node:fs";
import { dirname } from "node:path";
import type { Epoch } from "../../domain/ids.ts";
import type { Draft } from "../../domain/message.ts";
import { ChatError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import type { Log } from "../../observe/log.ts";
import { nextTick } from "../../runtime/ticks.ts";
import type { AppendResult, MessageRepository, StoreStatus } from "../repository.ts";
import { type Appended, notStored } from "./append.ts";
import { attach, type Connections, disconnect, markLog, reconnect } from "./connections.ts";
import { downReason, isBusy, isCorrupt, isRolledBack, OperatorFault, syncFailed } from "./faults.ts";
import { syncFolder } from "./folder.ts";
import type { Hold } from "./hold.ts";
import type { Reads } from "./reads.ts";
import { createRevisions } from "./revisions.ts";
import { LOOP_BUSY_MS } from "./wal.ts";

/** What an opened store consists of. */
export interface SqliteParts {
  readonly log: Log;
  readonly hold: Hold;
  readonly connections: Connections;
  readonly epoch: Epoch;
}

/** One call of `append`. */
interface Attempt {
  /** Of performance.now(). */
  readonly deadline: number;
  /** It was answered: nothing of it may be stored from now on, unless it may be stored already. */
  isGivenUp: boolean;
  /** Its COMMIT was begun, and is not known to have stored nothing. */
  mayBeStored: boolean;
}

/** The store on connections that are open. */
export function createSqliteRepository({ log, hold, connections, epoch }: SqliteParts): MessageRepository {
  const { path, companion } = hold;
  const revisions = createRevisions();
  revisions.watch(connections.writer);
  /** Undefined while the store is recovered after doubt, and once it is closed. */
  let store: ReturnType<typeof attach> | undefined = attach(connections, epoch);

  let status: StoreStatus = { up: true };
  let closed: Promise<void> | undefined;
  /**
   * Why what was written may be lost, or not be found again, though it reads well: then nothing is shown or added until the
   * store was recovered.
   */
  let doubt: unknown;
  /** The file was found corrupt, and some of the log was copied since it was recovered: that copy may be what was lost. */
  let corrupt = false;
  let copied = false;
  /** The tail of those who want to write or to restart the log: one at a time, in order. */
  let turns: Promise<unknown> = Promise.resolve();
  /** The tail of the searches that take more than one step: one at a time, or each tick had a step of each. */
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

  function showAll() {
    store?.show();
    revisions.allChanged();
  }

  function unavailable(cause: unknown): ChatError {
    return new ChatError("storage_unavailable", { cause });
  }

  /** @throws ChatError while nothing may be shown or added */
  function sound(): NonNullable<typeof store> {
    if (doubt !== undefined) throw unavailable(doubt);
    if (store === undefined) throw unavailable("the store is closed");
    return store;
  }

  function failed(cause: unknown): ChatError {
    const reason = downReason(cause);
    if (status.up)
      log.error("store_failed", { kind: "sqlite", error: cause instanceof OperatorFault ? reason : cause });
    status = { up: false, reason };
    if (isCorrupt(cause) && copied) corrupt = true;
    // A fault that comes again and again, e.g. a corrupt page that is read often, is not worth an attempt each time.
    if (performance.now() - failedAt > 2 * LIMITS.storeRetryMaxMs) retryMs = LIMITS.storeRetryMinMs;
    failedAt = performance.now();
    if (retry === undefined && closed === undefined) {
      retry = setTimeout(() => void retryNow(), retryMs);
      retry.unref();
      retryMs = Math.min(retryMs * 2, LIMITS.storeRetryMaxMs);
    }
    return unavailable(cause);
  }

  /** From here on nothing is built upon what may be lost. */
  function doubted(cause: unknown): ChatError {
    doubt ??= cause;
    return failed(cause);
  }

  /** Tries whether the store works again: after doubt by recovering it, else by writing a trifle. */
  async function retryNow() {
    retry = undefined;
    await inTurn(async () => {
      if (closed !== undefined) return;
      try {
        if (doubt !== undefined || corrupt) await recoverStore();
        else await tryToWrite();
        log.info("store_recovered", { kind: "sqlite" });
        status = { up: true };
      } catch (error) {
        if (error instanceof OperatorFault || syncFailed(error)) doubted(error);
        else failed(error);
      }
    });
  }

  async function tryToWrite() {
    const { wal } = sound();
    const displaced = wal.displaced();
    if (displaced !== undefined) throw new OperatorFault(displaced);
    showAll();
    // While an operator's shell reads, the log cannot start afresh, but it may grow.
    await wal.finish().catch(async (error) => {
      if (!isBusy(error)) throw error;
      await wal.touch();
    });
    await wal.sync();
    markLog(sound(), hold);
    await syncCompanion();
  }

  /** As at the start: closes every connection, has the log copied whole and synced, and connects again. */
  async function recoverStore() {
    doubt ??= "the file is corrupt";
    const before = store;
    if (before !== undefined) {
      await save();
      store = undefined;
      before.finalize();
      revisions.finalize();
      await disconnect(before);
    }
    const connections = await reconnect(hold);
    revisions.watch(connections.writer);
    store = attach(connections, epoch);
    doubt = undefined;
    corrupt = false;
    copied = false;
  }

  /**
   * Where the open files have lost their names: has the file get all that the log has, through the open connections, and
   * syncs it. Rejects when that fails, and while the file itself is not in its place: what is written there is not found.
   */
  async function save() {
    if (store === undefined) return;
    const displaced = store.wal.displaced();
    if (displaced === undefined) return;
    await store.wal.dismiss();
    showAll();
    const [busy] = store.writer.query("PRAGMA wal_checkpoint(TRUNCATE)").values()[0] as number[];
    if (busy !== 0) throw new OperatorFault(`${displaced}, and another program reads it: close that program`);
    await new Promise<void>((resolve, reject) =>
      fdatasync(hold.descriptor, (error) => (error ? reject(error) : resolve())),
    );
    await store.wal.sync();
    markEnded();
    await syncCompanion();
    if (!store.wal.isInPlace()) throw new OperatorFault(displaced);
  }

  /** The file has all of the log: what may lie under the log's name again is an old copy. */
  function markEnded() {
    const mark = companion.read()?.log;
    if (mark !== null && mark !== undefined) companion.write({ log: { ...mark, ended: true } });
  }

  /** Where this fails the companion may lag behind, and that is all. */
  const syncCompanion = () => companion.sync().catch((error) => log.warn("companion_not_synced", { error }));

  /** Keeps the log short: mostly while commits go on, and in the end with commits waiting. */
  function startCheckpoint() {
    if (checkpoint !== undefined || closed !== undefined || performance.now() < checkpointNotBefore) return;
    // It may have come into doubt while the batch that asks for this was synced.
    if (store === undefined || doubt !== undefined) return;
    const { wal } = store;
    checkpoint = (async () => {
      try {
        copied = true;
        await wal.backfill();
        await inTurn(async () => {
          if (store?.wal !== wal || doubt !== undefined || corrupt) return;
          await wal.finish();
          markLog(store, hold);
        });
        await syncCompanion();
      } catch (error) {
        log.warn("wal_checkpoint_failed", { error });
        // An operator's shell may read the file: commits go on, the log grows until that ends. What is recovered may try at once.
        if (syncFailed(error)) doubted(error);
        else checkpointNotBefore = performance.now() + 1_000;
      } finally {
        checkpoint = undefined;
      }
    })();
  }

  /** The log's length; 0 where it cannot be read, as the append or the timer that asks for it must go on. */
  function logBytes(): number {
    // Not while a batch is being written: the log is looked at when it has been.
    if (store === undefined || store.writer.inTransaction) return 0;
    try {
      return store.wal.bytes();
    } catch (error) {
      failed(error);
      return 0;
    }
  }

  const idle = setInterval(() => {
    if (!status.up || store === undefined) return;
    const displaced = store.wal.displaced();
    if (displaced !== undefined) doubted(new OperatorFault(displaced));
    else if (performance.now() - lastCommitAt >= LIMITS.walIdleMs && logBytes() > LIMITS.walIdleBytes)
      startCheckpoint();
  }, LIMITS.walIdleMs);
  idle.unref();

  async function commit(drafts: readonly Draft[], attempt: Attempt): Promise<readonly AppendResult[]> {
    const isLate = () => attempt.isGivenUp || performance.now() > attempt.deadline;
    const beforeCommit = () => {
      if (isLate()) throw unavailable("the store is busy");
      attempt.mayBeStored = true;
    };
    const { appender, freezeView, show, wal } = sound();
    if (isLate()) throw unavailable("the store is busy");
    let committed: Appended;
    try {
      freezeView();
      committed = await appender.commit(drafts, beforeCommit);
    } catch (error) {
      showAll();
      if (isRolledBack(error)) attempt.mayBeStored = false;
      if (error instanceof ChatError) throw error;
      if (!isBusy(error) || isLate()) throw failed(error);
      await Bun.sleep(LOOP_BUSY_MS);
      return commit(drafts, attempt);
    }
    if (committed.written) {
      try {
        await wal.sync();
      } catch (error) {
        throw doubted(error);
      }
      const displaced = wal.displaced();
      if (displaced !== undefined) throw await saved(displaced);
    }
    // From here on it is stored: whatever fails now is not this batch's.
    try {
      show();
      revisions.stored(
        committed.results.flatMap((result) => (result.kind === "stored" ? [result.message] : [])),
      );
      if (committed.last !== undefined) companion.write({ last: committed.last });
    } catch (error) {
      failed(error);
    }
    lastCommitAt = performance.now();
    if (logBytes() > LIMITS.walCheckpointBytes) startCheckpoint();
    return committed.results;
  }

  /** What was just synced lies in files without a name: it is saved before anything else is told. */
  async function saved(displaced: string): Promise<ChatError> {
    const refusal = doubted(new OperatorFault(displaced));
    await save().catch(failed);
    return refusal;
  }

  async function append(drafts: readonly Draft[]): Promise<readonly AppendResult[]> {
    const { storeTimeoutMs } = LIMITS;
    const attempt = { deadline: performance.now() + storeTimeoutMs, isGivenUp: false, mayBeStored: false };
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        attempt.isGivenUp = true;
        reject(failed("the store is too slow"));
      }, storeTimeoutMs);
    });
    try {
      if (closed !== undefined) throw unavailable("the store is closed");
      if (checkpoint !== undefined && logBytes() > LIMITS.walBytesMax) await Promise.race([checkpoint, late]);
      return await Promise.race([inTurn(() => commit(drafts, attempt)), late]);
    } catch (error) {
      if (attempt.mayBeStored) throw error;
      return drafts.map(() => notStored(error));
    } finally {
      clearTimeout(timer);
    }
  }

  async function read<T>(work: (reads: Reads) => T): Promise<T> {
    if (closed !== undefined) throw unavailable("the store is closed");
    const { read } = sound();
    try {
      return read(work);
    } catch (error) {
      throw failed(error);
    }
  }

  /** A user's messages in one room are picked from all of them, step by step with the event loop let go between. */
  async function readByUser(query: Parameters<MessageRepository["readByUser"]>[0]) {
    const { room, ...rest } = query;
    if (room === undefined) return read((reads) => reads.readByUser(rest));
    const deadline = performance.now() + LIMITS.storeTimeoutMs;
    const { reads } = sound();
    const picked = reads.pickByUserInRoom({ ...rest, room });
    const first = await read(picked.step);
    if (first !== undefined) return first;
    if (searching >= LIMITS.searchesMax) throw new ChatError("overloaded");
    searching += 1;
    const search = searches.then(async () => {
      for (;;) {
        if (performance.now() > deadline) throw unavailable("the search took too long");
        await nextTick();
        if (sound().reads !== reads) throw unavailable("the store was recovered meanwhile");
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
      try {
        if (store !== undefined) await closeStore(store);
      } catch (error) {
        log.error("wal_left", { error });
      } finally {
        hold.release();
      }
    });
  }

  async function closeStore(last: NonNullable<typeof store>) {
    const isEmpty = await emptyLog();
    store = undefined;
    last.finalize();
    revisions.finalize();
    // The last connection that closes copies and removes the log if it may write: the reader may not.
    for (const connection of isEmpty ? [last.reader, last.writer] : [last.writer, last.reader])
      connection.close();
    if (isEmpty) {
      // Once its end is on disk, a log of that name can only be an old copy.
      syncFolder(dirname(path));
      markEnded();
    }
    await syncCompanion();
  }

  /** Ends the log and lets go of it; false when it stays as it is, for the next start to recover. */
  async function emptyLog(): Promise<boolean> {
    if (store === undefined) return false;
    const { wal } = store;
    try {
      await save();
      if (doubt !== undefined || corrupt) throw doubt;
      const displaced = wal.displaced();
      if (displaced !== undefined) throw new OperatorFault(displaced);
      showAll();
      await wal.sync();
    } catch (error) {
      log.error("wal_left", { error });
      await wal.leave();
      return false;
    }
    try {
      await wal.close();
      return true;
    } catch (error) {
      log.warn("wal_checkpoint_failed", { error });
      // A foreign process reads it: all of it is on disk, and so is what was copied.
      if (isBusy(error)) companion.write({ sound: true });
      return false;
    }
  }

  return {
    kind: "sqlite",
    shared: false,
    place: path,
    status: () => status,
    append,
    head: (room) => read((reads) => reads.head(room)),
    heads: (rooms) => read((reads) => reads.heads(rooms)),
    readAfter: (...query) => read((reads) => reads.readAfter(...query)),
    readBefore: (...query) => read((reads) => reads.readBefore(...query)),
    readByUser,
    readRooms: (query) => read((reads) => reads.readRooms(query)),
    revision(subject) {
      if (closed !== undefined || !status.up || doubt !== undefined || corrupt) return null;
      try {
        return revisions.of(subject);
      } catch {
        // A foreign process holds the file for a moment: then it is not known.
        return null;
      }
    },
    close() {
      closed ??= close();
      return closed;
    },
  };
}
