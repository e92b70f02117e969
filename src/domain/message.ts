/** A message, before and after it has its place in a room. */

import type { ClientId, RoomName, Seq, UserId } from "./ids.ts";
import type { Millis } from "./time.ts";

/** What a sender wants to say, complete but for its place. */
export interface Draft {
  /** UUIDv7, made by the server. */
  readonly id: string;
  readonly room: RoomName;
  readonly userId: UserId;
  readonly text: string;
  /** UTF-8 length of the text. */
  readonly textBytes: number;
  /** Given by the sender, or the receipt time. Never decides order. */
  readonly timestamp: Millis;
  /** The server's receipt time. The store may raise it to the room's last one, so that it never falls along `seq`. */
  readonly receivedAt: Millis;
  readonly clientId: ClientId | null;
}

/** What was said, at its place in the room. */
export interface Message {
  readonly id: string;
  readonly room: RoomName;
  readonly seq: Seq;
  readonly userId: UserId;
  readonly text: string;
  readonly timestamp: Millis;
  readonly receivedAt: Millis;
}

/** A message as a user's history knows it: one that an older program wrote has no place in its room yet. */
export type PastMessage = Omit<Message, "seq"> & { readonly seq: Seq | null };

/** Why a text cannot be sent; undefined when it can, apart from its length. */
export function textFault(text: string): string | undefined {
  if (text.includes("\u0000")) return "must not contain NUL";
  if (!text.isWellFormed()) return "must be well-formed Unicode";
  if (text.trim() === "") return "must not be blank";
  return undefined;
}
