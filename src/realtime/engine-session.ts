/** The sessions of the engine: what each may still send, what waits for it, and how one is ended. */

import type { BunWebSocket } from "@socket.io/bun-engine";
import type { Socket as EngineConnection } from "@socket.io/bun-engine/dist/socket";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { PayloadCount } from "./polling-post.ts";

const PING_CHAR = "2".charCodeAt(0);
const PONG_CHAR = "3".charCodeAt(0);
const MESSAGE_CHAR = "4".charCodeAt(0);
/** Socket.IO's packet types behind it: a request to join a namespace and its yes; its no. */
const CONNECT_CHAR = "0".charCodeAt(0);
const CONNECT_ERROR_CHAR = "4".charCodeAt(0);

/** One Engine.IO session, from its handshake to its end. */
export interface Session {
  readonly conn: EngineConnection;
  /** Set from the handshake or the upgrade on. */
  socket: BunWebSocket | undefined;
  /** A ping is in the write buffer, and the client has not seen it yet. */
  isPingQueued: boolean;
  /** A ping went out and its pong did not come yet. */
  isPongAwaited: boolean;
  /** A POST is being read. */
  isPosting: boolean;
  /** Requests to join a namespace that were not answered yet. */
  connectsPending: number;
  /** Bytes in the write buffer; counted only while the session polls, a WebSocket knows its own. */
  queuedBytes: number;
  /** Its end is decided. */
  isDoomed: boolean;
  /** Engine.IO's word for how it ended; undefined while it lives. */
  closeReason: string | undefined;
}

/** What is known of a WebSocket beside its transport. */
interface Link {
  readonly socket: BunWebSocket;
  /** Undefined while the socket asks to take over a polling session. */
  session: Session | undefined;
  hasProbed: boolean;
}

interface CreatedPacket {
  readonly type: string;
  readonly data?: string | { readonly byteLength: number } | undefined;
}

export interface SessionsDeps {
  /** What may wait unread for one session before it is ended. */
  readonly outboundBytesMax: number;
  /** Told of every session that ends, before others that listen for it. */
  readonly onEnd: (sid: string) => void;
  readonly log: Log;
  readonly metrics: Metrics;
}

export type Sessions = ReturnType<typeof createSessions>;

