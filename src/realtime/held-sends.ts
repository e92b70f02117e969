/**
 * Sends to rooms that their connection has not joined yet. The stock client sends what was emitted while it was offline before
 * the application's `connect` handler runs, and so before any join: these sends wait a moment for it. The moment lasts while
 * their connection joins a room, and begins anew when such a join has ended: a slow store costs nobody what was written offline.
 */

import type { RoomName } from "../domain/ids.ts";
import { ChatError } from "../errors.ts";
import type { Metrics } from "../observe/metrics.ts";

export interface HeldSends<S> {
  /** Keeps a send with a text of so many bytes. Throws `overloaded` when the connection, or all of them together, have too much here. */
  hold(connection: object, room: RoomName, send: S, textBytes: number): void;
  /** Gives back what the connection has sent, to one room or to all, oldest first; it is held no longer. */
  take(connection: object, room?: RoomName): readonly S[];
  /** All that the connection has here waits for the whole time again. */
  restart(connection: object): void;
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
  /** Whether a send whose time is over waits on: its connection is joining a room. */
  readonly waitsOn: (send: S) => boolean;
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
  deadline: number;
}

interface Share<S> {
  readonly sends: Set<Held<S>>;
  textBytes: number;
}

export function createHeldSends<S>(deps: HeldSendsDeps<S>): HeldSends<S> {
  const { waitMs, sendsMax, textBytesMax, bytesMax, monotonicNow, waitsOn, onLate, metrics } = deps;
  /** In the order in which their time began: all wait equally long, so the first is the first to be late. */
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

  function delay(one: Held<S>, deadline: number) {
    held.delete(one);
    one.deadline = deadline;
    held.add(one);
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
      if (waitsOn(one.send)) {
        delay(one, now + waitMs);
      } else {
        forget(one);
        onLate(one.send);
      }
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

    restart(connection) {
      const deadline = monotonicNow() + waitMs;
      for (const one of byConnection.get(connection)?.sends ?? []) delay(one, deadline);
    },
  };
}
