/** Joining and leaving: a member's replay and its live messages meet without a hole and without a repeat. */

import { speakerOf } from "../auth/viewer.ts";
import type { RoomName, UserId } from "../domain/ids.ts";
import type { RoomHead } from "../domain/sequence.ts";
import { type Millis, toMillis } from "../domain/time.ts";
import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { JoinRoom, LeaveRoom, Replay } from "../protocol/events.ts";
import type { EncodedEntry } from "../protocol/wire.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { MessageRepository } from "../repository/repository.ts";
import type { Turns } from "../runtime/turns.ts";
import type { Admission } from "./admission.ts";
import type { Feeds } from "./feeds.ts";
import type { Occupancy, Presence } from "./presence.ts";
import { findOut, replayOf } from "./replay.ts";
import type { Session } from "./session.ts";
import { createUnderWay } from "./under-way.ts";

export interface Joined {
  readonly room: RoomName;
  /** The bounds that the member starts from: its first live message is `head.seq + 1`. */
  readonly head: RoomHead;
  readonly replay: Replay<EncodedEntry>;
}

/** How a connection is written to that joins. */
export interface Joining {
  /**
   * Whether so little is unread that a replay may be written; where it is not so, as soon as it is. False when the connection
   * takes too long, or is gone.
   */
  takesMore(): boolean | Promise<boolean>;
  /**
   * Called once, in the very tick from which live messages count: it must answer the client and subscribe it before it
   * returns.
   */
  enter(joined: Joined): void;
}

/** Tells every other connection in the room who came or went. */
export type Announce = (presence: Presence, at: Millis, exceptConnection: string) => void;

export interface Rooms {
  /**
   * Joins the session to the room, unless the session ends meanwhile. Refuses with `storage_unavailable`, `rate_limited`, or
   * `overloaded` when the session is in too many rooms, or all of them together are, or too many wait for a replay.
   */
  join(session: Session, command: JoinRoom, joining: Joining): Promise<void>;
  /** Refuses with `not_in_room`. */
  leave(session: Session, command: LeaveRoom): void;
  /** The connection is gone: it leaves every room. */
  end(session: Session): void;
  /** Resolves when every join that was taken before this has its answer, whatever comes meanwhile. */
  settled(): Promise<void>;
}

export interface RoomsOptions {
  readonly repository: Pick<MessageRepository, "head" | "readAfter">;
  readonly feeds: Feeds;
  readonly occupancy: Occupancy;
  readonly announce: Announce;
  readonly admission: Pick<Admission, "admitJoin">;
  /** For replays. */
  readonly turns: Turns;
  /** Rooms that all sessions together may be in, each session's rooms counted. */
  readonly joinedRoomsMax: number;
  readonly metrics: Metrics;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
}

/** What a join that has waited for its turn takes of it at least. */
const JOIN_BYTES_MIN = 4_000;

export function createRooms(options: RoomsOptions): Rooms {
  const { repository, feeds, occupancy, announce, admission, turns, joinedRoomsMax, metrics, now } = options;
  /** That all sessions are in. */
  let joinedRooms = 0;
  const underWay = createUnderWay();
  const tell = (presences: readonly Presence[], session: Session) => {
    for (const presence of presences) announce(presence, toMillis(now()), session.id);
  };

  function exit(session: Session, room: RoomName): void {
    session.rooms.delete(room);
    joinedRooms -= 1;
    const presences = occupancy.exit(room, session.id);
    if (occupancy.connections(room) === 0) feeds.setOccupied(room, false);
    tell(presences, session);
  }

  /** Lets the session into one room more, or refuses it. A join that is under way counts as a room. */
  function admitRoom(session: Session): void {
    const isFull = session.rooms.size >= LIMITS.roomsPerConnectionMax;
    if (!isFull && joinedRooms + underWay.count() < joinedRoomsMax) return;
    metrics.count("joins_overloaded_total");
    throw new ChatError(
      "overloaded",
      isFull ? { text: `A connection may be in ${LIMITS.roomsPerConnectionMax} rooms at once.` } : {},
    );
  }

  async function join(session: Session, command: JoinRoom, joining: Joining): Promise<void> {
    const userId = speakerOf(session.viewer, command.userId);
    if (!session.rooms.has(command.room)) admitRoom(session);
    admission.admitJoin(session.allowance);
    if (command.since === undefined) {
      await enter(session, command, userId, joining, false);
      return;
    }
    // A replay is long: it goes to a connection that takes it, and when it is its turn.
    const isCut = !(await joining.takesMore());
    const hasWaited = turns.isBusy();
    if (hasWaited) await turns.next();
    try {
      if (!session.ended) await enter(session, command, userId, joining, isCut);
    } finally {
      turns.spend(hasWaited ? JOIN_BYTES_MIN : 0);
    }
  }

  async function enter(
    session: Session,
    command: JoinRoom,
    userId: UserId | undefined,
    joining: Joining,
    isCut: boolean,
  ): Promise<void> {
    const { room, since } = command;
    const hold = feeds.hold(room);
    try {
      const found = await findOut(repository, command, hold, isCut);
      const feed = hold.start(found.head, found.isAsked);
      // What the store has and the room was not told is delivered first, so that the others see it before this one's
      // live messages and this one only in its replay.
      await feed.advanceTo(found.head.seq);
      // A store over a network answers many at once.
      if (since !== undefined && turns.isSpent()) await turns.next();
      if (session.ended) return;
      // From here to the end of `enter` there is no await: the first message after this is `delivered + 1`.
      const seq = feed.delivered();
      const replay = replayOf(command, found, feed, seq, isCut);
      feeds.setOccupied(room, true);
      if (!session.rooms.has(room)) joinedRooms += 1;
      session.rooms.add(room);
      const presences = occupancy.enter(room, session.id, userId);
      joining.enter({ room, head: { ...found.head, seq }, replay });
      // At once: the next one that was read together with it looks whether there is still time, before anything here returns.
      if (replay.kind === "recovered")
        turns.spend(replay.messages.reduce((bytes, message) => bytes + message.bytes, 0));
      tell(presences, session);
    } finally {
      hold.release();
    }
  }

  return {
    async join(...asked) {
      const joining = join(...asked);
      const end = underWay.begin();
      try {
        await joining;
      } finally {
        end();
      }
    },

    leave(session, { room }) {
      if (!session.rooms.has(room)) throw new ChatError("not_in_room");
      exit(session, room);
    },

    end(session) {
      session.ended = true;
      for (const room of session.rooms) exit(session, room);
    },

    settled: underWay.settled,
  };
}
