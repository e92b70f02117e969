/** The only place where a refusal becomes an HTTP answer. */

import type { Context } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { asChatError, ChatError, REFUSALS, retryAfterSeconds } from "../errors.ts";
import type { Log } from "../observe/log.ts";
import { refusalToWire } from "../protocol/routes.ts";
import { type HttpEnv, targetOf } from "./target.ts";

export type Refuse = (thrown: unknown, c: Context<HttpEnv>) => Response;

/** What nobody foresaw goes to the log with its cause, and to the caller as `internal` without it. */
export const createRefuse =
  (log: Log): Refuse =>
  (thrown, c) => {
    const error = asChatError(thrown);
    if (error.code === "internal") {
      log.error("request_failed", {
        method: c.req.method,
        path: targetOf(c.req.raw.url).path,
        error: error.details.cause ?? error,
      });
    }
    c.header("retry-after", retryAfterSeconds(error));
    return c.json(refusalToWire(error), REFUSALS[error.code].status satisfies ContentfulStatusCode);
  };

export const notFound = () => new ChatError("not_found");
