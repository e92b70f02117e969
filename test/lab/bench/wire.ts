/** Raw WebSocket frames (RFC 6455) with Engine.IO and Socket.IO text in them, as cheap as a load generator needs. */

const FINAL_TEXT = 0x81;
const FINAL_PONG = 0x8a;
const MASKED = 0x80;

/** The bytes of a whole masked frame in front of a payload of that length, the key included. */
const headerBytes = (length: number) => (length < 126 ? 6 : 8);

/**
 * Writes a client's text frame and returns where it ends. The masking key is zero: it is a key like any other, the server
 * unmasks all the same, and the generator saves the work.
 */
export function writeFrame(into: Buffer, at: number, head: string, tail: Uint8Array): number {
  const length = head.length + tail.length;
  if (length > 0xffff) throw new RangeError("the generator's frames are short");
  const start = at + headerBytes(length);
  into[at] = FINAL_TEXT;
  if (length < 126) {
    into[at + 1] = MASKED | length;
    into.fill(0, at + 2, start);
  } else {
    into[at + 1] = MASKED | 126;
    into[at + 2] = length >> 8;
    into[at + 3] = length & 0xff;
    into.fill(0, at + 4, start);
  }
  for (let index = 0; index < head.length; index += 1) into[start + index] = head.charCodeAt(index);
  into.set(tail, start + head.length);
  return start + length;
}

/** One text frame of its own. */
export function textFrame(text: string): Buffer {
  const tail = Buffer.from(text);
  const frame = Buffer.alloc(tail.length + 8);
  return frame.subarray(0, writeFrame(frame, 0, "", tail));
}

/** An empty pong, whatever the ping carried: nobody here looks at it. */
export const PONG_FRAME = Buffer.from([FINAL_PONG, MASKED, 0, 0, 0, 0]);

export const OPCODES = { text: 1, close: 8, ping: 9 } as const;

/** Hears of each whole frame: its opcode, and where its payload lies. */
export type OnFrame = (opcode: number, bytes: Uint8Array, start: number, end: number) => void;

/** Reads as many whole frames as there are and returns where the first unfinished one begins. */
export function readFrames(bytes: Uint8Array, from: number, onFrame: OnFrame): number {
  let at = from;
  while (at + 2 <= bytes.length) {
    let length = (bytes[at + 1] as number) & 0x7f;
    let start = at + 2;
    if (length === 126) {
      start = at + 4;
      if (start > bytes.length) break;
      length = ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number);
    } else if (length === 127) {
      throw new RangeError("a frame is longer than anything a server owes");
    }
    const end = start + length;
    if (end > bytes.length) break;
    onFrame((bytes[at] as number) & 0x0f, bytes, start, end);
    at = end;
  }
  return at;
}

const ZERO = "0".charCodeAt(0);

/** The decimal number that begins at `at`. */
export function readNumber(bytes: Uint8Array, at: number): number {
  let value = 0;
  for (let index = at; ; index += 1) {
    const digit = (bytes[index] as number) - ZERO;
    if (!(digit >= 0 && digit <= 9)) return value;
    value = value * 10 + digit;
  }
}

/** Where the digits that begin at `at` end. */
export function endOfNumber(bytes: Uint8Array, at: number): number {
  let index = at;
  for (;;) {
    const digit = (bytes[index] as number) - ZERO;
    if (!(digit >= 0 && digit <= 9)) return index;
    index += 1;
  }
}
