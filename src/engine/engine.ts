/**
 * Engine.IO on Bun, guarded: every touch of @socket.io/bun-engine, which is young and trusts its clients. What it lets
 * through or forgets is refused, bounded or put right here, before and around it; nothing in it is patched.
 */

import { Server as BunEngine, type BunWebSocket, type WebSocketData } from "@socket.io/bun-engine";
import type { Socket as EngineConnection } from "@socket.io/bun-engine/dist/socket";
import { WS } from "@socket.io/bun-engine/dist/transports/websocket";
import { foreignOrigin } from "../domain/origins.ts";
import { asChatError, ChatError, REFUSALS, retryAfterSeconds } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import { errorToWire } from "../protocol/events.ts";
import { asksForWebSocket, FAULTS, type Fault, faultOf, isHandshake } from "./request.ts";
import { createSessions, type EngineSession, type Receiver, type Session } from "./session.ts";
import { countPayload, readPostBody, withoutStrayPongs } from "./polling-post.ts";
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
  /** Connections of sessions at once, of one that polls two; a new one beyond them is answered 503 `overloaded`. */
  readonly connectionsMax: number;
  /** Lets a new session from this address in; throws the refusal where not. Asked last. */
  readonly admitHandshake: (address: string) => void;
  /** Gives the receiver of what a new session says. */
  readonly accept: (session: EngineSession) => Receiver;
  /** Whether a request with this `Origin` and `Host` may open a session or write to one. */
  readonly isOriginWelcome: (origin: string | null, host: string | null) => boolean;
  /** The value of `Access-Control-Allow-Origin`, undefined where no grant is given. */
  readonly corsOrigin: (origin: string | null, host: string | null) => string | undefined;
  readonly log: Log;
  readonly metrics: Metrics;
}

/** The server that carries the engine, for those who must not know the engine's library. */
export type EngineHost = Bun.Server<WebSocketData>;

export interface ChatEngine {
  /** For `Bun.serve`. */
  readonly websocket: Bun.WebSocketHandler<WebSocketData>;
  /** For `Bun.serve`, whose own 413 closes no session: well above the ceiling that `handle` keeps by itself. */
  readonly maxRequestBodySize: number;
  /** Whether this request is for `handle`. */
  serves(request: Request): boolean;
  /** Answers everything under the path; never rejects. */
  handle(request: Request, server: Bun.Server<WebSocketData>): Promise<Response>;
  /** Whether `bytes` may go to a topic now; counts them when so. False: write to each connection instead. */
  mayPublish(bytes: number): boolean;
  /** From now on a new session is answered 503 `draining`; those that exist go on. */
  refuseHandshakes(): void;
  connections(): Iterable<EngineConnection>;
  /** Closes every connection and opens no more. */
  close(): void;
}

/** When a client may try again that was refused because there are too many. */
const FULL_RETRY_MS = 10_000;

/** The longest idle timeout that Bun knows for a request, in seconds. */
const IDLE_SECONDS_MAX = 255;

const asksToClose = ({ headers }: Request) => headers.get("connection")?.toLowerCase() === "close";

/** Asked anew after each await: it changes meanwhile. */
const reasonOf = (session: Session) => session.closeReason;

/** Undefined where the bytes are not UTF-8. */
function utf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

class GuardedEngine extends BunEngine {
  /**
   * The engine's own listener for a connection's end lives in the scope of the handshake and keeps the request, its URL
   * and its headers for as long as the connection lives: some kilobytes each. Called before any other listener is added;
   * its caller calls `forget` when the connection ends.
   */
  dropOwnListener(conn: EngineConnection) {
    conn.off("close");
  }
  forget(sid: string) {
    this["clients"].delete(sid);
  }
}

