/**
 * Engine.IO on Bun, guarded: every touch of @socket.io/bun-engine, which is young and trusts its clients. What it lets
 * through or forgets is refused, bounded or put right here, before and around it; nothing in it is patched.
 */

import { Server as BunEngine, type BunWebSocket, type WebSocketData } from "@socket.io/bun-engine";
import type { Socket as EngineConnection } from "@socket.io/bun-engine/dist/socket";
import { WS } from "@socket.io/bun-engine/dist/transports/websocket";
import { REFUSALS } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import { countPayload, isOverCeiling, readPostBody, withoutStrayPongs } from "./polling-post.ts";
import { createPublishMeter } from "./publish-meter.ts";

export interface EngineOptions {
  /** Where clients connect. */
  readonly path?: string;
  readonly pingIntervalMs: number;
  readonly pingTimeoutMs: number;
  /** Longest WebSocket frame and longest polling body. */
  readonly frameBytesMax: number;
  /** What may wait unread for one connection before it is closed. */
  readonly outboundBytesMax: number;
  /** Whether a request with this `Origin` and `Host` may open a session or write to one. */
  readonly isOriginWelcome: (origin: string | null, host: string | null) => boolean;
  /** The value of `Access-Control-Allow-Origin`, undefined where no grant is given. */
  readonly corsOrigin: (origin: string | null, host: string | null) => string | undefined;
  readonly log: Log;
  readonly metrics: Metrics;
}

export type { EngineConnection };

export interface ChatEngine {
  /** For `io.bind()`. */
  readonly engine: BunEngine;
  /** For `Bun.serve`. */
  readonly websocket: Bun.WebSocketHandler<WebSocketData>;
  /** For `Bun.serve`, whose own 413 closes no session: well above the ceiling that `handle` keeps by itself. */
  readonly maxRequestBodySize: number;
  /** Whether this request is for `handle`. */
  serves(request: Request): boolean;
  /** Answers everything under the path; never rejects. */
  handle(request: Request, server: Bun.Server<WebSocketData>): Promise<Response>;
  /** The WebSocket of a connection; undefined while it polls. */
  webSocketOf(connection: object): BunWebSocket | undefined;
  /** What waits unread for a connection. */
  bufferedBytes(connection: object): number;
  /** Whether `bytes` may go to a topic now; counts them when so. False: write to each connection instead. */
  mayPublish(bytes: number): boolean;
  /** From now on a new session is answered 503 `draining`; those that exist go on. */
  refuseHandshakes(): void;
  connections(): Iterable<EngineConnection>;
  /** Closes every connection and opens no more. */
  close(): void;
}

/** What Engine.IO answers to a request that breaks its protocol; the numbers are part of it. */
const FAULTS = {
  unknownTransport: { code: 0, message: "Transport unknown" },
  unknownSession: { code: 1, message: "Session ID unknown" },
  badHandshakeMethod: { code: 2, message: "Bad handshake method" },
  badRequest: { code: 3, message: "Bad request" },
  unsupportedVersion: { code: 5, message: "Unsupported protocol version" },
} as const;
type Fault = (typeof FAULTS)[keyof typeof FAULTS];

const TRANSPORTS = new Set(["polling", "websocket"]);
const PING_CHAR = "2".charCodeAt(0);
const PONG_CHAR = "3".charCodeAt(0);
/** The longest idle timeout that Bun knows for a request, in seconds. */
const IDLE_SECONDS_MAX = 255;

/** One Engine.IO session, from its handshake to its end. */
interface Session {
  readonly conn: EngineConnection;
  /** Set from the handshake or the upgrade on. */
  socket: BunWebSocket | undefined;
  /** A ping is in the write buffer, and the client has not seen it yet. */
  isPingQueued: boolean;
  /** A ping went out and its pong did not come yet. */
  isPongAwaited: boolean;
  /** A POST is being read. */
  isPosting: boolean;
  /** Bytes in the write buffer; counted only while the session polls, a WebSocket knows its own. */
  queuedBytes: number;
  /** Its end is decided. */
  isDoomed: boolean;
  closedBecause: string | undefined;
}

/** What is known of a WebSocket beside its transport. */
interface Link {
  readonly socket: BunWebSocket;
  /** Undefined while the socket asks to take over a polling session. */
  session: Session | undefined;
  hasProbed: boolean;
}

/** `io.close()` closes the engine, which would go on taking handshakes; there is no event for it. */
class ClosableEngine extends BunEngine {
  isClosed = false;
  override close() {
    this.isClosed = true;
    super.close();
  }
}

