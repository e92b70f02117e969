/**
 * Cursors: opaque to clients, and each good for one question only. A cursor carries a digest of the question that it
 * continues (the list, the names in it, its bounds in time), so that it cannot silently answer another one.
 */

import * as v from "valibot";
import type { Epoch, RoomName, Seq, UserId } from "../domain/ids.ts";
import { type Millis, toMillis } from "../domain/time.ts";
import { assert, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { EpochSchema, RoomNameSchema, SeqSchema } from "./wire.ts";

export interface Cursor<Place> {
  write(place: Place): string;
  /** Refuses with `invalid_request` what this question's `write` did not make. */
  read(text: string): Place;
}

/** Where the reading of a room goes on: below a place, newest first, or above it, oldest first. */
export interface RoomCursorPlace {
  readonly kind: "before" | "after";
  readonly seq: Seq;
  readonly epoch: Epoch;
}

export interface UserCursorPlace {
  readonly receivedAt: Millis;
  readonly id: string;
}

export interface RoomsCursorPlace {
  readonly lastMessageAt: Millis;
  readonly room: RoomName;
}

interface Bounds {
  readonly from?: Millis;
  readonly to?: Millis;
}

const MillisSchema = v.pipe(v.number(), v.safeInteger(), v.transform(toMillis));

export const roomCursor = (room: RoomName, { from, to }: Bounds): Cursor<RoomCursorPlace> =>
  cursorOf(
    ["room", room, from, to],
    v.strictObject({ d: v.picklist(["before", "after"]), s: SeqSchema, e: EpochSchema }),
    ({ kind, seq, epoch }) => ({ d: kind, s: seq, e: epoch }),
    ({ d, s, e }) => ({ kind: d, seq: s, epoch: e }),
  );

export const userCursor = (
  userId: UserId,
  room: RoomName | undefined,
  { from, to }: Bounds,
): Cursor<UserCursorPlace> =>
  cursorOf(
    ["user", userId, room, from, to],
    v.strictObject({ t: MillisSchema, i: v.string() }),
    ({ receivedAt, id }) => ({ t: receivedAt, i: id }),
    ({ t, i }) => ({ receivedAt: t, id: i }),
  );

export const roomsCursor = (): Cursor<RoomsCursorPlace> =>
  cursorOf(
    ["rooms"],
    v.strictObject({ t: MillisSchema, r: RoomNameSchema }),
    ({ lastMessageAt, room }) => ({ t: lastMessageAt, r: room }),
    ({ t, r }) => ({ lastMessageAt: t, room: r }),
  );

const BASE64URL = { alphabet: "base64url", omitPadding: true } as const;
const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

function cursorOf<Packed, Place>(
  question: readonly (string | number | undefined)[],
  schema: v.GenericSchema<unknown, Packed>,
  pack: (place: Place) => Packed,
  unpack: (packed: Packed) => Place,
): Cursor<Place> {
  const digest = fnv1a64(JSON.stringify(question));
  const Whole = v.strictTuple([v.literal(digest), schema]);
  return {
    write(place) {
      const text = encoder.encode(JSON.stringify([digest, pack(place)])).toBase64(BASE64URL);
      assert(text.length <= LIMITS.cursorCharsMax, "a cursor fits its ceiling");
      return text;
    },
    read(text) {
      const whole = v.safeParse(Whole, unpackJson(text));
      if (whole.success) return unpack(whole.output[1]);
      throw new ChatError("invalid_request", {
        issues: [
          {
            path: "cursor",
            message: "must be a next_cursor of this very list, asked for with the same filters",
          },
        ],
      });
    },
  };
}

/**
 * FNV-1a with 64 bits (draft-eastlake-fnv, section 2), in hexadecimal. It keeps apart what is mixed up by mistake; it
 * need not withstand malice, since a made-up cursor shows only what everyone may see.
 */
function fnv1a64(text: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of encoder.encode(text)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash.toString(16).padStart(16, "0");
}

/** Undefined when the text is not base64url of JSON. */
function unpackJson(text: string): unknown {
  if (text.length > LIMITS.cursorCharsMax) return undefined;
  try {
    return JSON.parse(decoder.decode(Uint8Array.fromBase64(text, BASE64URL)));
  } catch {
    return undefined;
  }
}
