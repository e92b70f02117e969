/** What is sent to one WebSocket at about the same time goes out in one write: the acks of a batch cost one system call. */

import type { BunWebSocket } from "@socket.io/bun-engine";
import { LIMITS } from "../limits.ts";

export interface Outbox {
  /** Stands in for the socket where the engine writes to it. */
  gather(socket: BunWebSocket): BunWebSocket;
  /** Hands over what was gathered. To be called before a publish, which would overtake it. */
  flush(): void;
}

type Frame = Parameters<BunWebSocket["send"]>[0];

interface Gathered {
  readonly frames: Frame[];
  bytes: number;
}

/**
 * Frames to one socket keep their order. They wait no longer than for the microtasks that are queued already (which is
 * where the other acks of the same commit are), and no more than LIMITS.gatheredBytesMax of them wait.
 */
export function createOutbox(): Outbox {
  const waiting = new Map<BunWebSocket, Gathered>();
  let isScheduled = false;

  function handOver(socket: BunWebSocket, frames: Gathered["frames"]) {
    if (socket.readyState !== WebSocket.OPEN) return;
    const [only] = frames;
    if (frames.length === 1 && only !== undefined) {
      socket.send(only);
      return;
    }
    socket.cork(() => {
      for (const frame of frames) socket.send(frame);
    });
  }

  function flushOne(socket: BunWebSocket) {
    const gathered = waiting.get(socket);
    if (gathered === undefined) return;
    waiting.delete(socket);
    handOver(socket, gathered.frames);
  }

  function flush() {
    if (waiting.size === 0) return;
    const all = [...waiting];
    waiting.clear();
    for (const [socket, { frames }] of all) handOver(socket, frames);
  }

  function send(socket: BunWebSocket, frame: Frame): number {
    const bytes = roughBytes(frame);
    const gathered = waiting.get(socket);
    if (gathered === undefined) {
      waiting.set(socket, { frames: [frame], bytes });
    } else {
      gathered.frames.push(frame);
      gathered.bytes += bytes;
    }
    if ((gathered?.bytes ?? bytes) >= LIMITS.gatheredBytesMax) {
      flushOne(socket);
    } else if (!isScheduled) {
      isScheduled = true;
      queueMicrotask(() => {
        isScheduled = false;
        flush();
      });
    }
    return bytes;
  }

  return {
    gather: (socket) => new StandIn(socket, send, flushOne) as Pick<BunWebSocket, Touched> as BunWebSocket,
    flush,
  };
}

/** All that the engine's transport touches. */
type Touched = "data" | "readyState" | "send" | "close";

// A class for its prototype: there is one for each connection, and closures would cost each of them memory.
class StandIn implements Pick<BunWebSocket, Touched> {
  readonly #socket: BunWebSocket;
  readonly #send: (socket: BunWebSocket, frame: Frame) => number;
  readonly #flush: (socket: BunWebSocket) => void;

  constructor(
    socket: BunWebSocket,
    send: (socket: BunWebSocket, frame: Frame) => number,
    flush: (socket: BunWebSocket) => void,
  ) {
    this.#socket = socket;
    this.#send = send;
    this.#flush = flush;
  }

  get data() {
    return this.#socket.data;
  }

  get readyState() {
    return this.#socket.readyState;
  }

  send(frame: Frame) {
    return this.#send(this.#socket, frame);
  }

  close(code?: number, reason?: string) {
    this.#flush(this.#socket);
    this.#socket.close(code, reason);
  }
}

// Of a text its length will do: the bound is about kilobytes.
function roughBytes(frame: Frame): number {
  if (typeof frame === "string") return frame.length;
  return frame instanceof Blob ? frame.size : frame.byteLength;
}
