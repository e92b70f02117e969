/** What both faces hold: the use cases, put together around one repository and one bus. */

import type { Viewer } from "../auth/viewer.ts";
import type { Bus } from "../bus/bus.ts";
import { createFew } from "../domain/few.ts";
import type { Rate } from "../domain/rate.ts";
import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { MessageRepository, StoreStatus } from "../repository/repository.ts";
import { createTurns } from "../runtime/turns.ts";
import { type Admission, type Allowance, createAdmission } from "./admission.ts";
import { countReads } from "./counted-reads.ts";
import { createCommits } from "./commits.ts";
import { createFeeds, type Deliver, type Dismiss, type Relief } from "./feeds.ts";
import { createHistory, type History } from "./history.ts";
import { createOccupancy } from "./presence.ts";
import { type Announce, createRooms, type Rooms } from "./rooms.ts";
import { createSend, type Send, type SendWorld } from "./send.ts";
import type { Session } from "./session.ts";

export interface Chat {
  readonly send: Send;
  readonly rooms: Rooms;
  readonly history: History;
  readonly admission: Admission;
  /**
   * A connection begins. `rooms.end` ends it.
   * @param allowance what its client has used already; without it, nothing
   */
  connect(id: string, viewer: Viewer, allowance?: Allowance): Session;
  /** How the store is. Never waits. */
  store(): { readonly kind: MessageRepository["kind"]; readonly status: StoreStatus };
  /** Resolves when every join and every send that was taken before this has its answer. */
  settled(): Promise<void>;
  /** Stops what beats by itself. The repository and the bus are the owner's to close. */
  close(): void;
}

export interface ChatOptions extends SendWorld {
  readonly repository: MessageRepository;
  readonly bus: Bus;
  /** How the members on this node are reached. */
  readonly deliver: Deliver;
  readonly announce: Announce;
  readonly dismiss: Dismiss;
  readonly relief: Relief;
  readonly rate: Rate | null;
  readonly inFlightMax: number;
  readonly monotonicNow: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
}

export function createChat(options: ChatOptions): Chat {
  const { bus, log, metrics, now } = options;
  const repository = countReads(options.repository, metrics);
  const admission = createAdmission(options);
  const feeds = createFeeds({ ...options, repository });
  const commits = createCommits({
    repository,
    bus,
    queueMs: LIMITS.commitQueueMs,
    monotonicNow: options.monotonicNow,
    log,
    metrics,
    onUnknownOutcome: (rooms) => feeds.doubt(rooms),
  });
  bus.subscribe((committed) => feeds.accept(committed));
  let beating = false;
  const beat = setInterval(async () => {
    if (beating) return; // the store is slow: the last question is still open
    beating = true;
    try {
      await feeds.beat();
    } catch (error) {
      log.error("beat_failed", { error });
    } finally {
      beating = false;
    }
  }, LIMITS.headPollMs);
  beat.unref();
  const rooms = createRooms({
    repository,
    feeds,
    occupancy: createOccupancy(),
    announce: options.announce,
    admission,
    turns: createTurns({
      bytesPerTick: LIMITS.replayTurnBytes,
      waitersMax: LIMITS.replayTurnWaitersMax,
      refusal() {
        metrics.count("joins_overloaded_total");
        return new ChatError("overloaded");
      },
    }),
    joinedRoomsMax: LIMITS.joinedRoomsMax,
    metrics,
    now,
  });
  return {
    admission,
    send: createSend({ admission, commits, now, newMessageId: options.newMessageId }),
    rooms,
    history: createHistory(repository, { pageBytesMax: LIMITS.pageBytesMax }),
    connect: (id, viewer, allowance = admission.allowance()) => ({
      id,
      viewer,
      allowance,
      rooms: createFew(),
      ended: false,
    }),
    store: () => ({ kind: repository.kind, status: repository.status() }),
    async settled() {
      await Promise.all([rooms.settled(), commits.settled()]);
    },
    close: () => clearInterval(beat),
  };
}
