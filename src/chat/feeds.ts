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
import { EncodedEntry } from "../protocol/wire.ts";
import type { MessageRepository, RoomPage } from "../repository/repository.ts";
import { createDoubts } from "./doubts.ts";
import { createKeptEntries } from "./kept-entries.ts";
import { createPermits } from "./permits.ts";
import { type Aside, createSetAside } from "./set-aside.ts";

/** Delivers committed entries of one room, in this order, to all its members on this node, within the tick. */
export type Deliver = (room: RoomName, entries: readonly EncodedEntry[]) => void;

/** Lets go of all members of a room on this node that can no longer be told everything: they come back and resume. */
export type Dismiss = (room: RoomName) => void;

/**
 * Resolves when all members of a room on this node have taken most of what was written to them, or some have had their time.
 * What was delivered before the call counts.
 */
export type Relief = (room: RoomName) => Promise<void>;

/** What a join knows of its room. Throws `storage_unavailable` once the store has another epoch: what was read is of the former. */
export interface Feed {
  /** The last number delivered. */
  delivered(): Seq;
  /** Reads and delivers what the room has not been told up to `target`. */
  advanceTo(target: Seq): Promise<void>;
  /** All that was delivered after `since`, where that is remembered; null where the store must be asked. */
  recall(since: Seq): readonly EncodedEntry[] | null;
  /** Remembers this run, which ends with the last number delivered, for the next who join. */
  remember(entries: readonly EncodedEntry[]): void;
}

/** A room's feed, kept alive for a join. From now on it remembers what it delivers, as far as there is room. */
export interface Hold {
  /**
   * The room as its members know it, where the store has said so within LIMITS.feedBoundsMs and nothing is in doubt; null where
   * others write the store too: they may have stored more by now.
   */
  known(): RoomHead | null;
  /** Whether all that was delivered after `since` is remembered. */
  remembers(since: Seq): boolean;
  /**
   * The feed, which begins at `head` if it is new.
   * @param head where the store stood at some time after the feed was held, or what `known` said then
   * @param isAsked false where `known` said it
   */
  start(head: RoomHead, isAsked?: boolean): Feed;
  release(): void;
}

export interface Feeds {
  /**
   * Takes what was committed, from the bus. Entries of another epoch than the one that a room's members joined are not
   * delivered: the store is asked at the next beat which epoch it has.
   */
  accept(committed: CommittedEntries): void;
  hold(room: RoomName): Hold;
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
  readonly relief: Relief;
  /** Milliseconds of a clock that never goes back. */
  readonly monotonicNow: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
}

interface State {
  readonly room: RoomName;
  /** The epoch that `delivered` belongs to; null, as `delivered`: the first join is still asking. */
  epoch: Epoch | null;
  delivered: Seq | null;
  /** The oldest number that the store had, and when it said so. */
  firstSeq: Seq;
  boundsMs: number;
  /** Heard of but not deliverable yet. */
  readonly aside: Aside<EncodedEntry>;
  /** The highest number heard of: of the feed's epoch, or of that of `aside` where the feed has none yet. */
  target: Seq;
  /** The reading of a gap: until its first page is delivered, and until all is. */
  catchingUp: { readonly first: Promise<void>; readonly all: Promise<void> } | null;
  /** Joins under way. */
  holds: number;
  occupied: boolean;
  /** Counts how often the feed was forgotten: what was read before that is worth nothing after it. */
  generation: number;
  /** The last beat saw the store behind what was delivered. */
  ahead: boolean;
}

const CATCH_UP = { messagesMax: LIMITS.catchUpMessagesMax, textBytesMax: LIMITS.catchUpBytesMax };

const epochChanged = () => new ChatError("storage_unavailable", { cause: "the store has another epoch" });