export function createEngine(options: EngineOptions): ChatEngine {
  const { path = "/socket.io/", pingIntervalMs, pingTimeoutMs, frameBytesMax, outboundBytesMax } = options;
  const { connectionsMax, admitHandshake, accept, isOriginWelcome, corsOrigin, log, metrics } = options;

  const sessions = createSessions({
    outboundBytesMax,
    accept,
    onEnd: (sid) => engine.forget(sid),
    log,
    metrics,
  });
  const meter = createPublishMeter(sessions.endSlow);
  let isDraining = false;

  const engine = new GuardedEngine({
    path,
    pingInterval: pingIntervalMs,
    pingTimeout: pingTimeoutMs,
    maxHttpBufferSize: frameBytesMax,
    editResponseHeaders(headers, request) {
      for (const [name, value] of answerHeaders(request)) headers.set(name, value);
    },
  });
  engine.on("connection", (conn) => {
    engine.dropOwnListener(conn);
    // The request is not read again once the session is open; its headers would be kept as long as the session stays.
    Object.assign(conn, { request: undefined });
    sessions.adopt(conn);
  });

  // Requests

  /** @param closes the answer is the last on its connection, as it is where the request asks for that */
  function answerHeaders(request: Request, closes = asksToClose(request)): [string, string][] {
    const origin = corsOrigin(request.headers.get("origin"), request.headers.get("host"));
    const headers: [string, string][] = [["Cache-Control", "no-store"]];
    // Bun closes when asked to and does not say so: a client that pools its sockets would write to a dead one.
    if (closes) headers.push(["Connection", "close"]);
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
    headers = answerHeaders(request),
  ): Response {
    // A Host can be such that there is no URL.
    const query = URL.parse(request.url)?.searchParams ?? new URLSearchParams();
    if (isHandshake(query)) metrics.count("handshakes_refused_total");
    return Response.json(body, { status, headers });
  }

  function refuseWith(request: Request, error: ChatError): Response {
    // Where there are too many connections, this one is not kept for the next request.
    const headers = answerHeaders(request, error.code === "overloaded" || asksToClose(request));
    const seconds = retryAfterSeconds(error);
    if (seconds !== undefined) headers.push(["Retry-After", seconds]);
    return refuse(request, REFUSALS[error.code].status, errorToWire(error), headers);
  }

  /** Lets a new session in; throws the refusal where not. */
  function admitSession(request: Request, server: Bun.Server<WebSocketData>) {
    if (isDraining) throw new ChatError("draining");
    if (sessions.descriptors() + (request.headers.has("upgrade") ? 1 : 2) > connectionsMax) {
      metrics.count("handshakes_overloaded_total");
      throw new ChatError("overloaded", { retryAfterMs: FULL_RETRY_MS });
    }
    admitHandshake(server.requestIP(request)?.address ?? "");
  }

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

  function isForeign(request: Request, query: URLSearchParams): boolean {
    const acts = isHandshake(query) || request.method === "POST" || request.headers.has("upgrade");
    return acts && !isOriginWelcome(request.headers.get("origin"), request.headers.get("host"));
  }

  async function answer(request: Request, server: Bun.Server<WebSocketData>): Promise<Response> {
    const url = URL.parse(request.url);
    if (url === null || url.pathname !== path) return refuseWith(request, new ChatError("not_found"));
    const { method, headers } = request;
    // The library takes any Upgrade for a WebSocket's.
    if (headers.has("upgrade") && !asksForWebSocket(headers)) headers.delete("upgrade");
    if (method === "OPTIONS") return preflight(request);
    const query = url.searchParams;
    if (isForeign(request, query)) return refuseWith(request, foreignOrigin(headers.get("origin")));
    const session = sessions.bySid(query.get("sid") ?? "");
    const fault = faultOf({
      method,
      upgrades: headers.has("upgrade"),
      query,
      session: session && (session.link === undefined ? "polling" : "websocket"),
    });
    if (fault !== undefined) return refuse(request, 400, fault);
    if (session === undefined) {
      try {
        admitSession(request, server);
      } catch (thrown) {
        return refuseWith(request, asChatError(thrown));
      }
    }
    if (headers.has("upgrade")) return upgrade(request, server, session);
    if (session === undefined || method === "GET") return poll(request, server);
    return post(request, server, session);
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
      session.endForAbuse(reason);
      return refuse(request, status, FAULTS.badRequest);
    };
    if (session.isPosting) return closeAndRefuse("overlapping_posts");
    const contentType = request.headers.get("content-type") ?? "";
    if (contentType.startsWith("application/octet-stream")) return closeAndRefuse("binary_post");
    session.isPosting = true;
    try {
      const body = await readPostBody(request, frameBytesMax, pingTimeoutMs);
      if (body.kind === "too_large") return closeAndRefuse("post_too_large", 413);
      if (body.kind === "too_many_pieces") return closeAndRefuse("post_in_too_many_pieces");
      if (body.kind === "cut_short") {
        sessions.end(session);
        return refuse(request, 400, FAULTS.badRequest);
      }
      if (reasonOf(session) !== undefined) return refuse(request, 400, FAULTS.unknownSession);
      if (session.socket !== undefined) return refuse(request, 400, FAULTS.badRequest);
      const count = countPayload(body.bytes);
      if (!sessions.admitsPayload(session, count)) return refuse(request, 400, FAULTS.badRequest);
      // As a WebSocket does: bytes that are no text would be stored as another text than was sent.
      let payload = utf8(body.bytes);
      if (payload === undefined) return closeAndRefuse("post_not_utf8");
      if (count.pongs > 0) payload = withoutStrayPongs(payload, sessions.admitsPong(session));
      if (payload === undefined) return new Response("ok", { headers: answerHeaders(request) });
      const { url, method, headers } = request;
      const response = await engine.handleRequest(
        new Request(url, { method, headers, body: payload }),
        server,
      );
      return reasonOf(session) === "parse error" ? refuse(request, 400, FAULTS.badRequest) : response;
    } finally {
      session.isPosting = false;
    }
  }

  // WebSockets

  function open(socket: BunWebSocket) {
    const { transport } = socket.data;
    engine.onWebSocketOpen(sessions.link(socket));
    // The engine takes a socket in the call that opened it. Where the session ended meanwhile the socket has no owner.
    queueMicrotask(() => {
      const isUnowned = !sessions.isTaken(socket) && transport.listeners("packet").length === 0;
      if (isUnowned && socket.readyState === WebSocket.OPEN) socket.terminate();
    });
  }

  function message(socket: BunWebSocket, frame: string | Buffer) {
    if (!sessions.takes(socket, frame)) engine.onWebSocketMessage(socket, frame);
  }

  function closed(socket: BunWebSocket, code: number, reason: string) {
    engine.onWebSocketClose(socket, code, reason);
    sessions.closed(socket);
  }

  return {
    websocket: {
      open,
      message,
      ping: sessions.heard,
      pong: sessions.heard,
      drain: sessions.drained,
      close: closed,
      maxPayloadLength: frameBytesMax,
      // Never reached: see PublishMeter. Twice what a tick may publish, as one tick's may still be unflushed.
      backpressureLimit: outboundBytesMax + 2 * LIMITS.publishedUnflushedBytesMax,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,
    },
    maxRequestBodySize: 16 * frameBytesMax,
    serves({ url }) {
      // Every request of the service is asked about: the path is looked for where it must stand, not taken apart.
      const origin = url.indexOf("://");
      const start = url.indexOf("/", origin + 3);
      const end = start + path.length;
      return (
        origin >= 0 &&
        url.startsWith(path, start) &&
        (url.length === end || url[end] === "?" || url[end] === "#")
      );
    },
    async handle(request, server) {
      try {
        return await answer(request, server);
      } catch (error) {
        // A session that ended between two steps of the engine; its next request would hear the same.
        log.debug("engine_request_failed", { error });
        return refuse(request, 400, FAULTS.badRequest);
      }
    },
    mayPublish(bytes) {
      sessions.flush();
      return meter.mayPublish(bytes);
    },
    refuseHandshakes() {
      isDraining = true;
    },
    *connections() {
      for (const { conn } of sessions.all()) yield conn;
    },
    close() {
      isDraining = true;
      meter.stop();
      engine.close();
    },
  };
}
