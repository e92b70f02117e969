/**
 * What the members of a room have been told. A feed lives while the room has members (or somebody is about to join) and
 * knows the number of the last message it delivered, so that members see every number once and in order, whatever the
 * bus lost: a number that jumps is a gap, and a gap is read from the store before anything after it is delivered.
 */

import type { CommittedEntries } from "../bus/bus.ts";
import { type Epoch, type RoomName, SEQ_ZERO, type Seq } from "../domain/ids.ts";
import type { Message } from "../domain/message.ts";
import type { RoomHead } from "../domain/sequence.ts";
import { assert, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { MessageRepository } from "../repository/repository.ts";

/** Delivers committed messages of one room, in this order, to all its members on this node, within the tick. */
export type Deliver = (room: RoomName, messages: readonly Message[]) => void;

/** Lets go of all members of a room on this node that can no longer be told everything: they come back and resume. */
export type Dismiss = (room: RoomName) => void;

/** Both throw `storage_unavailable` once the store has another epoch: what was read before belongs to the former one. */
export interface Feed {
  /** The last number delivered. */
  delivered(): Seq;
  /** Reads and delivers what the room has not been told up to `target`. */
  advanceTo(target: Seq): Promise<void>;
}

export interface Feeds {
  /**
   * Takes what was committed, from the bus. Entries of another epoch than the one that a room's members joined are not
   * delivered: the store is asked at the next beat which epoch it has.
   */
  accept(committed: CommittedEntries): void;
  /**
   * Holds the room's feed for a join. From now on `collected` grows by what is delivered (the first
   * LIMITS.replayMessagesMax of it). `start` says where the store stood; the feed begins there if it is new.
   */
  hold(room: RoomName): {
    start(head: RoomHead): Feed;
    readonly collected: readonly Message[];
    release(): void;
  };
  /** Keeps the feed alive as long as the room has members. */
  setOccupied(room: RoomName, occupied: boolean): void;
  /** Looks for messages that nobody was told of, in these rooms, at the next beats. */
  doubt(rooms: Iterable<RoomName>): void;
  /** Asks the store for the heads of the rooms in doubt, and of all rooms where others write too. */
  beat(): Promise<void>;
}

export interface FeedsOptions {
  readonly repository: Pick<MessageRepository, "readAfter" | "heads" | "shared" | "status">;
  readonly deliver: Deliver;
  readonly dismiss: Dismiss;
  readonly log: Log;
  readonly metrics: Metrics;
}

interface State {
  readonly room: RoomName;
  /** The epoch that `delivered` belongs to; null, as `delivered`: the first join is still asking. */
  epoch: Epoch | null;
  delivered: Seq | null;
  /** Heard of but not deliverable yet: of one epoch, in order, without a hole among themselves. */
  pending: Message[];
  pendingEpoch: Epoch | null;
  readonly collectors: Set<Message[]>;
  occupied: boolean;
  catchingUp: Promise<void> | null;
  target: Seq;
  /** Counts how often the feed was forgotten: what was read before that is worth nothing after it. */
  generation: number;
  /** The last beat saw the store behind what was delivered. */
  ahead: boolean;
}

/**
 * Beats for which a room stays in doubt: what a store was too slow to confirm may still land after it was given up, once
 * the disk or the network goes on. While the store is down they are not counted: a disk may hang for longer, and reads be
 * answered meanwhile without what it hangs on. What lands later yet is found by the next message's number.
 */
const DOUBT_BEATS = Math.ceil((2 * LIMITS.storeTimeoutMs) / LIMITS.headPollMs);

const CATCH_UP = { messagesMax: LIMITS.catchUpMessagesMax, textBytesMax: LIMITS.catchUpBytesMax };

const epochChanged = () => new ChatError("storage_unavailable", { cause: "the store has another epoch" });

export function createFeeds({ repository, deliver, dismiss, log, metrics }: FeedsOptions): Feeds {
  const feeds = new Map<RoomName, State>();
  /** Rooms in doubt, and for how many more beats. */
  const doubtful = new Map<RoomName, number>();

  function tell(feed: State, messages: readonly Message[]): void {
    const last = messages.at(-1);
    if (last === undefined) return;
    feed.delivered = last.seq;
    for (const collector of feed.collectors) {
      for (const message of messages)
        if (collector.length < LIMITS.replayMessagesMax) collector.push(message);
    }
    if (!feed.occupied) return;
    try {
      deliver(feed.room, messages);
    } catch (error) {
      // Nobody knows who was told. Never skipped in silence: whoever is in the room resumes from what it has.
      log.error("delivery_failed", { room: feed.room, error });
      dismiss(feed.room);
    }
  }

  /** Delivers what follows directly on what was delivered, and forgets what was delivered before. */
  function tellPending(feed: State): void {
    const { delivered, pending } = feed;
    if (delivered === null || pending.length === 0) return;
    const next = pending.findIndex(({ seq }) => seq === delivered + 1);
    if (next >= 0) {
      feed.pending = [];
      tell(feed, pending.slice(next));
    } else if ((pending.at(-1) as Message).seq <= delivered) {
      feed.pending = [];
    }
  }

  function offer(feed: State, epoch: Epoch, messages: readonly Message[]): void {
    if (feed.epoch !== null && feed.epoch !== epoch) {
      doubtful.set(feed.room, DOUBT_BEATS);
      return;
    }
    if (feed.pendingEpoch !== epoch) {
      feed.pending = [];
      feed.pendingEpoch = epoch;
    }
    for (const message of messages) {
      const last = feed.pending.at(-1)?.seq ?? feed.delivered;
      if (last !== null && message.seq <= last) continue;
      // Only an unbroken run may wait: after a hole, or past the ceiling, the store will be asked for all of it.
      if ((last !== null && message.seq !== last + 1) || feed.pending.length >= LIMITS.feedPendingMax)
        feed.pending = [];
      feed.pending.push(message);
      if (message.seq > feed.target) feed.target = message.seq;
    }
    tellOrCatchUp(feed);
  }

  function tellOrCatchUp(feed: State): void {
    if (feed.delivered === null) return;
    tellPending(feed);
    if (feed.pending.length === 0 || feed.catchingUp !== null) return;
    advance(feed, feed.target).catch(() => {}); // catchUp has said so, and put the room in doubt
  }

  /** The store has another epoch than the members: what they have is of the former one. */
  function forget(feed: State): void {
    log.warn("room_epoch_changed", { room: feed.room, delivered: feed.delivered });
    feed.epoch = null;
    feed.delivered = null;
    feed.pending = [];
    feed.target = SEQ_ZERO;
    feed.ahead = false;
    feed.generation += 1;
    // A join that is under way must not find messages of the former epoch behind its page of the new one.
    for (const collected of feed.collectors) collected.length = 0;
    if (feed.occupied) dismiss(feed.room);
  }

  /** Begins where the store stands. */
  function begin(feed: State, head: RoomHead): void {
    feed.epoch = head.epoch;
    feed.delivered = head.seq;
    feed.target = head.seq;
    feed.pending = feed.pendingEpoch === head.epoch ? feed.pending.filter(({ seq }) => seq > head.seq) : [];
    for (const { seq } of feed.pending) feed.target = seq;
  }

  function advance(feed: State, target: Seq): Promise<void> {
    if (target > feed.target) feed.target = target;
    feed.catchingUp ??= catchUp(feed);
    return feed.catchingUp;
  }

  /** Reads until the target is delivered; the target may rise meanwhile. Asked for only when there is something to read. */
  async function catchUp(feed: State): Promise<void> {
    const { generation } = feed;
    try {
      do await readOn(feed, generation);
      while ((feed.delivered as Seq) < feed.target);
    } catch (error) {
      log.warn("room_gap_unread", { room: feed.room, error });
      // Members wait for this gap, and queued messages stand behind it: check this room again.
      doubtful.set(feed.room, DOUBT_BEATS);
      throw error;
    } finally {
      // No `await` between the last look at the target and this: else a target that is raised in between is never read.
      feed.catchingUp = null;
    }
  }

  /** Reads and delivers one page of what is missing. */
  async function readOn(feed: State, generation: number): Promise<void> {
    const page = await repository.readAfter(feed.room, feed.delivered as Seq, CATCH_UP);
    metrics.count("room_gaps_read_total");
    if (feed.generation === generation && page.head.epoch !== feed.epoch) forget(feed);
    if (feed.generation !== generation) throw epochChanged();
    // While we read, the missing numbers may have come by the bus after all.
    const missing = page.messages.filter(({ seq }) => seq > (feed.delivered as Seq));
    tell(feed, missing);
    tellPending(feed);
    if (page.messages.length === 0 && (feed.delivered as Seq) < feed.target) {
      // Retention took them: these numbers will never come. Members learn so when they resume.
      log.warn("room_gap_gone", { room: feed.room, after: feed.delivered, head: page.head.seq });
      feed.delivered = feed.target;
      feed.pending = [];
      if (feed.occupied) dismiss(feed.room);
    }
  }

  /** @param before what was delivered when the head was asked for; null where nothing was */
  async function compare(
    room: RoomName,
    epoch: Epoch,
    head: Seq,
    before: Readonly<Pick<State, "delivered" | "generation">> | null,
  ): Promise<void> {
    const feed = feeds.get(room);
    if (feed === undefined || feed.delivered === null || feed.generation !== before?.generation) return;
    if (feed.epoch !== epoch) return forget(feed);
    if (head > feed.delivered) await advance(feed, head);
    const wasAhead = feed.ahead;
    feed.ahead = before.delivered !== null && head < before.delivered;
    // A server that was just elected may for a moment know less than its predecessor had confirmed: once is no proof, and
    // to begin anew would tell everyone everything again.
    if (feed.ahead && wasAhead) forget(feed);
  }

  function dropIfUnused(feed: State): void {
    if (!feed.occupied && feed.collectors.size === 0) feeds.delete(feed.room);
  }

  function feedOf(room: RoomName): State {
    const known = feeds.get(room);
    if (known !== undefined) return known;
    const made: State = {
      room,
      epoch: null,
      delivered: null,
      pending: [],
      pendingEpoch: null,
      collectors: new Set(),
      occupied: false,
      catchingUp: null,
      target: SEQ_ZERO,
      generation: 0,
      ahead: false,
    };
    feeds.set(room, made);
    return made;
  }

  return {
    accept({ epoch, entries }) {
      const byRoom = new Map<State, Message[]>();
      for (const message of entries) {
        const feed = feeds.get(message.room);
        if (feed === undefined) continue;
        const run = byRoom.get(feed);
        if (run === undefined) byRoom.set(feed, [message]);
        else run.push(message);
      }
      for (const [feed, run] of byRoom) offer(feed, epoch, run);
    },

    hold(room) {
      const feed = feedOf(room);
      const collected: Message[] = [];
      feed.collectors.add(collected);
      return {
        collected,
        start(head) {
          if (feed.epoch !== null && feed.epoch !== head.epoch) forget(feed);
          if (feed.epoch === null) {
            begin(feed, head);
            tellOrCatchUp(feed);
          }
          const { generation } = feed;
          const delivered = () => {
            if (feed.generation !== generation || feed.delivered === null) throw epochChanged();
            return feed.delivered;
          };
          return {
            delivered,
            async advanceTo(target) {
              if (target > delivered()) await advance(feed, target);
              assert(delivered() >= target, "a feed has delivered what it was advanced to");
            },
          };
        },
        release() {
          feed.collectors.delete(collected);
          dropIfUnused(feed);
        },
      };
    },

    setOccupied(room, occupied) {
      const feed = feedOf(room);
      feed.occupied = occupied;
      dropIfUnused(feed);
    },

    doubt(rooms) {
      for (const room of rooms) doubtful.set(room, DOUBT_BEATS);
    },

    async beat() {
      const { up } = repository.status();
      for (const [room, beats] of doubtful) {
        if (!feeds.has(room) || (up && beats === 0)) doubtful.delete(room);
        else if (up) doubtful.set(room, beats - 1);
      }
      const asked = repository.shared ? [...feeds.keys()] : [...doubtful.keys()];
      for (let from = 0; from < asked.length; from += LIMITS.headPollRoomsMax) {
        const rooms = asked.slice(from, from + LIMITS.headPollRoomsMax);
        const before = rooms.map((room) => {
          const feed = feeds.get(room);
          return feed === undefined ? null : { delivered: feed.delivered, generation: feed.generation };
        });
        try {
          const { epoch, seqs } = await repository.heads(rooms);
          for (const [index, room] of rooms.entries()) {
            // One after the other: each may have a long gap to read, which takes memory.
            await compare(room, epoch, seqs[index] as Seq, before[index] ?? null).catch(() => {});
          }
        } catch (error) {
          for (const room of rooms) doubtful.set(room, DOUBT_BEATS);
          log.debug("room_heads_unknown", { rooms: rooms.length, error });
        }
      }
    },
  };
}
