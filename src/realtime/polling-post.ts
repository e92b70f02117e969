/** The body of a polling POST: read up to a ceiling, and judged before anything is made of it. */

import { LIMITS } from "../limits.ts";

/** What ends a packet in a payload, the ASCII record separator. */
const SEPARATOR = 0x1e;
const PONG = 0x33;

export type PostBody =
  | { readonly kind: "whole"; readonly bytes: Uint8Array }
  | { readonly kind: "too_large" }
  | { readonly kind: "cut_short" };

/**
 * Never holds more than `bytesMax` and a chunk, whatever the request says about its length.
 * @param deadlineMs a body that has not ended by then is cut short
 */
export async function readPostBody(
  request: Request,
  bytesMax: number,
  deadlineMs: number,
): Promise<PostBody> {
  if (Number(request.headers.get("content-length") ?? 0) > bytesMax) return { kind: "too_large" };
  const reader = request.body?.getReader();
  if (reader === undefined) return { kind: "whole", bytes: new Uint8Array() };
  let late = false;
  const cancel = () => reader.cancel().catch(() => {});
  const deadline = setTimeout(() => {
    late = true;
    cancel();
  }, deadlineMs);
  try {
    const chunks: Uint8Array[] = [];
    for (let size = 0; ;) {
      const { done, value } = await reader.read();
      if (done) return late ? { kind: "cut_short" } : { kind: "whole", bytes: Buffer.concat(chunks, size) };
      size += value.byteLength;
      if (size > bytesMax) {
        await cancel();
        return { kind: "too_large" };
      }
      chunks.push(value);
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
    if (count.packets > LIMITS.packetsPerPostMax || count.pongs > LIMITS.pongsPerPostMax) return count;
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
