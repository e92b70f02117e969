/** The sessions of the engine: what each may still send, what waits for it, and how one is ended. */

import type { BunWebSocket } from "@socket.io/bun-engine";
import { Parser } from "@socket.io/bun-engine/dist/parser";
import type { Socket as EngineConnection } from "@socket.io/bun-engine/dist/socket";
import { WS } from "@socket.io/bun-engine/dist/transports/websocket";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import { createOutbox, Link, type Outbox } from "./outbox.ts";
import type { PayloadCount } from "./polling-post.ts";
import { currentTick } from "../runtime/ticks.ts";

/** Engine.IO's packet types, as the first character of a frame. */
const PING_CHAR = "2".charCodeAt(0);
const PONG_CHAR = "3".charCodeAt(0);
const MESSAGE_CHAR = "4".charCodeAt(0);
const PONG = { type: "pong" } as const;

/** A session of which no more than this share of its ceiling is unread takes a long answer, and room is left for the rest. */
const RELIEVED_SHARE = 1 / 4;

/** Takes what a client says, one message at a time and in order. Never throws. */
export interface Receiver {
  /** A text message; it begins at `at`, what is before it is the engine's. */
  onText(text: string, at: number): void;
  onBinary(bytes: Uint8Array): void;
  /** From now on the session has a WebSocket; what was queued for polling goes out right after this: write nothing here. */
  onUpgrade(): void;
  onClose(reason: string): void;
}

/** A session as those above the engine see it. */
export interface EngineSession {
  readonly id: string;
  /** The engine's own connection, a name for the session. */
  readonly conn: EngineConnection;
  /** Set from the handshake or the upgrade on. */
  readonly socket: BunWebSocket | undefined;
  /** Writes a message: a frame of Engine.IO's type `message` (it begins with `4`). Nothing happens once it is closed. */
  sendText(frame: string): void;
  sendBinary(bytes: Uint8Array): void;
  /**
   * Whether so little is unread that a long answer may be written; where it is not so, as soon as it is. False when that takes
   * longer than so many milliseconds, or the session ends.
   */
  takesMore(withinMs: number): boolean | Promise<boolean>;
  /** Closes it; a polling client fetches first what waits for it. */
  close(): void;
  /** Ends it at once for what no client should do; counted, and logged with the reason. */
  endForAbuse(reason: string): void;
}

/** What all sessions share. */
interface Shared {
  readonly outbox: Outbox;
  endForAbuse(session: Session, reason: string): void;
  takesMore(session: Session, withinMs: number): boolean | Promise<boolean>;
}

/** One Engine.IO session, from its handshake to its end. A class for its prototype, as Link. */
export class Session implements EngineSession {
  readonly conn: EngineConnection;
  readonly #shared: Shared;
  link: Link<Session> | undefined = undefined;
  receiver: Receiver | undefined = undefined;
  /** A ping is in the write buffer, and the polling client has not seen it yet. */
  isPingQueued = false;
  /** A ping went out and its pong did not come yet. */
  isPongAwaited = false;
  /** A POST is being read. */
  isPosting = false;
  /** Its end is decided. */
  isDoomed = false;
  /** Bytes in the write buffer; counted only while the session polls, a WebSocket knows its own. */
  queuedBytes = 0;
  /** Engine.IO's word for how it ended; undefined while it lives. */
  closeReason: string | undefined = undefined;

  constructor(conn: EngineConnection, shared: Shared) {
    this.conn = conn;
    this.#shared = shared;
  }

  get id() {
    return this.conn.id;
  }

  get socket() {
    return this.link?.socket;
  }

  sendText(frame: string) {
    if (this.conn.readyState !== "open") return;
    if (this.link === undefined) this.conn.write(frame.slice(1));
    else this.#shared.outbox.send(this.link, frame);
  }

  sendBinary(bytes: Uint8Array) {
    if (this.conn.readyState !== "open") return;
    if (this.link === undefined) this.conn.write(bytes as Buffer);
    else this.#shared.outbox.send(this.link, bytes as Uint8Array<ArrayBuffer>);
  }

  takesMore(withinMs: number) {
    return this.#shared.takesMore(this, withinMs);
  }

  close() {
    this.conn.close();
  }

  endForAbuse(reason: string) {
    this.#shared.endForAbuse(this, reason);
  }

  get backlogBytes() {
    return this.link === undefined ? this.queuedBytes : this.link.socket.getBufferedAmount();
  }
}

/** What stands in for the socket of a transport; undefined where it has none. */
function linkOf(transport: EngineConnection["transport"]): Link<Session> | undefined {
  const link: unknown = transport instanceof WS ? transport["socket"] : undefined;
  return link instanceof Link ? (link as Link<Session>) : undefined;
}

interface CreatedPacket {
  readonly type: string;
  readonly data?: string | { readonly byteLength: number } | undefined;
}

