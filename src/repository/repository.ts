/** The port through which everything that was said is kept and read again. */

import type { Log } from "../observe/log.ts";
import type { Draft, Message, PastMessage } from "../domain/message.ts";
import type { ChatError } from "../errors.ts";
import type { Epoch, RoomName, Seq, UserId } from "../domain/ids.ts";
import type { RoomHead } from "../domain/sequence.ts";
import type { Millis } from "../domain/time.ts";

/** What became of a draft. `epoch` is the store's at that moment: a message belongs to it and to no other. */
export type AppendResult =
  | { readonly kind: "stored"; readonly message: Message; readonly epoch: Epoch }
  /** The same `(room, user, client id)` and text was stored before: this is that message. */
  | { readonly kind: "duplicate"; readonly message: Message; readonly epoch: Epoch }
  /** Certainly not stored by this call: its client id has another text, or the store could not be written. */
  | { readonly kind: "rejected"; readonly error: ChatError }
  /** It may be stored, or land later: the store did not say. */
  | { readonly kind: "unknown"; readonly error: ChatError };

/** The newest numbers of some rooms, all of one epoch, in the order of the question. */
export interface RoomHeads {
  readonly epoch: Epoch;
  readonly seqs: readonly Seq[];
}

/** At most so many messages, and none after the one that brings the UTF-8 bytes of the texts to the ceiling. */
export interface PageBounds {
  readonly messagesMax: number;
  readonly textBytesMax: number;
}

/** Bounds on `receivedAt`: `from` inclusive, `to` exclusive. */
export interface TimeRange {
  readonly from?: Millis;
  readonly to?: Millis;
}

/** A stretch of a room, and the room's bounds from the same view of the store. */
export interface RoomPage {
  readonly head: RoomHead;
  readonly messages: readonly Message[];
  /** Whether the stretch was cut by a bound: there is more in the direction of reading. */
  readonly more: boolean;
}

/** A place in a user's history, which is ordered by `(receivedAt, id)`. */
export interface UserPlace {
  readonly receivedAt: Millis;
  readonly id: string;
}

/** A place in the list of rooms, which is ordered by `(lastMessageAt, room)`. */
export interface RoomPlace {
  readonly lastMessageAt: Millis;
  readonly room: RoomName;
}

export interface RoomSummary extends RoomPlace {
  readonly seq: Seq;
}

export type StoreStatus = { readonly up: true } | { readonly up: false; readonly reason: string };

/**
 * What every store MUST keep. Every operation settles within LIMITS.storeTimeoutMs or rejects with
 * ChatError("storage_unavailable"), a read that could not even begin also with "overloaded"; none rejects with anything else,
 * or says a database's words to a user. `append` rejects only while it is unknown whether anything was stored.
 *
 * - A message that `append` reports as stored is durable: it MUST survive the loss of the process and of power (SQLite:
 *   committed and fsynced; MongoDB: `w: majority`, journaled).
 * - No read MUST show a message that a crash could still unsay.
 * - A room's numbers are 1, 2, 3, … without a hole and without a repeat, also where other services write the same store.
 *   A room that another program empties MUST go on after a number that none of its messages exceeded, `firstSeq` with it:
 *   numbers MAY be skipped there (MongoDB: up to some 1,000), and a reader is told that something is missing.
 * - Along a room's numbers `receivedAt` never falls: append raises it to the last one's where the clock went back.
 * - `(room, userId, clientId)` is unique for the life of the message, also within one batch and between processes.
 * - After a rejection the store goes on by itself as soon as it can; nothing has to be reopened.
 */
export interface MessageRepository {
  readonly kind: "sqlite" | "mongodb";
  /** Whether other processes may append to the same rooms. */
  readonly shared: boolean;
  /** Where it keeps the messages, for the operator: a file, or a database without its credentials. */
  readonly place: string;

  /** How the store was when it was last touched. Never waits. */
  status(): StoreStatus;

  /**
   * Stores the drafts in this order, together: one transaction, or one ordered batch. The results stand in the order
   * of the drafts. A stored message's numbers follow the drafts' order within each room. One call at a time: the
   * caller waits for the result before the next call. Where it is certain that nothing was stored (the store is down, closed, full
   * or too slow to begin) every draft is `rejected`. Rejects when the outcome of every draft is unknown.
   */
  append(drafts: readonly Draft[]): Promise<readonly AppendResult[]>;

  /** The room's bounds now; an unknown room is an empty one. */
  head(room: RoomName): Promise<RoomHead>;

  /** The newest numbers of these rooms (at most LIMITS.headPollRoomsMax), 0 for an unknown one. */
  heads(rooms: readonly RoomName[]): Promise<RoomHeads>;

  /** What came after `after`, oldest first, without a hole (from `firstSeq` on where `after` lies below it). */
  readAfter(room: RoomName, after: Seq, bounds: PageBounds, range?: TimeRange): Promise<RoomPage>;

  /** What came before `before` (null: from the newest on), newest first. */
  readBefore(room: RoomName, before: Seq | null, bounds: PageBounds, range?: TimeRange): Promise<RoomPage>;

  /** What the user sent, newest first by `(receivedAt, id)`, strictly before `before`; in one room where it is given. */
  readByUser(query: {
    readonly userId: UserId;
    readonly room?: RoomName;
    readonly before: UserPlace | null;
    readonly bounds: PageBounds;
    readonly range?: TimeRange;
  }): Promise<{ readonly messages: readonly PastMessage[]; readonly more: boolean }>;

  /** Rooms that hold messages, most recently active first, strictly after `before` in that order. */
  readRooms(query: {
    readonly before: RoomPlace | null;
    readonly roomsMax: number;
  }): Promise<{ readonly rooms: readonly RoomSummary[]; readonly more: boolean }>;

  /**
   * A number that differs once anything has changed that reads show of this room or user; null where that cannot be known:
   * others write too, or the store is in trouble. What is read after it was asked for is at least as new. Never waits.
   */
  revision(subject: PageSubject): number | null;

  /** Finishes what was begun and lets go of the store. */
  close(): Promise<void>;
}

/** Whose messages a page shows. */
export type PageSubject =
  { readonly kind: "room"; readonly name: RoomName } | { readonly kind: "user"; readonly name: UserId };

/** What ties a repository to the world around it. Chance comes from outside. */
export interface RepositoryWorld {
  readonly log: Log;
  /** A name that no other epoch has. */
  readonly newEpoch: () => Epoch;
}