export function createSessions({ outboundBytesMax, onEnd, log, metrics }: SessionsDeps) {
  const alive = new Map<string, Session>();
  const linkOf = new WeakMap<object, Link>();

  function takeSocket(session: Session) {
    const link = linkOf.get(session.conn.transport);
    if (link === undefined) return;
    link.session = session;
    session.socket = link.socket;
  }

  // At once, without waiting for its client to read. In a microtask: whoever writes to a room must not find members
  // vanish in the middle of it.
  function end(session: Session) {
    session.isDoomed = true;
    queueMicrotask(() => {
      if (session.socket === undefined) session.conn.transport.close();
      else session.socket.terminate();
    });
  }

  const backlogOf = ({ socket, queuedBytes }: Session) =>
    socket === undefined ? queuedBytes : socket.getBufferedAmount();

  function endIfSlow(session: Session) {
    if (session.isDoomed || backlogOf(session) <= outboundBytesMax) return;
    metrics.count("slow_clients_disconnected_total");
    log.info("slow_client_disconnected", { sid: session.conn.id, waiting_bytes: backlogOf(session) });
    end(session);
  }

  function endForAbuse(session: Session, reason: string) {
    if (session.isDoomed) return;
    metrics.count("engine_abuse_closed_total");
    log.info("engine_abuse_closed", { sid: session.conn.id, reason });
    end(session);
  }

  // Each pong arms a timer until the first ping has gone out: the engine gets the one that a ping waits for.
  function admitsPong(session: Session): boolean {
    const { isPongAwaited } = session;
    session.isPongAwaited = false;
    return isPongAwaited;
  }

  // Each probe arms a timer for ever: the engine gets one.
  function admitsProbe(link: Link): boolean {
    const { hasProbed } = link;
    link.hasProbed = true;
    if (hasProbed) link.socket.terminate();
    return !hasProbed;
  }

  // Until the first request is answered each makes a socket of its own, and a middleware may take its time to answer.
  function admitsConnects(session: Session, count: number): boolean {
    session.connectsPending += count;
    if (session.connectsPending <= LIMITS.connectsPendingMax) return true;
    endForAbuse(session, "too_many_connects");
    return false;
  }

  // What hears of a connection is made once for all of them and finds its session by itself: closures for each would cost
  // more memory than the session.

  const sessionOf = ({ id }: EngineConnection) => alive.get(id);

  function onUpgrade(this: EngineConnection) {
    const session = sessionOf(this);
    if (session !== undefined) takeSocket(session);
  }

  function onPacketCreate(this: EngineConnection, { type, data }: CreatedPacket) {
    const session = sessionOf(this);
    if (session === undefined) return;
    if (type === "ping") session.isPingQueued = true;
    if (session.connectsPending > 0 && typeof data === "string") {
      const kind = data.charCodeAt(0);
      if (kind === CONNECT_CHAR || kind === CONNECT_ERROR_CHAR) session.connectsPending--;
    }
    if (session.socket !== undefined) return;
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
    if (session.socket !== undefined) endIfSlow(session);
  }

  function onClose(this: EngineConnection, reason: string) {
    const session = sessionOf(this);
    if (session !== undefined) session.closeReason = reason;
    alive.delete(this.id);
    onEnd(this.id);
  }

  return {
    end,
    endForAbuse,
    backlogOf,
    admitsPong,
    bySid: (sid: string) => alive.get(sid),
    byConnection: (connection: object) => sessionOf(connection as EngineConnection),
    all: () => alive.values(),
    count: () => alive.size,

    /** Takes a new session in, with the WebSocket it began with. */
    adopt(conn: EngineConnection) {
      const session: Session = {
        conn,
        socket: undefined,
        isPingQueued: false,
        isPongAwaited: false,
        isPosting: false,
        connectsPending: 0,
        queuedBytes: 0,
        isDoomed: false,
        closeReason: undefined,
      };
      alive.set(conn.id, session);
      takeSocket(session);
      if (session.socket === undefined) conn.on("upgrade", onUpgrade);
      conn.on("packetCreate", onPacketCreate);
      conn.on("drain", onDrain);
      conn.on("close", onClose);
    },

    /** Remembers a WebSocket until a session takes it. */
    link(socket: BunWebSocket) {
      linkOf.set(socket.data.transport, { socket, session: undefined, hasProbed: false });
    },

    /** Whether the engine may see this frame. */
    admitsFrame(socket: BunWebSocket, frame: string): boolean {
      const first = frame.charCodeAt(0);
      // Nearly every frame is a message that is no request to join: nothing is looked up for it.
      if (first === MESSAGE_CHAR && frame.charCodeAt(1) !== CONNECT_CHAR) return true;
      const link = linkOf.get(socket.data.transport);
      if (link === undefined) return true;
      const { session } = link;
      if (session === undefined) return first !== PING_CHAR || admitsProbe(link);
      if (first === PONG_CHAR) return admitsPong(session);
      if (first === MESSAGE_CHAR) return admitsConnects(session, 1);
      return true;
    },

    /** Whether the engine may see a polling payload of so many packets; the session is ended where not. */
    admitsPayload(session: Session, { packets, pongs, connects }: PayloadCount): boolean {
      if (packets > LIMITS.packetsPerPostMax || pongs > LIMITS.pongsPerPostMax) {
        endForAbuse(session, "too_many_packets");
        return false;
      }
      return admitsConnects(session, connects);
    },

    /** Ends every WebSocket session for which too much waits; one that polls is looked at whenever it is written to. */
    endSlow() {
      for (const session of alive.values()) {
        if (session.socket !== undefined) endIfSlow(session);
      }
    },
  };
}