export function createFeeds(options: FeedsOptions): Feeds {
  const { repository, deliver, dismiss, relief, monotonicNow, log, metrics } = options;
  const feeds = new Map<RoomName, State>();
  const kept = createKeptEntries<EncodedEntry>({ bytesMax: LIMITS.feedKeptBytesMax });
  const doubts = createDoubts();
  const permitted = createPermits(LIMITS.catchUpPagesMax);
  const newAside = createSetAside<EncodedEntry>({ bytesMax: LIMITS.feedsPendingBytesMax });

  function tell(feed: State, entries: readonly EncodedEntry[]): void {
    const last = entries.at(-1);
    if (last === undefined) return;
    feed.delivered = last.seq;
    // A feed that was dropped while it read a gap has no reader.
    if (isUnused(feed)) return;
    kept.add(feed, entries);
    if (!feed.occupied) return;
    try {
      deliver(feed.room, entries);
    } catch (error) {
      // Which members were told is not known. Never skipped in silence: they come back and resume from what they have.
      log.error("delivery_failed", { room: feed.room, error });
      dismiss(feed.room);
    }
  }

  /** Delivers what was set aside and follows directly on what was delivered; forgets what was delivered before. */
  function tellAside(feed: State): void {
    const { delivered } = feed;
    const { entries } = feed.aside;
    const last = entries.at(-1);
    if (delivered === null || last === undefined) return;
    const next = entries.findIndex(({ seq }) => seq === delivered + 1);
    if (next >= 0 || last.seq <= delivered) feed.aside.clear();
    if (next >= 0) tell(feed, entries.slice(next));
  }

  function offer(feed: State, epoch: Epoch, messages: readonly Message[]): void {
    if (feed.epoch !== null && feed.epoch !== epoch) {
      doubts.add(feed.room);
      return;
    }
    if (feed.epoch === null && feed.aside.epoch !== epoch) feed.target = SEQ_ZERO;
    const run: EncodedEntry[] = [];
    let next = feed.delivered === null ? null : feed.delivered + 1;
    for (const message of messages) {
      const { seq } = message;
      if (next !== null && seq < next) {
        if ((kept.at(feed, seq)?.message.id ?? message.id) !== message.id) doubtDelivered(feed, seq);
        continue;
      }
      if (seq > feed.target) feed.target = seq;
      if (seq === next) {
        run.push(new EncodedEntry(message));
        next += 1;
      } else {
        feed.aside.add(epoch, new EncodedEntry(message));
      }
    }
    tell(feed, run);
    tellOrCatchUp(feed);
  }

  /** Another program has deleted what members were told under this number, and it was given again. */
  function doubtDelivered(feed: State, seq: Seq): void {
    log.warn("room_number_given_again", { room: feed.room, seq });
    kept.drop(feed);
    doubts.add(feed.room);
    if (feed.occupied) dismiss(feed.room);
  }

  function tellOrCatchUp(feed: State): void {
    if (feed.delivered === null) return;
    tellAside(feed);
    if (feed.target <= feed.delivered || feed.catchingUp !== null) return;
    advance(feed, feed.target);
  }

  /** The store has another epoch than the members: what they have is of the former one. */
  function forget(feed: State): void {
    log.warn("room_epoch_changed", { room: feed.room, delivered: feed.delivered });
    feed.epoch = null;
    feed.delivered = null;
    feed.aside.clear();
    kept.drop(feed);
    feed.target = SEQ_ZERO;
    feed.ahead = false;
    feed.generation += 1;
    if (feed.occupied) dismiss(feed.room);
  }

  /** Begins where the store stands. */
  function begin(feed: State, head: RoomHead): void {
    feed.epoch = head.epoch;
    feed.delivered = head.seq;
    feed.firstSeq = head.firstSeq;
    if (feed.aside.epoch !== head.epoch) {
      feed.aside.clear();
      feed.target = head.seq;
    }
    if (feed.target < head.seq) feed.target = head.seq;
    tellOrCatchUp(feed);
  }

  /** The store has said where it stands, in the epoch of the feed. */
  function noteBounds(feed: State, { firstSeq }: RoomHead): void {
    // Retention only raises it, and of two answers the older one may come last.
    if (firstSeq > feed.firstSeq) feed.firstSeq = firstSeq;
    feed.boundsMs = monotonicNow();
  }

  function advance(feed: State, target: Seq): NonNullable<State["catchingUp"]> {
    if (target > feed.target) feed.target = target;
    if (feed.catchingUp === null) {
      const first = tellNext(feed, feed.generation);
      feed.catchingUp = { first, all: catchUp(feed, first) };
      feed.catchingUp.all.catch(() => {}); // catchUp has said so, and put the room in doubt
    }
    return feed.catchingUp;
  }

  /** Reads until the target is delivered; the target may rise meanwhile. Asked for only when there is something to read. */
  async function catchUp(feed: State, first: Promise<void>): Promise<void> {
    const { generation } = feed;
    try {
      await first;
      // No `await` between the last look at the target and the end: else a target that is raised in between is never read.
      while ((feed.delivered as Seq) < feed.target) {
        // Members get no more at once than they can take.
        await relief(feed.room);
        await permitted(() => tellNext(feed, generation));
      }
    } catch (error) {
      log.warn("room_gap_unread", { room: feed.room, error });
      // Members wait for this gap, and queued messages stand behind it: check this room again.
      doubts.add(feed.room);
      throw error;
    } finally {
      feed.catchingUp = null;
    }
  }

  /** Reads one page of what is missing, and delivers it. */
  async function tellNext(feed: State, generation: number): Promise<void> {
    if (feed.generation !== generation) throw epochChanged();
    const page = await repository.readAfter(feed.room, feed.delivered as Seq, CATCH_UP);
    metrics.count("room_gaps_read_total");
    if (feed.generation === generation && page.head.epoch !== feed.epoch) forget(feed);
    if (feed.generation !== generation) throw epochChanged();
    noteBounds(feed, page.head);
    tellPage(feed, page);
  }

  function tellPage(feed: State, page: RoomPage): void {
    const delivered = feed.delivered as Seq;
    // While we read, the missing numbers may have come by the bus after all.
    const missing = page.messages
      .filter(({ seq }) => seq > delivered)
      .map((message) => new EncodedEntry(message));
    const [first] = missing;
    const isGone =
      first === undefined
        ? page.messages.length === 0 && delivered < feed.target
        : first.seq !== delivered + 1;
    if (isGone) skip(feed, missing.at(-1)?.seq ?? feed.target);
    else tell(feed, missing);
    tellAside(feed);
  }

  /** Retention took what comes next: these numbers will never come. Members go, and learn so when they resume. */
  function skip(feed: State, to: Seq): void {
    log.warn("room_gap_gone", { room: feed.room, after: feed.delivered, to });
    feed.delivered = to;
    kept.drop(feed);
    if (feed.occupied) dismiss(feed.room);
  }

  /** @param before the feed, and what it had delivered when the head was asked for; null where there was none */
  async function compare(
    epoch: Epoch,
    head: Seq,
    before: { readonly feed: State; readonly delivered: Seq | null; readonly generation: number } | null,
  ): Promise<void> {
    if (before === null || before.feed.generation !== before.generation) return;
    const { feed } = before;
    if (feed.delivered === null || before.delivered === null) return;
    if (feed.epoch !== epoch) return forget(feed);
    const wasAhead = feed.ahead;
    feed.ahead = head < before.delivered;
    // A server that was just elected may for a moment know less than its predecessor had confirmed: once is no proof, and
    // to begin anew would tell everyone everything again.
    if (feed.ahead && wasAhead) return forget(feed);
    if (head <= feed.delivered) return;
    const isNew = feed.catchingUp === null;
    const { first } = advance(feed, head);
    // A page takes memory: one after the other. What comes after it keeps no other room waiting.
    if (isNew) await first;
  }

  const isUnused = (feed: State) => !feed.occupied && feed.holds === 0;

  function dropIfUnused(feed: State): void {
    if (!isUnused(feed)) return;
    feeds.delete(feed.room);
    feed.aside.clear();
    kept.drop(feed);
  }

  function feedOf(room: RoomName): State {
    const known = feeds.get(room);
    if (known !== undefined) return known;
    const made: State = {
      room,
      epoch: null,
      delivered: null,
      firstSeq: SEQ_ZERO,
      boundsMs: 0,
      aside: newAside(),
      target: SEQ_ZERO,
      catchingUp: null,
      holds: 0,
      occupied: false,
      generation: 0,
      ahead: false,
    };
    feeds.set(room, made);
    return made;
  }

  function recall(feed: State, since: Seq): readonly EncodedEntry[] | null {
    return since === feed.delivered ? [] : kept.after(feed, since);
  }

  /** What a join may do with the feed that it has started. */
  function startedFeed(feed: State): Feed {
    const { generation } = feed;
    const delivered = () => {
      if (feed.generation !== generation || feed.delivered === null) throw epochChanged();
      return feed.delivered;
    };
    return {
      delivered,
      async advanceTo(target) {
        if (target > delivered()) await advance(feed, target).all;
        assert(delivered() >= target, "a feed has delivered what it was advanced to");
      },
      recall(since) {
        delivered();
        return recall(feed, since);
      },
      remember(entries) {
        assert(entries.at(-1)?.seq === delivered(), "what is remembered ends with what was delivered last");
        kept.extend(feed, entries);
      },
    };
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
      feed.holds += 1;
      const { epoch, generation } = feed;
      return {
        known() {
          if (repository.shared || doubts.has(room)) return null;
          if (feed.epoch === null || feed.delivered === null) return null;
          if (feed.target > feed.delivered || monotonicNow() - feed.boundsMs > LIMITS.feedBoundsMs)
            return null;
          return { epoch: feed.epoch, seq: feed.delivered, firstSeq: feed.firstSeq };
        },
        remembers: (since) => recall(feed, since) !== null,
        start(head, isAsked = true) {
          if (feed.epoch !== null && feed.epoch !== head.epoch) {
            // Another join has found an epoch while this one was asking: which of the two is the newer is not known.
            if (feed.epoch !== epoch || feed.generation !== generation) {
              doubts.add(room);
              throw epochChanged();
            }
            forget(feed);
          }
          if (feed.epoch === null) begin(feed, head);
          if (isAsked) noteBounds(feed, head);
          return startedFeed(feed);
        },
        release() {
          feed.holds -= 1;
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
      for (const room of rooms) doubts.add(room);
    },

    async beat() {
      const doubtful = doubts.beat(repository.status().up, (room) => feeds.has(room));
      const asked = repository.shared ? [...feeds.keys()] : doubtful;
      for (let from = 0; from < asked.length; from += LIMITS.headPollRoomsMax) {
        const rooms = asked.slice(from, from + LIMITS.headPollRoomsMax);
        const before = rooms.map((room) => {
          const feed = feeds.get(room);
          return feed === undefined ? null : { feed, delivered: feed.delivered, generation: feed.generation };
        });
        try {
          const { epoch, seqs } = await repository.heads(rooms);
          for (const [index, seq] of seqs.entries())
            await compare(epoch, seq, before[index] ?? null).catch(() => {});
        } catch (error) {
          for (const room of rooms) doubts.add(room);
          log.debug("room_heads_unknown", { rooms: rooms.length, error });
        }
      }
    },
  };
}
