/** The body of a polling POST: read up to a ceiling, and judged before anything is made of it. */

import { bodyPiecesMaxOf, LIMITS } from "../limits.ts";

/** What ends a packet in a payload, the ASCII record separator. */
const SEPARATOR = 0x1e;
const PONG = 0x33;
/** Room for nearly every body there is. */
const BODY_BYTES_AT_FIRST = 4_096;

export type PostBody =
  | { readonly kind: "whole"; readonly bytes: Uint8Array }
  | { readonly kind: "too_large" }
  | { readonly kind: "too_many_pieces" }
  | { readonly kind: "cut_short" };

/**
 * Holds at most `bytesMax` of it, twice while it moves into more room, and a piece: whatever the request says about its
 * length, and however small the pieces are.
 * @param deadlineMs a body that has not ended by then is cut short
 */
export async function readPostBody(
  request: Request,
  bytesMax: number,
  deadlineMs: number,
): Promise<PostBody> {
  if (Number(request.headers.get("content-length") ?? 0) > bytesMax) return { kind: "too_large" };
  const piecesMax = bodyPiecesMaxOf(bytesMax);
  const reader = request.body?.getReader();
  if (reader === undefined) return { kind: "whole", bytes: new Uint8Array() };
  let late = false;
  const cancel = () => reader.cancel().catch(() => {});
  const deadline = setTimeout(() => {
    late = true;
    cancel();
  }, deadlineMs);
  try {
    let room = new Uint8Array(Math.min(bytesMax, BODY_BYTES_AT_FIRST));
    let size = 0;
    for (let pieces = 1; ; pieces += 1) {
      const { done, value } = await reader.read();
      if (done) return late ? { kind: "cut_short" } : { kind: "whole", bytes: room.subarray(0, size) };
      const end = size + value.byteLength;
      if (end > bytesMax || pieces > piecesMax) {
        await cancel();
        return { kind: end > bytesMax ? "too_large" : "too_many_pieces" };
      }
      if (end > room.byteLength) {
        const more = new Uint8Array(Math.min(bytesMax, Math.max(end, 2 * room.byteLength)));
        more.set(room.subarray(0, size));
        room = more;
      }
      // Copied at once: a list of a million pieces of one byte would take 100 MB.
      room.set(value, size);
      size = end;
    }
  } catch {
    return { kind: "cut_short" };
  } finally {
    clearTimeout(deadline);
  }
}

export interface PayloadCount {
  readonly packets: number;
  readonly pongs: number;
}

/** Counts a payload's packets without decoding one; stops one past the ceiling of either kind. */
export function countPayload(bytes: Uint8Array): PayloadCount {
  const count = { packets: 0, pongs: 0 };
  for (let at = 0; ;) {
    count.packets++;
    if (bytes[at] === PONG) count.pongs++;
    if (count.packets > LIMITS.packetsPerTickMax || count.pongs > LIMITS.pongsPerPostMax) return count;
    const end = bytes.indexOf(SEPARATOR, at);
    if (end === -1) return count;
    at = end + 1;
  }
}

/** The payload without its pongs, but for the first one when a ping waits for it. Undefined when nothing is left. */
export function withoutStrayPongs(payload: string, isPongAwaited: boolean): string | undefined {
  let awaited = isPongAwaited;
  const kept = payload.split("\x1e").filter((packet) => {
    if (packet.charCodeAt(0) !== PONG) return true;
    const admitted = awaited;
    awaited = false;
    return admitted;
  });
  return kept.length === 0 ? undefined : kept.join("\x1e");
}
