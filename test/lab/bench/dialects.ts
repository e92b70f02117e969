/** How members speak to a server: Socket.IO with the contract's events, or what a peer of another protocol wants instead. */

import type { Delivered } from "./samples.ts";
import { endOfNumber, readNumber } from "./wire.ts";

export type DialectName = "socket.io" | "centrifugo";

export const PACKETS = { ping: 0, delivery: 1, ack: 2, strange: 3 } as const;
type Packet = (typeof PACKETS)[keyof typeof PACKETS];

export interface Dialect {
  /** What is asked for when the WebSocket is opened. */
  readonly path: string;
  readonly greeting: (room: string) => {
    /** Said once the WebSocket is open; nothing where the server speaks first. */
    readonly first?: string;
    /** How each answer begins, and what is said to it; after the last one the member is in the room. */
    readonly answers: readonly { readonly begins: string; readonly say?: string }[];
  };
  readonly pong: string;
  /** A send is this in front of its body. */
  head(id: number): string;
  body(room: string, text: string): string;
  /** What stands between packets that come in one frame. */
  readonly separator?: number;
  packet(bytes: Uint8Array, start: number, end: number): Packet;
  /** Where the number of a delivery begins; -1 where it has none. */
  seqAt(bytes: Uint8Array, start: number, end: number): number;
  ackedId(bytes: Uint8Array, start: number): number;
  isOk(bytes: Uint8Array, start: number, end: number): boolean;
  /** Whether answers to sends name the message's number and id. */
  readonly acksNumbered: boolean;
  /** Where the number of an acked message begins; -1 where the answer has none. */
  ackedSeqAt(bytes: Uint8Array, start: number, end: number): number;
  /** The whole of a delivery. */
  delivered(bytes: Uint8Array, start: number, end: number): Delivered;
  /** What an answer with a number says of the message. */
  acked(bytes: Uint8Array, start: number, end: number): Pick<Delivered, "room" | "seq" | "id">;
}

/** Who says it all. */
export const SENDER = "ada";

/** What of it is text, parsed. */
const parsed = (bytes: Uint8Array, start: number, end: number) =>
  JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString());

const char = (text: string) => text.charCodeAt(0);
const [TWO, THREE, FOUR, QUOTE, COLON] = [char("2"), char("3"), char("4"), char('"'), char(":")];

function isAt(bytes: Uint8Array, at: number, expected: Uint8Array): boolean {
  for (let index = 0; index < expected.length; index += 1)
    if (bytes[at + index] !== expected[index]) return false;
  return true;
}

const SEQ_FIELD = Buffer.from('"seq":');
const OK = Buffer.from('[{"ok":true');

function socketIo(): Dialect {
  /** Counted from the packet's begin: the same in all, as the names before it are. */
  let seqFrom = 0;
  /** Counted from the end of the answer's id. */
  let ackedSeqFrom = 0;
  return {
    path: "/socket.io/?EIO=4&transport=websocket",
    greeting: (room) => ({
      answers: [
        { begins: "0{", say: "40" },
        { begins: "40", say: `420${JSON.stringify(["join_room", { room }])}` },
        { begins: '430[{"ok":true' },
      ],
    }),
    pong: "3",
    head: (id) => `42${id}`,
    body: (room, message) => JSON.stringify(["send_message", { room, user_id: SENDER, message }]),
    packet(bytes, start, end) {
      if (end - start === 1 && bytes[start] === TWO) return PACKETS.ping;
      if (bytes[start] !== FOUR) return PACKETS.strange;
      if (bytes[start + 1] === TWO) return PACKETS.delivery;
      return bytes[start + 1] === THREE ? PACKETS.ack : PACKETS.strange;
    },
    seqAt(bytes, start, end) {
      const at = start + seqFrom;
      if (bytes[at - 1] === COLON && bytes[at - 2] === QUOTE) return at;
      const found = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).indexOf(SEQ_FIELD);
      if (found < 0) return -1;
      seqFrom = found + SEQ_FIELD.length;
      return start + seqFrom;
    },
    ackedId: (bytes, start) => readNumber(bytes, start + 2),
    isOk: (bytes, start) => isAt(bytes, endOfNumber(bytes, start + 2), OK),
    acksNumbered: true,
    ackedSeqAt(bytes, start, end) {
      const from = endOfNumber(bytes, start + 2);
      const at = from + ackedSeqFrom;
      if (bytes[at - 1] === COLON && bytes[at - 2] === QUOTE) return at;
      const found = Buffer.from(bytes.buffer, bytes.byteOffset + from, end - from).indexOf(SEQ_FIELD);
      if (found < 0) return -1;
      ackedSeqFrom = found + SEQ_FIELD.length;
      return from + ackedSeqFrom;
    },
    delivered(bytes, start, end) {
      const [, { room, seq, id, user_id: sender, message: text }] = parsed(bytes, start + 2, end);
      return { room, seq, id, sender, text };
    },
    acked(bytes, start, end) {
      const [{ room, seq, id }] = parsed(bytes, endOfNumber(bytes, start + 2), end);
      return { room, seq, id };
    },
  };
}

const ACK_ID_FROM = '{"id":'.length;
const I = char("i");
const P = char("p");
const PUBLISH = Buffer.from(',"publish":');
const OFFSET_FIELD = Buffer.from('"offset":');
/** Ids that the greeting takes before the first send. */
const GREETING_IDS = 2;

/** Centrifugo's JSON: a channel with history is a room, and a publication's offset its number. */
const centrifugo = (): Dialect => ({
  path: "/connection/websocket",
  greeting: (channel) => ({
    first: JSON.stringify({ id: 1, connect: {} }),
    answers: [
      { begins: '{"id":1,"connect":', say: JSON.stringify({ id: GREETING_IDS, subscribe: { channel } }) },
      { begins: '{"id":2,"subscribe":' },
    ],
  }),
  pong: "{}",
  head: (id) => `{"id":${id + GREETING_IDS}`,
  body: (channel, message) =>
    `${PUBLISH}${JSON.stringify({ channel, data: { room: channel, user_id: SENDER, message } })}}`,
  separator: char("\n"),
  packet(bytes, start, end) {
    if (end - start === 2) return PACKETS.ping;
    if (bytes[start + 2] === P) return PACKETS.delivery;
    return bytes[start + 2] === I ? PACKETS.ack : PACKETS.strange;
  },
  seqAt(bytes, start, end) {
    // It is the last field, but in a channel's first publication, which names the channel's epoch after it.
    let at = end;
    while (at > start && bytes[at - 1] !== COLON) at -= 1;
    if (isAt(bytes, at - OFFSET_FIELD.length, OFFSET_FIELD)) return at;
    const found = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).lastIndexOf(OFFSET_FIELD);
    return found < 0 ? -1 : start + found + OFFSET_FIELD.length;
  },
  ackedId: (bytes, start) => readNumber(bytes, start + ACK_ID_FROM) - GREETING_IDS,
  isOk: (bytes, start) => isAt(bytes, endOfNumber(bytes, start + ACK_ID_FROM), PUBLISH),
  acksNumbered: false,
  ackedSeqAt: () => -1,
  delivered(bytes, start, end) {
    const { data, offset: seq } = parsed(bytes, start, end).push.pub;
    return { room: data.room, seq, id: undefined, sender: data.user_id, text: data.message };
  },
  acked() {
    throw new RangeError("its answers to a publication have no number");
  },
});

const DIALECTS: Readonly<Record<DialectName, () => Dialect>> = { "socket.io": socketIo, centrifugo };

export const createDialect = (name: DialectName): Dialect => DIALECTS[name]();
