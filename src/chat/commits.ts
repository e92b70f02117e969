/**
 * Group commit: sends that are in flight together are committed together.
 * A batch is what arrived while the last one was being committed, so a lone message waits for nobody and under load the
 * price of an fsync or a round trip is shared (the same idea as PostgreSQL's commit_delay of 0 and MySQL's binlog group
 * commit). Order of work for each batch: commit → tell the bus → answer. Nothing after the commit turns it into an error.
 */

import type { Bus } from "../bus/bus.ts";
import type { RoomName } from "../domain/ids.ts";
import type { Draft, Message } from "../domain/message.ts";
import { asChatError, assert, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { AppendResult, MessageRepository } from "../repository/repository.ts";

export interface Committed {
  readonly message: Message;
  readonly duplicate: boolean;
}

export interface Commits {
  /**
   * Resolves once the message is durable and delivered. Throws `overloaded` when too many wait already; rejects with
   * `conflict`, or with `storage_unavailable` when it is unknown whether it was stored.
   */
  commit(draft: Draft): Promise<Committed>;
  /** Resolves when nothing waits any more. */
  settled(): Promise<void>;
}

export interface CommitsOptions {
  readonly repository: Pick<MessageRepository, "append">;
  readonly bus: Pick<Bus, "publish">;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Hears of rooms in which something may have been stored that nobody was told of. */
  readonly onUnknownOutcome: (rooms: ReadonlySet<RoomName>) => void;
}

interface Waiting {
  readonly draft: Draft;
  readonly resolve: (committed: Committed) => void;
  readonly reject: (error: ChatError) => void;
}

const OVERLOADED_RETRY_MS = 1_000;

export function createCommits({ repository, bus, log, metrics, onUnknownOutcome }: CommitsOptions): Commits {
  let waiting: Waiting[] = [];
  let waitingBytes = 0;
  let running: Promise<void> | null = null;

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

  async function append(batch: readonly Waiting[]): Promise<readonly AppendResult[]> {
    try {
      const results = await repository.append(batch.map(({ draft }) => draft));
      assert(results.length === batch.length, "append answers every draft");
      return results;
    } catch (thrown) {
      const error = asChatError(thrown);
      log.warn("append_failed", { code: error.code, messages: batch.length, error: error.details.cause });
      return batch.map(() => ({ kind: "refused", error }));
    }
  }

  async function run(): Promise<void> {
    // One turn of the event loop, so that all frames of one read of the sockets make one batch.
    await new Promise<void>((resume) => setImmediate(resume));
    while (waiting.length > 0) {
      const batch = takeBatch();
      const results = await append(batch);
      metrics.count("commits_total");
      const stored = results.flatMap((result) => (result.kind === "stored" ? [result.message] : []));
      metrics.count("messages_stored_total", stored.length);
      bus.publish(stored);
      answer(batch, results);
    }
    running = null;
  }

  function answer(batch: readonly Waiting[], results: readonly AppendResult[]): void {
    const unknown = new Set<RoomName>();
    for (const [index, { draft, resolve, reject }] of batch.entries()) {
      const result = results[index] as AppendResult;
      if (result.kind === "refused") {
        metrics.count("messages_refused_total");
        if (result.error.code !== "conflict") unknown.add(draft.room);
        reject(result.error);
      } else {
        if (result.kind === "duplicate") metrics.count("messages_duplicate_total");
        resolve({ message: result.message, duplicate: result.kind === "duplicate" });
      }
    }
    if (unknown.size === 0) return;
    metrics.count("store_failures_total");
    onUnknownOutcome(unknown);
  }

  return {
    commit(draft) {
      if (
        waiting.length >= LIMITS.commitQueueMessagesMax ||
        waitingBytes + draft.textBytes > LIMITS.commitQueueBytesMax
      ) {
        throw new ChatError("overloaded", { retryAfterMs: OVERLOADED_RETRY_MS });
      }
      const { promise, resolve, reject } = Promise.withResolvers<Committed>();
      waiting.push({ draft, resolve, reject });
      waitingBytes += draft.textBytes;
      running ??= run();
      return promise;
    },
    async settled() {
      while (running !== null) await running;
    },
  };
}
