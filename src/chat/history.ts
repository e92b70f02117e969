/** Reading what was said: the rules of paging that both faces share. A history answer never lies: it refuses instead. */

import type { Epoch, RoomName, Seq, UserId } from "../domain/ids.ts";
import type { Message, PastMessage } from "../domain/message.ts";
import { lostReason, type RoomHead } from "../domain/sequence.ts";
import { ChatError } from "../errors.ts";
import { JSON_ESCAPE_FACTOR } from "../limits.ts";
import type {
  MessageRepository,
  PageSubject,
  RoomPage,
  RoomPlace,
  RoomSummary,
  TimeRange,
  UserPlace,
} from "../repository/repository.ts";

/** From where a room is read on. */
export type RoomStart =
  | { readonly kind: "newest" }
  /** Newest first, below a place of this epoch of the store. */
  | { readonly kind: "before"; readonly seq: Seq; readonly epoch: Epoch }
  /** Oldest first, above a place; with its epoch where the reader knows it. */
  | { readonly kind: "after"; readonly seq: Seq; readonly epoch: Epoch | undefined };

/** Where a room is read on after a page: never the newest end again, and always in the epoch that it was read in. */
export interface RoomNext {
  readonly kind: "before" | "after";
  readonly seq: Seq;
  readonly epoch: Epoch;
}

export interface History {
  /** See MessageRepository.revision. */
  revision(subject: PageSubject): number | null;
  /**
   * A page of a room and the place to read on from (null: there is no more).
   * Refuses with `epoch_changed`, `invalid_request` when `after` is ahead of the room, or `history_truncated`.
   */
  ofRoom(query: {
    readonly room: RoomName;
    readonly start: RoomStart;
    readonly messagesMax: number;
    readonly range?: TimeRange;
  }): Promise<{ head: RoomHead; messages: readonly Message[]; next: RoomNext | null }>;

  ofUser(query: {
    readonly userId: UserId;
    readonly room?: RoomName;
    readonly before: UserPlace | null;
    readonly messagesMax: number;
    readonly range?: TimeRange;
  }): Promise<{ messages: readonly PastMessage[]; next: UserPlace | null }>;

  rooms(query: {
    readonly before: RoomPlace | null;
    readonly roomsMax: number;
  }): Promise<{ rooms: readonly RoomSummary[]; next: RoomPlace | null }>;
}

/** @param pageBytesMax of the messages on a page, as JSON; one message may be longer, and is then a page by itself */
export function createHistory(
  repository: MessageRepository,
  { pageBytesMax }: { pageBytesMax: number },
): History {
  return {
    revision: (subject) => repository.revision(subject),

    async ofRoom({ room, start, messagesMax, range }) {
      const bounds = { messagesMax, textBytesMax: pageBytesMax };
      const found =
        start.kind === "after"
          ? await repository.readAfter(room, start.seq, bounds, range)
          : await repository.readBefore(room, start.kind === "before" ? start.seq : null, bounds, range);
      refuseLost(found.head, start);
      const page = { head: found.head, ...fitting(found, pageBytesMax) };
      return { head: page.head, messages: page.messages, next: placeAfter(page, start) };
    },

    async ofUser({ userId, room, before, messagesMax, range }) {
      const found = await repository.readByUser({
        userId,
        before,
        bounds: { messagesMax, textBytesMax: pageBytesMax },
        ...(room !== undefined && { room }),
        ...(range !== undefined && { range }),
      });
      const page = fitting(found, pageBytesMax);
      const last = page.messages.at(-1);
      const next = page.more && last !== undefined ? { receivedAt: last.receivedAt, id: last.id } : null;
      return { messages: page.messages, next };
    },

    async rooms({ before, roomsMax }) {
      const page = await repository.readRooms({ before, roomsMax });
      const last = page.rooms.at(-1);
      const next =
        page.more && last !== undefined ? { lastMessageAt: last.lastMessageAt, room: last.room } : null;
      return { rooms: page.rooms, next };
    },
  };
}

function refuseLost(head: RoomHead, start: RoomStart): void {
  if (start.kind === "newest") return;
  if (start.kind === "after") {
    const reason = lostReason(head, start.seq, start.epoch);
    if (reason === "epoch_changed") throw new ChatError("epoch_changed", { facts: { epoch: head.epoch } });
    if (reason === "truncated")
      throw new ChatError("history_truncated", { facts: { first_seq: head.firstSeq } });
    if (reason === "ahead") {
      throw new ChatError("invalid_request", {
        issues: [{ path: "after", message: "is ahead of the room" }],
      });
    }
    return;
  }
  if (start.epoch !== head.epoch) throw new ChatError("epoch_changed", { facts: { epoch: head.epoch } });
  if (head.firstSeq > 1 && start.seq <= head.firstSeq) {
    throw new ChatError("history_truncated", { facts: { first_seq: head.firstSeq } });
  }
}

interface Stretch<M> {
  readonly messages: readonly M[];
  readonly more: boolean;
}

/**
 * As many of the messages, from the first on, as fit a page's bytes as JSON; the first in any case. Ordinary pages are seen
 * to fit by their lengths alone.
 */
function fitting<M extends PastMessage>(stretch: Stretch<M>, bytesMax: number): Stretch<M> {
  const { messages } = stretch;
  let bytesAtMost = 0;
  for (const message of messages)
    bytesAtMost += aroundBytesMax(message) + message.text.length * JSON_ESCAPE_FACTOR;
  if (bytesAtMost <= bytesMax) return stretch;
  let bytes = 0;
  const end = messages.findIndex((message, index) => {
    bytes += aroundBytesMax(message) + Buffer.byteLength(JSON.stringify(message.text));
    return index > 0 && bytes > bytesMax;
  });
  return end < 0 ? stretch : { messages: messages.slice(0, end), more: true };
}

/** The most that a message takes as JSON beside its text. */
const aroundBytesMax = ({ room, userId }: PastMessage) =>
  (room.length + userId.length) * JSON_ESCAPE_FACTOR + FIELDS_BYTES_MAX;

/** Field names, id, number and times. */
const FIELDS_BYTES_MAX = 256;

function placeAfter(page: RoomPage, start: RoomStart): RoomNext | null {
  const last = page.messages.at(-1);
  if (!page.more || last === undefined) return null;
  return { kind: start.kind === "after" ? "after" : "before", seq: last.seq, epoch: page.head.epoch };
}
