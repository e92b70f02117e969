/** Browsers' origins (CORS): who may read the answers, and who may act at all. */

import type { MiddlewareHandler } from "hono";
import { foreignOrigin, isOriginWelcome, type OriginList } from "../domain/origins.ts";
import type { HttpEnv } from "./target.ts";

const READS: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS"]);
const PREFLIGHT_SECONDS = 600;

/** Grants to welcome origins; refuses with `forbidden` when another wants more than to read. */
export function originGuard(origins: OriginList): MiddlewareHandler<HttpEnv> {
  return async (c, next) => {
    const origin = c.req.header("origin") ?? null;
    const welcome = isOriginWelcome(origins, origin, c.req.header("host") ?? null);
    // Caches must keep the answers to different origins apart, the one without an origin too.
    if (!origins.any) c.header("vary", "Origin");
    if (!welcome && !READS.has(c.req.method)) throw foreignOrigin(origin);
    if (welcome && (origin !== null || origins.any)) {
      c.header("access-control-allow-origin", origins.any ? "*" : (origin as string));
      c.header("access-control-expose-headers", "Retry-After");
      if (c.req.method === "OPTIONS") {
        c.header("access-control-allow-methods", "GET, HEAD, POST");
        c.header("access-control-allow-headers", "Content-Type, Idempotency-Key");
        c.header("access-control-max-age", String(PREFLIGHT_SECONDS));
      }
    }
    await next();
  };
}
