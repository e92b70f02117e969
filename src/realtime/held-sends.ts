/**
 * Sends to rooms that their connection has not joined yet. The stock client sends what was emitted while it was offline before
 * the application's `connect` handler runs, and so before any join: these sends wait a moment for it.
 */

import type { RoomName } from "../domain/ids.ts";
import { ChatError } from "../errors.ts";
import type { Metrics } from "../observe/metrics.ts";

export interface HeldSends<S> {
  /** Keeps a send with a text of so many bytes. Throws `overloaded` when the connection, or all of them together, have too much here. */
  hold(connection: object, room: RoomName, send: S, textBytes: number): void;
  /** Gives back what the connection has sent, to one room or to all, oldest first; it is held no longer. */
  take(connection: object, room?: RoomName): readonly S[];
}

export interface HeldSendsDeps<S> {
  /** How long a send waits. */
  readonly waitMs: number;
  /** Sends of one connection. */
  readonly sendsMax: number;
  /** Bytes of the texts of one connection; one send is kept however long its text is. */
  readonly textBytesMax: number;
  /** Bytes that the sends of all connections take together. */
  readonly bytesMax: number;
  /** Milliseconds of a clock that never goes back. */
  readonly monotonicNow: () => number;
  /** Hears of each send that has waited for too long. */
  readonly onLate: (send: S) => void;
  readonly metrics: Pick<Metrics, "count">;
}

/** What a send takes beside its text. */
const OVERHEAD_BYTES = 500;

interface Held<S> {
  readonly connection: object;
  readonly room: RoomName;
  readonly send: S;
  readonly textBytes: number;
  readonly deadline: number;
}

interface Share<S> {
  readonly sends: Set<Held<S>>;
  textBytes: number;
}

export function createHeldSends<S>(deps: HeldSendsDeps<S>): HeldSends<S> {
  const { waitMs, sendsMax, textBytesMax, bytesMax, monotonicNow, onLate, metrics } = deps;
  /** In the order in which they came: all wait equally long, so the first is the first to be late. */
  const held = new Set<Held<S>>();
  const byConnection = new Map<object, Share<S>>();
  let heldBytes = 0;
  let timer: Timer | undefined;

  function forget(one: Held<S>) {
    held.delete(one);
    heldBytes -= one.textBytes + OVERHEAD_BYTES;
    const own = byConnection.get(one.connection);
    if (!own?.sends.delete(one)) return;
    own.textBytes -= one.textBytes;
    if (own.sends.size === 0) byConnection.delete(one.connection);
  }

  function watch() {
    const [first] = held;
    timer = first && setTimeout(refuseLate, Math.max(first.deadline - monotonicNow(), 1));
    timer?.unref();
  }

  function refuseLate() {
    const now = monotonicNow();
    for (const one of held) {
      if (one.deadline > now) break;
      forget(one);
      onLate(one.send);
    }
    watch();
  }

  return {
    hold(connection, room, send, textBytes) {
      const bytes = textBytes + OVERHEAD_BYTES;
      const own = byConnection.get(connection) ?? { sends: new Set(), textBytes: 0 };
      const isShareFull =
        own.sends.size >= sendsMax || (own.sends.size > 0 && own.textBytes + textBytes > textBytesMax);
      if (isShareFull || heldBytes + bytes > bytesMax) {
        metrics.count("sends_overloaded_total");
        throw new ChatError("overloaded", { retryAfterMs: waitMs });
      }
      const one = { connection, room, send, textBytes, deadline: monotonicNow() + waitMs };
      held.add(one);
      own.sends.add(one);
      own.textBytes += textBytes;
      byConnection.set(connection, own);
      heldBytes += bytes;
      if (timer === undefined) watch();
    },

    take(connection, room) {
      const own = byConnection.get(connection);
      if (own === undefined) return [];
      const taken = [...own.sends].filter((one) => room === undefined || one.room === room);
      for (const one of taken) forget(one);
      return taken.map(({ send }) => send);
    },
  };
}
