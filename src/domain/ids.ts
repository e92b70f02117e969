/** The names of things, branded, with the only functions that can make them. */

import { LIMITS } from "../limits.ts";

declare const brand: unique symbol;
type Branded<T, B extends string> = T & { readonly [brand]: B };

/** A named conversation. */
export type RoomName = Branded<string, "RoomName">;
/** Who speaks. */
export type UserId = Branded<string, "UserId">;
/** A sender's own name for a message, for harmless retries. */
export type ClientId = Branded<string, "ClientId">;
/** A place in a room's total order: 1, 2, 3, …; 0 is the place before the first. */
export type Seq = Branded<number, "Seq">;
/** Names one state of a store that goes on: a wiped or restored store has another epoch. */
export type Epoch = Branded<string, "Epoch">;

/** What a name must be, in words for a refusal. */
export const NAME_RULE = `must be 1 to ${LIMITS.nameCodePointsMax} characters, not blank, without control characters, and not "." or ".."`;

const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;

function isName(value: string): boolean {
  // A code point is one or two UTF-16 units, so the exact count is needed only between the two bounds.
  if (value.length === 0 || value.length > 2 * LIMITS.nameCodePointsMax) return false;
  if (value.length > LIMITS.nameCodePointsMax && [...value].length > LIMITS.nameCodePointsMax) return false;
  if (value === "." || value === "..") return false;
  return !CONTROL.test(value) && value.isWellFormed() && value.trim() !== "";
}

/** The room of that name, or undefined when it cannot be one (see NAME_RULE). Compared as it is: no normalisation. */
export const parseRoomName = (value: string): RoomName | undefined =>
  isName(value) ? (value as RoomName) : undefined;

export const parseUserId = (value: string): UserId | undefined =>
  isName(value) ? (value as UserId) : undefined;

export const parseClientId = (value: string): ClientId | undefined =>
  isName(value) ? (value as ClientId) : undefined;

/** A place in a room's order: a whole number from 0 to 2^53 - 1. */
export const parseSeq = (value: number): Seq | undefined =>
  Number.isSafeInteger(value) && value >= 0 ? (value as Seq) : undefined;

const EPOCH = /^[0-9A-Za-z_-]{1,64}$/;

export const parseEpoch = (value: string): Epoch | undefined =>
  EPOCH.test(value) ? (value as Epoch) : undefined;

/** The place `steps` after this one. */
export const seqAfter = (seq: Seq, steps = 1): Seq => (seq + steps) as Seq;

export const SEQ_ZERO = 0 as Seq;
