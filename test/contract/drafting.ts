/** What the repository's contract suite is written with: drafts, the naive model, a repeatable source of chance. */

import type { ClientId, RoomName, Seq, UserId } from "../../src/domain/ids.ts";
import { parseClientId, parseRoomName, parseSeq, parseUserId } from "../../src/domain/ids.ts";
import type { Draft, Message } from "../../src/domain/message.ts";
import type { Millis } from "../../src/domain/time.ts";
import { toMillis } from "../../src/domain/time.ts";
import type { AppendResult, PageBounds, UserPlace } from "../../src/repository/repository.ts";

const T0 = 1_750_000_000_000;
export const WIDE: PageBounds = { messagesMax: 500, textBytesMax: 1_000_000 };

export function assured<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("the test itself made a value that cannot be");
  return value;
}
export const room = (name: string): RoomName => assured(parseRoomName(name));
export const user = (name: string): UserId => assured(parseUserId(name));
export const client = (name: string): ClientId => assured(parseClientId(name));
export const seq = (value: number): Seq => assured(parseSeq(value));
export const at = (ms: number): Millis => toMillis(T0 + ms);

export interface DraftParts {
  readonly id?: string;
  readonly user?: string;
  readonly text?: string;
  readonly client?: string;
  readonly receivedAt?: number;
  readonly timestamp?: number;
}

export function draft(roomName: string, parts: DraftParts = {}): Draft {
  const text = parts.text ?? "hello";
  return {
    id: parts.id ?? Bun.randomUUIDv7(),
    room: room(roomName),
    userId: user(parts.user ?? "ann"),
    text,
    textBytes: Buffer.byteLength(text),
    timestamp: at(parts.timestamp ?? parts.receivedAt ?? 0),
    receivedAt: at(parts.receivedAt ?? 0),
    clientId: parts.client === undefined ? null : client(parts.client),
  };
}

export const drafts = (roomName: string, count: number, parts: DraftParts = {}): Draft[] =>
  Array.from({ length: count }, (_, index) =>
    draft(roomName, { text: `${roomName} ${index + 1}`, receivedAt: index, ...parts }),
  );

export const stored = (result: AppendResult | undefined): Message => {
  if (result?.kind !== "stored") throw new Error(`expected a stored message, got ${Bun.inspect(result)}`);
  return result.message;
};
export const duplicate = (result: AppendResult | undefined): Message => {
  if (result?.kind !== "duplicate") throw new Error(`expected a duplicate, got ${Bun.inspect(result)}`);
  return result.message;
};
export const refusal = (result: AppendResult | undefined): string =>
  result?.kind === "rejected" || result?.kind === "unknown"
    ? result.error.code
    : `not refused: ${Bun.inspect(result)}`;

export const seqs = (messages: readonly { seq: Seq | null }[]) =>
  messages.map((message) => Number(message.seq));
export const range = (from: number, to: number) =>
  Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);

/** mulberry32: a small repeatable source of chance. */
export function chance(seed: number) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
  return { below: (bound: number) => Math.floor(next() * bound) };
}

/** Text order of the stores: by code point, as UTF-8 bytes compare. */
export const byCodePoint = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b));
export const newestFirst = (a: UserPlace, b: UserPlace) =>
  b.receivedAt - a.receivedAt || byCodePoint(b.id, a.id);

export type NaiveResult = { kind: "rejected" } | { kind: "stored" | "duplicate"; message: Message };

/** The promises in their plainest form, to compare a store with. */
export function naiveStore() {
  const rooms = new Map<string, Message[]>();
  const named = new Map<string, Message>();
  return {
    rooms,
    append({ clientId, textBytes: _, ...said }: Draft): NaiveResult {
      const key = JSON.stringify([said.room, said.userId, clientId]);
      const first = clientId === null ? undefined : named.get(key);
      if (first !== undefined)
        return first.text === said.text ? { kind: "duplicate", message: first } : { kind: "rejected" };
      const before = rooms.get(said.room) ?? [];
      const receivedAt = Math.max(said.receivedAt, before.at(-1)?.receivedAt ?? 0) as Millis;
      const message: Message = { ...said, seq: seq(before.length + 1), receivedAt };
      rooms.set(said.room, [...before, message]);
      if (clientId !== null) named.set(key, message);
      return { kind: "stored", message };
    },
  };
}
