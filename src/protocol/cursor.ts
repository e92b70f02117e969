/**
 * Cursors: opaque to clients, and each good for one list only. A cursor carries a digest of the list and the name in it, so
 * that it cannot silently continue another one, and what the first request asked for, which its reader may say again.
 */

import * as v from "valibot";
import type { Epoch, RoomName, Seq, UserId } from "../domain/ids.ts";
import { type Millis, toMillis } from "../domain/time.ts";
import { assert, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { EpochSchema, RoomNameSchema, SeqSchema } from "./wire.ts";

export interface Cursor<Place, Asked> {
  /** @param asked the parameters of the request that the list began with */
  write(place: Place, asked: Asked): string;
  /** Refuses with `invalid_request` what this list's `write` did not make. */
  read(text: string): { readonly place: Place; readonly asked: Asked };
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
  readonly from?: Millis | undefined;
  readonly to?: Millis | undefined;
}
export interface RoomAsked extends Bounds {
  readonly after?: Seq | undefined;
}
export interface UserAsked extends Bounds {
  readonly room?: RoomName | undefined;
}

const MillisSchema = v.pipe(v.number(), v.safeInteger(), v.transform(toMillis));
const bounds = { from: v.optional(MillisSchema), to: v.optional(MillisSchema) };

export const roomCursor = (room: RoomName): Cursor<RoomCursorPlace, RoomAsked> =>
  cursorOf(
    ["room", room],
    v.strictObject({ d: v.picklist(["before", "after"]), s: SeqSchema, e: EpochSchema }),
    v.strictObject({ ...bounds, after: v.optional(SeqSchema) }),
    ({ kind, seq, epoch }) => ({ d: kind, s: seq, e: epoch }),
    ({ d, s, e }) => ({ kind: d, seq: s, epoch: e }),
  );

export const userCursor = (userId: UserId): Cursor<UserCursorPlace, UserAsked> =>
  cursorOf(
    ["user", userId],
    v.strictObject({ t: MillisSchema, i: v.string() }),
    v.strictObject({ ...bounds, room: v.optional(RoomNameSchema) }),
    ({ receivedAt, id }) => ({ t: receivedAt, i: id }),
    ({ t, i }) => ({ receivedAt: t, id: i }),
  );

export const roomsCursor = (): Cursor<RoomsCursorPlace, object> =>
  cursorOf(
    ["rooms"],
    v.strictObject({ t: MillisSchema, r: RoomNameSchema }),
    v.strictObject({}),
    ({ lastMessageAt, room }) => ({ t: lastMessageAt, r: room }),
    ({ t, r }) => ({ lastMessageAt: t, room: r }),
  );

const BASE64URL = { alphabet: "base64url", omitPadding: true } as const;
const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

function cursorOf<Packed, Place, Asked>(
  list: readonly string[],
  placeSchema: v.GenericSchema<unknown, Packed>,
  askedSchema: v.GenericSchema<unknown, Asked>,
  pack: (place: Place) => Packed,
  unpack: (packed: Packed) => Place,
): Cursor<Place, Asked> {
  const digest = fnv1a64(JSON.stringify(list));
  const Whole = v.strictTuple([v.literal(digest), placeSchema, askedSchema]);
  return {
    write(place, asked) {
      const text = encoder.encode(JSON.stringify([digest, pack(place), asked])).toBase64(BASE64URL);
      assert(text.length <= LIMITS.cursorCharsMax, "a cursor fits its ceiling");
      return text;
    },
    read(text) {
      const whole = v.safeParse(Whole, unpackJson(text));
      if (whole.success) return { place: unpack(whole.output[1]), asked: whole.output[2] };
      throw new ChatError("invalid_request", {
        issues: [{ path: "cursor", message: "must be a next_cursor of this very list" }],
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
