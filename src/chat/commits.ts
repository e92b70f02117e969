/**
 * Group commit: sends that are in flight together are committed together.
 * A batch is what arrived while the last one was being committed, so a lone message waits for nobody else and under load the
 * price of an fsync or a round trip is shared (the same idea as PostgreSQL's commit_delay of 0 and MySQL's binlog group
 * commit). Order of work for each batch: commit → tell the bus → answer. Nothing after the commit turns it into an error.
 * What waits too long behind a store that stalls is refused before the store has seen it: each batch may take as long as
 * the store may, and a queue of them would wait that long many times over.
 */

import type { Bus, CommittedEntries } from "../bus/bus.ts";
import type { Epoch, RoomName } from "../domain/ids.ts";
import type { Draft, Message } from "../domain/message.ts";
import { asChatError, assert, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import { nextTick } from "../runtime/ticks.ts";
import type { AppendResult, MessageRepository } from "../repository/repository.ts";

export interface Committed {
  readonly message: Message;
  readonly duplicate: boolean;
}

export interface Commits {
  /**
   * Resolves once the message is durable and delivered. Throws `overloaded` when too many wait already, and rejects with
   * it after `queueMs` in the queue: nothing was stored then. Rejects with `conflict`, or with `storage_unavailable`, whose
   * text says whether it is certain that nothing was stored.
   */
  commit(draft: Draft): Promise<Committed>;
  /** Resolves when all that was taken before this has its answer, whatever comes meanwhile. */
  settled(): Promise<void>;
}

export interface CommitsOptions {
  readonly repository: Pick<MessageRepository, "append">;
  readonly bus: Pick<Bus, "publish">;
  /** The longest a send waits before it goes to the store. */
  readonly queueMs: number;
  /** Milliseconds of a clock that never goes back. */
  readonly monotonicNow: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Hears of rooms in which something may have been stored that nobody was told of. */
  readonly onUnknownOutcome: (rooms: ReadonlySet<RoomName>) => void;
}

interface Waiting {
  readonly draft: Draft;
  /** When it is refused if the store has not been asked by then. */
  readonly deadline: number;
  readonly answered: Promise<Committed>;
  readonly resolve: (committed: Committed) => void;
  readonly reject: (error: ChatError) => void;
}

/** Messages that are told and answered between two looks at the clock. */
const ANSWERED_TOGETHER = 64;
/** How often the sockets are read for one batch. */
const GATHER_READS_MAX = 4;

/** Rooms of the drafts whose outcome is unknown. */
const unknownRooms = (batch: readonly Waiting[], results: readonly AppendResult[]): ReadonlySet<RoomName> =>
  new Set(
    batch.flatMap(({ draft }, index) => {
      const result = results[index] as AppendResult;
      return result.kind === "unknown" ? [draft.room] : [];
    }),
  );

/** Not of the draft but of the store, whether or not the outcome is known. */
const isStoreFailure = (result: AppendResult): boolean =>
  result.kind === "unknown" || (result.kind === "rejected" && result.error.code === "storage_unavailable");

/** What the results prove to be there, by epoch: nearly always one. */
function committedBy(results: readonly AppendResult[]): readonly CommittedEntries[] {
  const runs: { readonly epoch: Epoch; readonly entries: Message[] }[] = [];
  for (const result of results) {
    if (result.kind === "rejected" || result.kind === "unknown") continue;
    // A duplicate too: after an unknown outcome its room may never have heard of the message.
    const last = runs.at(-1);
    if (last?.epoch === result.epoch) last.entries.push(result.message);
    else runs.push({ epoch: result.epoch, entries: [result.message] });
  }
  return runs;
}

export function createCommits(options: CommitsOptions): Commits {
  const { repository, bus, queueMs, monotonicNow, log, metrics, onUnknownOutcome } = options;
  /** In the order in which they came, so the first is the first to be late. */
  let waiting: Waiting[] = [];
  let waitingBytes = 0;
  let lateness: ReturnType<typeof setTimeout> | undefined;
  let running = false;
  /** How many were unanswered when the last batch was about to be answered, the batch included. */
  let unanswered = 1;
  /** The batch that is with the store. */
  let committing: Promise<void> | null = null;

  /** Takes the batch off the front of the queue: at least one, and no more than a commit should carry. */
  function takeBatch(): Waiting[] {
    let bytes = 0;
    let count = 0;
    for (const { draft } of waiting) {
      if (count > 0 && (count === LIMITS.batchMessagesMax || bytes + draft.textBytes > LIMITS.batchBytesMax))
        break;
      bytes += draft.textBytes;
      count += 1;
    }
    const batch = count === waiting.length ? waiting : waiting.splice(0, count);
    if (batch === waiting) waiting = [];
    waitingBytes -= bytes;
    return batch;
  }

  function overloaded(): ChatError {
    metrics.count("sends_overloaded_total");
    return new ChatError("overloaded");
  }

  /** Refuses what has waited too long, and looks again when the next may have. */
  function refuseLate(): void {
    lateness = undefined;
    const now = monotonicNow();
    const inTime = waiting.findIndex(({ deadline }) => deadline > now);
    const late = waiting.splice(0, inTime < 0 ? waiting.length : inTime);
    for (const { draft, reject } of late) {
      waitingBytes -= draft.textBytes;
      reject(overloaded());
    }
    if (late.length > 0) log.warn("sends_waited_too_long", { messages: late.length });
    watchLateness(now);
  }

  function watchLateness(now: number): void {
    const [first] = waiting;
    if (first === undefined) return;
    lateness = setTimeout(refuseLate, Math.max(first.deadline - now, 1));
    lateness.unref();
  }

  async function append(batch: readonly Waiting[]): Promise<readonly AppendResult[]> {
    try {
      const results = await repository.append(batch.map(({ draft }) => draft));
      assert(results.length === batch.length, "append answers every draft");
      return results;
    } catch (thrown) {
      const error = asChatError(thrown);
      log.warn("append_failed", { code: error.code, messages: batch.length, error: error.details.cause });
      return batch.map(() => ({ kind: "unknown", error }));
    }
  }

  /**
   * Lets every socket be read, and again as long as that brings more: what is sent at about the same time makes one batch.
   * Else those who were answered last find the next batch gone, and two halves take turns for ever, each with a
   * publish, an fsync and a write to every member of its own (docs/adr/0006). Over once as many are there as had been
   * unanswered together before: everyone is back, and a lone message waits for one tick.
   */
  async function gather(): Promise<void> {
    const isWhole = () => waiting.length >= Math.min(unanswered, LIMITS.batchMessagesMax);
    for (let reads = 0; reads < GATHER_READS_MAX; reads += 1) {
      const before = waiting.length;
      // An immediate of the tick that reads the sockets may run before it does.
      await nextTick();
      if (isWhole()) return;
      await nextTick();
      if (isWhole() || waiting.length === before) return;
    }
  }

  async function run(): Promise<void> {
    running = true;
    do {
      await gather();
      // What reading them took and what writing them will take is too much for one tick.
      if (waiting.length >= LIMITS.batchMessagesMax / 2) await nextTick();
      if (waiting.length > 0) {
        committing = commitBatch(takeBatch());
        await committing;
      }
    } while (waiting.length > 0);
    committing = null;
    running = false;
  }

  async function commitBatch(batch: readonly Waiting[]): Promise<void> {
    const began = monotonicNow();
    const results = await append(batch);
    const isSlow = monotonicNow() - began > LIMITS.commitSlowMs;
    const tickMs = isSlow ? LIMITS.answerTickBehindSlowMs : LIMITS.answerTickMs;
    metrics.count("commits_total");
    metrics.count("messages_stored_total", results.filter(({ kind }) => kind === "stored").length);
    unanswered = batch.length + waiting.length;
    const unknown = unknownRooms(batch, results);
    if (results.some(isStoreFailure)) metrics.count("store_failures_total");
    if (unknown.size > 0) onUnknownOutcome(unknown);
    // In parts, as a large batch would keep the event loop for too long; most are one part, which costs each member one write.
    for (let from = 0; from < batch.length;) {
      if (from > 0) await nextTick();
      const until = monotonicNow() + tickMs;
      do {
        const to = from + ANSWERED_TOGETHER;
        finish(batch.slice(from, to), results.slice(from, to));
        from = to;
      } while (from < batch.length && monotonicNow() < until);
    }
  }

  function finish(batch: readonly Waiting[], results: readonly AppendResult[]): void {
    for (const committed of committedBy(results)) bus.publish(committed);
    answer(batch, results);
  }

  function answer(batch: readonly Waiting[], results: readonly AppendResult[]): void {
    for (const [index, { resolve, reject }] of batch.entries()) {
      const result = results[index] as AppendResult;
      if (result.kind === "rejected" || result.kind === "unknown") {
        metrics.count("messages_refused_total");
        reject(result.error);
      } else {
        if (result.kind === "duplicate") metrics.count("messages_duplicate_total");
        resolve({ message: result.message, duplicate: result.kind === "duplicate" });
      }
    }
  }

  return {
    commit(draft) {
      if (
        waiting.length >= LIMITS.commitQueueMessagesMax ||
        waitingBytes + draft.textBytes > LIMITS.commitQueueBytesMax
      ) {
        throw overloaded();
      }
      const { promise, resolve, reject } = Promise.withResolvers<Committed>();
      const now = monotonicNow();
      waiting.push({ draft, deadline: now + queueMs, answered: promise, resolve, reject });
      waitingBytes += draft.textBytes;
      if (!running) void run();
      if (lateness === undefined) watchLateness(now);
      return promise;
    },
    async settled() {
      // First in, first out: once the last one has its answer all before it do, but for a batch that is with the store
      // while those behind it were refused for having waited too long.
      await Promise.allSettled([waiting.at(-1)?.answered]);
      await committing;
    },
  };
}