export interface SessionsDeps {
  /** What may wait unread for one session before it is ended. */
  readonly outboundBytesMax: number;
  /** Gives the receiver of what a new session says. */
  readonly accept: (session: EngineSession) => Receiver;
  /** Told of every session that ends, before its receiver. */
  readonly onEnd: (sid: string) => void;
  readonly log: Log;
  readonly metrics: Metrics;
}

export type Sessions = ReturnType<typeof createSessions>;

export function createSessions({ outboundBytesMax, accept, onEnd, log, metrics }: SessionsDeps) {
  const alive = new Map<string, Session>();
  /** Of these, those that poll. */
  let polling = 0;
  const outbox = createOutbox(({ session }) => {
    if (session !== undefined) endIfSlow(session as Session);
  });

  // From here on its frames come straight to us (see `message`), and its transport tells nobody anything that we do not
  // tell: the engine's listeners would cost each connection half a kilobyte.
  function takeSocket(session: Session) {
    const { transport } = session.conn;
    const link = linkOf(transport);
    if (link === undefined) return;
    polling -= 1;
    link.session = session;
    session.link = link;
    transport.off();
  }

  // At once, without waiting for its client to read. In a microtask: a writer to a room must not find members
  // vanish in the middle of it.
  function end(session: Session) {
    session.isDoomed = true;
    queueMicrotask(() => {
      if (session.link === undefined) session.conn.transport.close();
      else session.link.socket.terminate();
    });
  }

  function endIfSlow(session: Session) {
    if (session.isDoomed) return;
    const waiting = session.backlogBytes;
    if (waiting <= outboundBytesMax) return;
    metrics.count("slow_clients_disconnected_total");
    log.info("slow_client_disconnected", { sid: session.id, waiting_bytes: waiting });
    end(session);
  }

  function noteAbuse(sid: string | undefined, reason: string) {
    metrics.count("engine_abuse_closed_total");
    log.info("engine_abuse_closed", { sid, reason });
  }

  function endForAbuse(session: Session, reason: string) {
    if (session.isDoomed) return;
    noteAbuse(session.id, reason);
    end(session);
  }

  // A client that floods would keep everybody waiting for seconds. Counted without a closure or an object a frame.
  function admitsFrame(link: Link<Session>): boolean {
    const tick = currentTick();
    if (link.tick !== tick) {
      link.tick = tick;
      link.tickFrames = 0;
    }
    link.tickFrames += 1;
    if (link.tickFrames <= LIMITS.packetsPerTickMax) return true;
    if (link.session !== undefined) {
      endForAbuse(link.session, "too_many_frames");
    } else if (link.socket.readyState === WebSocket.OPEN) {
      noteAbuse(undefined, "too_many_frames");
      link.socket.terminate();
    }
    return false;
  }

  // Each pong arms a timer until the first ping has gone out: the engine gets the one that a ping waits for.
  function admitsPong(session: Session): boolean {
    const { isPongAwaited } = session;
    session.isPongAwaited = false;
    return isPongAwaited;
  }

  // Each probe arms a timer for ever: the engine gets one.
  function admitsProbe(link: Link<Session>): boolean {
    const { hasProbed } = link;
    link.hasProbed = true;
    if (hasProbed) link.socket.terminate();
    return !hasProbed;
  }

  /** Anything but a message or a pong: the end, or what no client should send. */
  function takeControl(session: Session, frame: string) {
    const packet = Parser.decodePacket(frame);
    if (packet.type === "close") session.link?.close();
    else if (packet.type === "message") session.receiver?.onBinary(packet.data as unknown as Uint8Array);
    else session.conn["onPacket"](packet);
  }

  // What hears of a connection is made once for all of them and finds its session by itself: closures for each would cost
  // more memory than the session.

  const sessionOf = ({ id }: EngineConnection) => alive.get(id);

  /** @param data undefined where the message is empty */
  function onData(this: EngineConnection, data: string | Buffer | undefined) {
    const receiver = sessionOf(this)?.receiver;
    if (data instanceof Uint8Array) receiver?.onBinary(data);
    else receiver?.onText(data ?? "", 0);
  }

  function onUpgrade(this: EngineConnection) {
    const session = sessionOf(this);
    if (session === undefined) return;
    takeSocket(session);
    for (const [event, listener] of POLLING_LISTENERS) this.off(event as "data", listener as () => void);
    session.queuedBytes = 0;
    session.receiver?.onUpgrade();
    wake(session);
  }

  function onPacketCreate(this: EngineConnection, { type, data }: CreatedPacket) {
    const session = sessionOf(this);
    if (session === undefined) return;
    if (type === "ping") session.isPingQueued = true;
    session.queuedBytes += 1 + (typeof data === "string" ? Buffer.byteLength(data) : (data?.byteLength ?? 0));
    endIfSlow(session);
  }

  // Emitted when the write buffer has been handed to the transport.
  function onDrain(this: EngineConnection) {
    const session = sessionOf(this);
    if (session === undefined) return;
    if (session.isPingQueued) {
      session.isPingQueued = false;
      session.isPongAwaited = true;
    }
    session.queuedBytes = 0;
    wake(session);
  }

  function onClose(this: EngineConnection, reason: string) {
    const session = sessionOf(this);
    alive.delete(this.id);
    onEnd(this.id);
    if (session === undefined) return;
    if (session.link === undefined) polling -= 1;
    session.closeReason = reason;
    session.receiver?.onClose(reason);
    wake(session);
  }

  /** Resolves those who wait until a session takes more. */
  const waiting = new Map<Session, Set<(takesMore: boolean) => void>>();
  const isRelieved = (session: Session) => session.backlogBytes <= outboundBytesMax * RELIEVED_SHARE;

  function takesMore(session: Session, withinMs: number): boolean | Promise<boolean> {
    if (session.isDoomed || session.conn.readyState !== "open") return false;
    if (isRelieved(session)) return true;
    return new Promise((resolve) => {
      const own = waiting.get(session) ?? new Set();
      waiting.set(session, own);
      const timer = setTimeout(() => settle(false), withinMs);
      const settle = (takes: boolean) => {
        clearTimeout(timer);
        own.delete(settle);
        if (own.size === 0) waiting.delete(session);
        resolve(takes);
      };
      own.add(settle);
    });
  }

  /** The client has taken something, or the session has ended. */
  function wake(session: Session) {
    const own = waiting.get(session);
    if (own === undefined) return;
    const isOpen = session.conn.readyState === "open";
    if (isOpen && !isRelieved(session)) return;
    for (const settle of [...own]) settle(isOpen);
  }

  const shared: Shared = { outbox, endForAbuse, takesMore };

  /** What is heard of a session only while it polls. */
  const POLLING_LISTENERS = [
    ["upgrade", onUpgrade],
    ["data", onData],
    ["packetCreate", onPacketCreate],
    ["drain", onDrain],
  ] as const;

  return {
    end,
    admitsPong,
    flush: () => outbox.flush(),
    bySid: (sid: string) => alive.get(sid),
    all: () => alive.values(),
    /** How many descriptors they hold: one that polls has a second connection to send by. */
    descriptors: () => alive.size + polling,

    /** Takes a new session in, with the WebSocket it began with. */
    adopt(conn: EngineConnection) {
      const session = new Session(conn, shared);
      alive.set(conn.id, session);
      polling += 1;
      takeSocket(session);
      if (session.link === undefined) {
        for (const [event, listener] of POLLING_LISTENERS) conn.on(event as "data", listener as () => void);
      }
      conn.on("close", onClose);
      session.receiver = accept(session);
    },

    /** What the engine is to see of a WebSocket that has opened. A session takes it now, or when it has upgraded. */
    link: (socket: BunWebSocket) =>
      new Link<Session>(socket, outbox) as Pick<
        BunWebSocket,
        keyof Link & keyof BunWebSocket
      > as BunWebSocket,

    /** Whether a session has taken this WebSocket. */
    isTaken: (socket: BunWebSocket) => linkOf(socket.data.transport)?.session !== undefined,

    /** Takes a frame of a session's WebSocket; false when the engine is to have it. */
    takes(socket: BunWebSocket, frame: string | Buffer): boolean {
      const link = linkOf(socket.data.transport);
      if (link === undefined) return false;
      if (!admitsFrame(link)) return true;
      const { session } = link;
      if (session === undefined) {
        const isProbe = typeof frame === "string" && frame.charCodeAt(0) === PING_CHAR;
        return isProbe && !admitsProbe(link);
      }
      if (session.conn.readyState !== "open") return true;
      if (typeof frame !== "string") session.receiver?.onBinary(frame);
      else if (frame.charCodeAt(0) === MESSAGE_CHAR) session.receiver?.onText(frame, 1);
      else if (frame.charCodeAt(0) !== PONG_CHAR) takeControl(session, frame);
      else if (admitsPong(session)) session.conn["onPacket"](PONG);
      return true;
    },

    /** A ping or pong of WebSocket's own has come: the runtime answers it, and it counts like every other frame. */
    heard(socket: BunWebSocket) {
      const link = linkOf(socket.data.transport);
      if (link !== undefined) admitsFrame(link);
    },

    /** A WebSocket has taken something of what it was behind with. */
    drained(socket: BunWebSocket) {
      const session = linkOf(socket.data.transport)?.session;
      if (session !== undefined) wake(session);
    },

    /** A WebSocket has closed: ends the session that it carries. */
    closed(socket: BunWebSocket) {
      linkOf(socket.data.transport)?.session?.conn["onClose"]("transport close");
    },

    /** Whether the engine may see a polling payload of so many packets; the session is ended where not. */
    admitsPayload(session: Session, { packets, pongs }: PayloadCount): boolean {
      if (packets <= LIMITS.packetsPerTickMax && pongs <= LIMITS.pongsPerPostMax) return true;
      endForAbuse(session, "too_many_packets");
      return false;
    },

    /** Ends every WebSocket session for which too much waits; one that polls is looked at whenever it is written to. */
    endSlow() {
      for (const session of alive.values()) {
        if (session.link !== undefined) endIfSlow(session);
      }
    },
  };
}
