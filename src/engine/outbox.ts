/** What is sent to one WebSocket at about the same time goes out in one write: the acks of a batch cost one system call. */

import type { BunWebSocket } from "@socket.io/bun-engine";
import { LIMITS } from "../limits.ts";

export type Frame = Parameters<BunWebSocket["send"]>[0];

export interface Outbox {
  /**
   * Sends after all that was sent to this socket before. Waits no longer than for the microtasks that are queued already
   * (which is where the other acks of the same commit are); no more than LIMITS.gatheredBytesMax wait for one socket.
   */
  send(link: Link, frame: Frame): void;
  /** Hands over what waits: for one socket, or for all. To be called before a publish, which would overtake it. */
  flush(link?: Link): void;
}

/** What a link needs to know of the session that it carries. */
export interface Carried {
  /** A ping went out and its pong did not come yet. */
  isPongAwaited: boolean;
}

/** All that the engine's transport touches. */
type Touched = "data" | "readyState" | "send" | "close";

/** The engine's word for a ping, as a frame. */
const PING = "2";

/**
 * A WebSocket as the engine's transport sees it: it stands in for the socket, so that what the engine writes is gathered too.
 * A class for its prototype: there is one for each connection, and closures would cost each of them memory.
 */
export class Link<S extends Carried = Carried> implements Pick<BunWebSocket, Touched> {
  readonly socket: BunWebSocket;
  readonly #outbox: Outbox;
  /** Undefined while the socket asks to take over a polling session. */
  session: S | undefined = undefined;
  hasProbed = false;
  /** The tick in which its last frame came, and how many came in it. */
  tick = 0;
  tickFrames = 0;

  constructor(socket: BunWebSocket, outbox: Outbox) {
    this.socket = socket;
    this.#outbox = outbox;
  }

  get data() {
    return this.socket.data;
  }

  get readyState() {
    return this.socket.readyState;
  }

  send(frame: Frame): number {
    if (frame === PING && this.session !== undefined) this.session.isPongAwaited = true;
    this.#outbox.send(this, frame);
    return roughBytes(frame);
  }

  close(code?: number, reason?: string) {
    this.#outbox.flush(this);
    this.socket.close(code, reason);
  }
}

interface Gathered {
  readonly frames: Frame[];
  bytes: number;
}

/** @param onWritten hears of each socket that was written to, right after the write */
export function createOutbox(onWritten: (link: Link) => void = () => {}): Outbox {
  const waiting = new Map<Link, Gathered>();
  let isScheduled = false;

  function handOver(link: Link, frames: Gathered["frames"]) {
    const { socket } = link;
    if (socket.readyState !== WebSocket.OPEN) return;
    // For a single frame too: what was published and is not flushed yet goes out in the same write.
    socket.cork(() => {
      for (const frame of frames) socket.send(frame);
    });
    onWritten(link);
  }

  function flush(link?: Link) {
    if (waiting.size === 0) return;
    if (link !== undefined) {
      const gathered = waiting.get(link);
      if (gathered === undefined) return;
      waiting.delete(link);
      handOver(link, gathered.frames);
      return;
    }
    const all = [...waiting];
    waiting.clear();
    for (const [each, { frames }] of all) handOver(each, frames);
  }

  function flushSoon() {
    isScheduled = false;
    flush();
  }

  return {
    flush,
    send(link, frame) {
      const bytes = roughBytes(frame);
      const gathered = waiting.get(link);
      if (gathered === undefined) {
        waiting.set(link, { frames: [frame], bytes });
      } else {
        gathered.frames.push(frame);
        gathered.bytes += bytes;
      }
      if ((gathered?.bytes ?? bytes) >= LIMITS.gatheredBytesMax) {
        flush(link);
      } else if (!isScheduled) {
        isScheduled = true;
        queueMicrotask(flushSoon);
      }
    },
  };
}

// Of a text its length will do: the bound is about kilobytes.
function roughBytes(frame: Frame): number {
  if (typeof frame === "string") return frame.length;
  return frame instanceof Blob ? frame.size : frame.byteLength;
}