export function createEngine(options: EngineOptions): ChatEngine {
  const { path = "/socket.io/", pingIntervalMs, pingTimeoutMs, frameBytesMax, outboundBytesMax } = options;
  const { isOriginWelcome, corsOrigin, log, metrics } = options;

  const sessions = new Map<string, Session>();
  const sessionOf = new WeakMap<object, Session>();
  const linkOf = new WeakMap<object, Link>();
  const addressOf = new WeakMap<Request, string>();
  let isDraining = false;

  const engine = new ClosableEngine({
    path,
    pingInterval: pingIntervalMs,
    pingTimeout: pingTimeoutMs,
    maxHttpBufferSize: frameBytesMax,
    editResponseHeaders(headers, request) {
      for (const [name, value] of answerHeaders(request)) headers.set(name, value);
    },
  });
  engine.on("connection", adopt);

  const meter = createPublishMeter(() => {
    for (const session of sessions.values()) {
      if (session.socket !== undefined) disconnectIfSlow(session);
    }
  });

  // Sessions

  function adopt(conn: EngineConnection, request: Request) {
    const session: Session = {
      conn,
      socket: undefined,
      isPingQueued: false,
      isPongAwaited: false,
      isPosting: false,
      queuedBytes: 0,
      isDoomed: false,
      closedBecause: undefined,
    };
    sessions.set(conn.id, session);
    sessionOf.set(conn, session);
    // socket.io reads both for `handshake`; the engine knows no address and looks for "https" where "https:" stands.
    Object.assign(conn, { remoteAddress: addressOf.get(request) });
    conn.request.connection.encrypted = new URL(request.url).protocol === "https:";

    takeSocket(session);
    conn.on("upgrade", () => takeSocket(session));
    conn.on("packetCreate", ({ type, data }) => {
      if (type === "ping") session.isPingQueued = true;
      if (session.socket !== undefined) return;
      session.queuedBytes +=
        1 + (typeof data === "string" ? Buffer.byteLength(data) : (data?.byteLength ?? 0));
      disconnectIfSlow(session);
    });
    // Emitted when the write buffer has been handed to the transport.
    conn.on("drain", () => {
      if (session.isPingQueued) {
        session.isPingQueued = false;
        session.isPongAwaited = true;
      }
      session.queuedBytes = 0;
      if (session.socket !== undefined) disconnectIfSlow(session);
    });
    conn.on("close", (reason) => {
      session.closedBecause = reason;
      sessions.delete(conn.id);
    });
  }

  function takeSocket(session: Session) {
    const link = linkOf.get(session.conn.transport);
    if (link === undefined) return;
    link.session = session;
    session.socket = link.socket;
  }

  const backlogOf = ({ socket, queuedBytes }: Session) =>
    socket === undefined ? queuedBytes : socket.getBufferedAmount();

  function disconnectIfSlow(session: Session) {
    if (session.isDoomed || backlogOf(session) <= outboundBytesMax) return;
    metrics.count("slow_clients_disconnected_total");
    log.info("slow_client_disconnected", { sid: session.conn.id, waiting_bytes: backlogOf(session) });
    doom(session);
  }

  function closeForAbuse(session: Session, reason: string) {
    if (session.isDoomed) return;
    metrics.count("engine_abuse_closed_total");
    log.info("engine_abuse_closed", { sid: session.conn.id, reason });
    doom(session);
  }

  // Ends a session at once, without waiting for its client to read. In a microtask: whoever writes to a room must not
  // find members vanish in the middle of it.
  function doom(session: Session) {
    session.isDoomed = true;
    queueMicrotask(() => {
      if (session.socket === undefined) session.conn.transport.close();
      else session.socket.terminate();
    });
  }

  // Requests

  function answerHeaders(request: Request): [string, string][] {
    const origin = corsOrigin(request.headers.get("origin"), request.headers.get("host"));
    const headers: [string, string][] = [["Cache-Control", "no-store"]];
    // Bun closes when asked to and does not say so: a client that pools its sockets would write to a dead one.
    if (request.headers.get("connection")?.toLowerCase() === "close") headers.push(["Connection", "close"]);
    if (origin !== "*") headers.push(["Vary", "Origin"]);
    if (origin === undefined) return headers;
    headers.push(["Access-Control-Allow-Origin", origin]);
    // A browser that was told to send cookies would drop the answer otherwise; no cookie is ever read.
    if (origin !== "*") headers.push(["Access-Control-Allow-Credentials", "true"]);
    return headers;
  }

  function refuse(
    request: Request,
    status: number,
    body: Fault | { code: string; message: string },
  ): Response {
    if (!new URL(request.url).searchParams.has("sid")) metrics.count("handshakes_refused_total");
    return Response.json(body, { status, headers: answerHeaders(request) });
  }

  const refuseWith = (request: Request, code: "forbidden" | "draining" | "not_found") =>
    refuse(request, REFUSALS[code].status, { code, message: REFUSALS[code].text });

  function preflight(request: Request): Response {
    const headers = new Headers(answerHeaders(request));
    if (headers.has("Access-Control-Allow-Origin")) {
      headers.set("Access-Control-Allow-Methods", "GET, POST");
      const asked = request.headers.get("access-control-request-headers");
      if (asked !== null) headers.set("Access-Control-Allow-Headers", asked);
      headers.set("Access-Control-Max-Age", "600");
    }
    return new Response(null, { status: 204, headers });
  }

  /** What is wrong with this request as Engine.IO on Node sees it; undefined when nothing is. */
  function faultOf(
    request: Request,
    query: URLSearchParams,
    session: Session | undefined,
  ): Fault | undefined {
    const transport = query.get("transport") ?? "";
    const isHandshake = !query.get("sid");
    const upgrade = request.headers.get("upgrade");
    if (!TRANSPORTS.has(transport)) return FAULTS.unknownTransport;
    if (isHandshake && request.method !== "GET") return FAULTS.badHandshakeMethod;
    if (isHandshake && query.get("EIO") !== "4") return FAULTS.unsupportedVersion;
    if (!isHandshake && session === undefined) return FAULTS.unknownSession;
    if (!["GET", "POST"].includes(request.method)) return FAULTS.badRequest;
    if (upgrade !== null && (request.method !== "GET" || upgrade.toLowerCase() !== "websocket")) {
      return FAULTS.badRequest;
    }
    if ((transport === "websocket") !== (upgrade !== null)) return FAULTS.badRequest;
    if (upgrade === null && session?.socket !== undefined) return FAULTS.badRequest;
    return undefined;
  }

  function isForeign(request: Request, isHandshake: boolean): boolean {
    const acts = isHandshake || request.method === "POST" || request.headers.has("upgrade");
    return acts && !isOriginWelcome(request.headers.get("origin"), request.headers.get("host"));
  }

  async function answer(request: Request, server: Bun.Server<WebSocketData>): Promise<Response> {
    const url = URL.parse(request.url);
    if (url === null || url.pathname !== path) return refuseWith(request, "not_found");
    if (request.method === "OPTIONS") return preflight(request);
    const sid = url.searchParams.get("sid");
    const isHandshake = !sid;
    if (isForeign(request, isHandshake)) return refuseWith(request, "forbidden");
    const session = isHandshake ? undefined : sessions.get(sid);
    const fault = faultOf(request, url.searchParams, session);
    if (fault !== undefined) return refuse(request, 400, fault);
    if (isHandshake) {
      if (isDraining || engine.isClosed) return refuseWith(request, "draining");
      const address = server.requestIP(request)?.address;
      if (address !== undefined) addressOf.set(request, address.replace(/^::ffff:(?=\d+\.)/i, ""));
    }
    if (request.headers.has("upgrade")) return upgrade(request, server, session);
    if (request.method === "GET") return poll(request, server);
    return post(request, server, session as Session);
  }

  async function upgrade(
    request: Request,
    server: Bun.Server<WebSocketData>,
    session: Session | undefined,
  ): Promise<Response> {
    if (session?.socket !== undefined) {
      // A second WebSocket of a session is opened and closed, as Engine.IO on Node does; the engine would answer 400.
      const transport = new WS(engine.opts);
      if (!server.upgrade(request, { data: { transport } })) return refuse(request, 400, FAULTS.badRequest);
      transport.close();
      return new Response(null);
    }
    const response = await engine.handleRequest(request, server);
    // The rest of the WebSocket headers is wrong: the client's fault, not ours.
    return response.status === 500 ? refuse(request, 400, FAULTS.badRequest) : response;
  }

  async function poll(request: Request, server: Bun.Server<WebSocketData>): Promise<Response> {
    // A quiet poll lasts until the next ping, a dead one until the ping timeout ends its session.
    const seconds = Math.ceil((pingIntervalMs + pingTimeoutMs) / 1_000) + 5;
    server.timeout(request, seconds > IDLE_SECONDS_MAX ? 0 : seconds);
    const response = await engine.handleRequest(request, server);
    server.timeout(request, LIMITS.pollAnswerIdleSeconds);
    return response;
  }

  async function post(
    request: Request,
    server: Bun.Server<WebSocketData>,
    session: Session,
  ): Promise<Response> {
    const closeAndRefuse = (reason: string, status = 400) => {
      closeForAbuse(session, reason);
      return refuse(request, status, FAULTS.badRequest);
    };
    if (session.isPosting) return closeAndRefuse("overlapping_posts");
    const contentType = request.headers.get("content-type") ?? "";
    if (contentType.startsWith("application/octet-stream")) return closeAndRefuse("binary_post");
    session.isPosting = true;
    try {
      const body = await readPostBody(request, frameBytesMax, pingTimeoutMs);
      if (body.kind === "too_large") return closeAndRefuse("post_too_large", 413);
      if (body.kind === "cut_short") return closeAndRefuse("post_cut_short");
      if (session.closedBecause !== undefined) return refuse(request, 400, FAULTS.unknownSession);
      if (session.socket !== undefined) return refuse(request, 400, FAULTS.badRequest);
      const count = countPayload(body.bytes);
      if (isOverCeiling(count)) return closeAndRefuse("too_many_packets");
      let payload: string | undefined = Buffer.from(
        body.bytes.buffer,
        body.bytes.byteOffset,
        body.bytes.byteLength,
      ).toString();
      if (count.pongs > 0) {
        payload = withoutStrayPongs(payload, session.isPongAwaited);
        session.isPongAwaited = false;
        if (payload === undefined) return new Response("ok", { headers: answerHeaders(request) });
      }
      const { url, method, headers } = request;
      const response = await engine.handleRequest(
        new Request(url, { method, headers, body: payload }),
        server,
      );
      return (session.closedBecause as string | undefined) === "parse error"
        ? refuse(request, 400, FAULTS.badRequest)
        : response;
    } finally {
      session.isPosting = false;
    }
  }

  // WebSockets

  function open(socket: BunWebSocket) {
    const { transport } = socket.data;
    linkOf.set(transport, { socket, session: undefined, hasProbed: false });
    engine.onWebSocketOpen(socket);
    // The engine takes a socket in the call that opened it; where its session ended meanwhile, nobody did.
    queueMicrotask(() => {
      if (transport.listeners("packet").length === 0 && socket.readyState === WebSocket.OPEN)
        socket.terminate();
    });
  }

  function message(socket: BunWebSocket, frame: string | Buffer) {
    if (typeof frame === "string") {
      const link = linkOf.get(socket.data.transport);
      if (link !== undefined && !admits(link, frame)) return;
    }
    engine.onWebSocketMessage(socket, frame);
  }

  // Each pong arms a timer until the first ping has gone out, each probe one for ever: the engine gets one of each.
  function admits(link: Link, frame: string): boolean {
    const first = frame.charCodeAt(0);
    if (first === PONG_CHAR && link.session !== undefined) {
      const { isPongAwaited } = link.session;
      link.session.isPongAwaited = false;
      return isPongAwaited;
    }
    if (first === PING_CHAR && link.session === undefined) {
      const { hasProbed } = link;
      link.hasProbed = true;
      if (hasProbed) link.socket.terminate();
      return !hasProbed;
    }
    return true;
  }

  return {
    engine,
    websocket: {
      open,
      message,
      close: (socket, code, reason) => engine.onWebSocketClose(socket, code, reason),
      maxPayloadLength: frameBytesMax,
      // Never reached: see PublishMeter. Twice what a turn may publish, as one turn's may still be unflushed.
      backpressureLimit: outboundBytesMax + 2 * LIMITS.publishedUnflushedBytesMax,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,
    },
    maxRequestBodySize: 16 * frameBytesMax,
    serves: (request) => URL.parse(request.url)?.pathname === path,
    async handle(request, server) {
      try {
        return await answer(request, server);
      } catch (error) {
        // A session that ended between two steps of the engine; its next request would hear the same.
        log.debug("engine_request_failed", { error });
        return refuse(request, 400, FAULTS.badRequest);
      }
    },
    webSocketOf: (connection) => sessionOf.get(connection)?.socket,
    bufferedBytes(connection) {
      const session = sessionOf.get(connection);
      return session === undefined ? 0 : backlogOf(session);
    },
    mayPublish: meter.mayPublish,
    refuseHandshakes() {
      isDraining = true;
    },
    *connections() {
      for (const { conn } of sessions.values()) yield conn;
    },
    close() {
      meter.stop();
      engine.close();
    },
  };
}
