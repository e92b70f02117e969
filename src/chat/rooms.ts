/** Joining and leaving: a member's replay and its live messages meet without a hole and without a repeat. */

import { speakerOf } from "../auth/viewer.ts";
import type { RoomName, Seq } from "../domain/ids.ts";
import type { Message } from "../domain/message.ts";
import { lostReason, type RoomHead } from "../domain/sequence.ts";
import { type Millis, toMillis } from "../domain/time.ts";
import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { JoinRoom, LeaveRoom, Replay } from "../protocol/events.ts";
import { messageToWire, type WireMessage } from "../protocol/wire.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { MessageRepository, RoomPage } from "../repository/repository.ts";
import type { Admission } from "./admission.ts";
import type { Feeds } from "./feeds.ts";
import type { Occupancy, Presence } from "./presence.ts";
import type { Session } from "./session.ts";
import { createUnderWay } from "./under-way.ts";

export interface Joined {
  readonly room: RoomName;
  /** The bounds that the member starts from: its first live message is `head.seq + 1`. */
  readonly head: RoomHead;
  readonly replay: Replay;
}

/** Tells every other connection in the room who came or went. */
export type Announce = (presence: Presence, at: Millis, exceptConnection: string) => void;

export interface Rooms {
  /**
   * Joins the session to the room. `enter` is called once, in the very tick from which live messages count: it must
   * answer the client and subscribe it before it returns. Refuses with `storage_unavailable`, `rate_limited`, or
   * `overloaded` when the session is in too many rooms, or all of them together are.
   */
  join(session: Session, command: JoinRoom, enter: (joined: Joined) => void): Promise<void>;
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
  /** Rooms that all sessions together may be in, each session's rooms counted. */
  readonly joinedRoomsMax: number;
  readonly metrics: Metrics;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
}

const REPLAY = { messagesMax: LIMITS.replayMessagesMax, textBytesMax: LIMITS.replayBytesMax };

export function createRooms(options: RoomsOptions): Rooms {
  const { repository, feeds, occupancy, announce, admission, joinedRoomsMax, metrics, now } = options;
  /** That all sessions are in. */
  let joinedRooms = 0;
  const underWay = createUnderWay();
  const tell = (presences: readonly Presence[], session: Session) => {
    for (const presence of presences) announce(presence, toMillis(now()), session.id);
  };

  /** The bounds of the room, with what came after `since` where it can still be told. */
  async function lookUp({
    room,
    since,
    epoch,
  }: JoinRoom): Promise<{ head: RoomHead; replay: RoomPage | Replay }> {
    if (since === undefined) return { head: await repository.head(room), replay: { kind: "none" } };
    const page = await repository.readAfter(room, since, REPLAY);
    const reason = lostReason(page.head, since, epoch);
    return { head: page.head, replay: reason === undefined ? page : { kind: "lost", reason } };
  }

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

  async function join(session: Session, command: JoinRoom, enter: (joined: Joined) => void): Promise<void> {
    const { room } = command;
    const userId = speakerOf(session.viewer, command.userId);
    if (!session.rooms.has(room)) admitRoom(session);
    admission.admitJoin(session.allowance);
    const hold = feeds.hold(room);
    try {
      const { head, replay } = await lookUp(command);
      const feed = hold.start(head);
      // What the store has and the room was not told is delivered first, so that the others see it before this one's
      // live messages and this one only in its replay.
      await feed.advanceTo(head.seq);
      if (session.ended) return;
      // From here to the end of `enter` there is no await: the first message after this is `delivered + 1`.
      const seq = feed.delivered();
      const joined: Joined = {
        room,
        head: { ...head, seq },
        replay: "messages" in replay && "more" in replay ? replayUpTo(replay, hold.collected, seq) : replay,
      };
      feeds.setOccupied(room, true);
      if (!session.rooms.has(room)) joinedRooms += 1;
      session.rooms.add(room);
      const presences = occupancy.enter(room, session.id, userId);
      enter(joined);
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

/**
 * The page from the store, and behind it what was delivered while it was read, cut to the bounds of one replay.
 * @param live what was delivered since before the page was read, oldest first
 * @param seq the number that the replay must reach to be complete
 */
function replayUpTo(page: RoomPage, live: readonly Message[], seq: Seq): Replay {
  const lastRead = page.messages.at(-1)?.seq ?? page.head.seq;
  const missed = [...page.messages];
  let last = lastRead;
  // Only what follows without a hole: a page from just before the feed began may lack what nobody was told live. The
  // replay then ends early, and says so.
  for (const message of page.more ? [] : live) {
    if (message.seq !== last + 1) continue;
    missed.push(message);
    last = message.seq;
  }
  const messages: WireMessage[] = [];
  let bytes = 0;
  for (const message of missed) {
    const wire = messageToWire(message);
    bytes += Buffer.byteLength(JSON.stringify(wire));
    // One message always fits: config.ts keeps the longest one below the outbound ceiling.
    if (messages.length > 0 && (messages.length === REPLAY.messagesMax || bytes > LIMITS.replayBytesMax))
      break;
    messages.push(wire);
  }
  const reached = messages.length === 0 ? lastRead : (messages.at(-1) as WireMessage).seq;
  return { kind: "recovered", messages, complete: reached === seq };
}
