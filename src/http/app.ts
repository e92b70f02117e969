/** The HTTP face: what every request goes through, in order, and the table of routes. */

import { type Context, Hono } from "hono";
import { TrieRouter } from "hono/router/trie-router";
import type { Chat } from "../chat/chat.ts";
import type { OriginList } from "../domain/origins.ts";
import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import { chatPageRoute, clientBundles } from "./assets.ts";
import { createRefuse, notFound } from "./errors.ts";
import { healthRoutes, type Readiness } from "./health.ts";
import { messageRoutes } from "./messages.ts";
import { originGuard } from "./origins.ts";
import { createPageAnswers, isLongPage } from "./page-answers.ts";
import { createPageCache } from "./page-cache.ts";
import { createPageTurns } from "./page-turns.ts";
import { roomRoutes } from "./rooms.ts";
import { type HttpEnv, targetOf, wholeTarget } from "./target.ts";

export interface HttpAppOptions {
  readonly chat: Chat;
  readonly origins: OriginList;
  /** UTF-8 bytes of the longest text. */
  readonly messageBytesMax: number;
  readonly bodyBytesMax: number;
  readonly service: { readonly name: string; readonly version: string };
  readonly uptimeSeconds: () => number;
  readonly readiness: () => Readiness;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Bytes of long pages that may be unread; LIMITS.pagesUnreadBytesMax unless given. */
  readonly pagesUnreadBytesMax?: number;
}

export interface HttpApp {
  /** Answers anything; never rejects. Without a server the caller has no address. */
  fetch(request: Request, server: Bun.Server<unknown> | undefined): Promise<Response>;
}

type Handler = (c: Context<HttpEnv>) => Response | Promise<Response>;

export function createHttpApp(options: HttpAppOptions): HttpApp {
  const app = new Hono<HttpEnv>({
    // The usual router compiles its routes at the first request: 5 ms of the 28 from the start to the first answer.
    router: new TrieRouter(),
    getPath: (request) => targetOf(request.url).path,
  });
  const refuse = createRefuse(options.log);
  const health = healthRoutes(options);
  const pages = createPageCache(options.chat.history.revision);
  const answers = createPageAnswers({
    unreadBytesMax: options.pagesUnreadBytesMax ?? LIMITS.pagesUnreadBytesMax,
    metrics: options.metrics,
  });
  const messages = messageRoutes({ ...options, pages, turns: createPageTurns(options), answers });
  const rooms = roomRoutes({ ...options, answers });

  app.onError(refuse);
  app.notFound((c) => refuse(notFound(), c));

  app.use(async (c, next) => {
    c.header("x-content-type-options", "nosniff");
    c.header("cache-control", "no-store");
    // Bun closes when asked to and does not say so: a client that pools its sockets would write to a dead one.
    if (c.req.header("connection")?.toLowerCase() === "close") c.header("connection", "close");
    await next();
  });
  app.use(originGuard(options.origins));
  app.use(async (c, next) => {
    const { path, query } = targetOf(c.req.raw.url);
    if (path.length + query.length > LIMITS.urlCharsMax) {
      throw new ChatError("invalid_request", {
        issues: [{ path: "", message: `path and query must be at most ${LIMITS.urlCharsMax} characters` }],
      });
    }
    await next();
  });

  const routes: Readonly<Record<string, { readonly GET: Handler; readonly POST?: Handler }>> = {
    "/": { GET: health.health },
    "/livez": { GET: health.alive },
    "/readyz": { GET: health.ready },
    "/messages/:user_id": { GET: messages.ofUser },
    "/rooms/:room/messages": { GET: messages.ofRoom, POST: messages.post },
    "/rooms": { GET: rooms.list },
    "/chat": { GET: chatPageRoute() },
    ...Object.fromEntries(Object.entries(clientBundles).map(([path, GET]) => [path, { GET }])),
  };
  for (const [path, { GET, POST }] of Object.entries(routes)) {
    const allow = POST === undefined ? "GET, HEAD, OPTIONS" : "GET, HEAD, POST, OPTIONS";
    app.get(path, GET);
    if (POST !== undefined) app.post(path, POST);
    app.options(path, (c) => c.body(null, 204, { allow }));
    app.all(path, (c) => {
      c.header("allow", allow);
      throw new ChatError("method_not_allowed");
    });
  }

  // The headers that the middleware above gives to a page for a caller without an Origin.
  const pageHeaders = {
    "content-type": "application/json",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    ...(options.origins.any
      ? { "access-control-allow-origin": "*", "access-control-expose-headers": "Retry-After" }
      : { vary: "Origin" }),
  };

  /** A page that is kept, where nothing on the way through the app could change the answer. */
  function keptPage({ method, headers, url }: Request): Response | undefined {
    if (method !== "GET" || headers.has("origin") || headers.get("connection")?.toLowerCase() === "close")
      return undefined;
    const json = pages.find(wholeTarget(url));
    return json === undefined || isLongPage(json) ? undefined : new Response(json, { headers: pageHeaders });
  }

  return {
    async fetch(request, server) {
      const kept = keptPage(request);
      if (kept !== undefined) return kept;
      const address = server?.requestIP(request)?.address.replace(/^::ffff:/, "") ?? "";
      const isHead = request.method === "HEAD";
      return app.fetch(isHead ? asGet(request) : request, { address, isHead });
    },
  };
}

/** HEAD asked as GET, and not left to hono: Bun takes the body away and leaves its length in the answer. */
function asGet({ url, headers }: Request): Request {
  const { path, query } = targetOf(url);
  return new Request(`http://localhost${path}${query === "" ? "" : `?${query}`}`, { headers });
}
