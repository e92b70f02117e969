/**
 * Pages on their way out. What a client does not read stays with the runtime until the connection ends, and nobody can be
 * refused for it there: so long pages are counted from when they are handed over until they are taken.
 */

import type { Context } from "hono";
import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { HttpEnv } from "./target.ts";

export interface PageAnswers {
  /** Answers with a page. Refuses with `overloaded` where it is long and too many are unread. */
  send(c: Context<HttpEnv>, json: string): Response;
}

/** Whether a page is among those that are counted, and made one in a tick of the event loop. */
export const isLongPage = (json: string): boolean =>
  // A UTF-16 unit takes three bytes of UTF-8 at most: of an ordinary page its length says enough.
  json.length * 3 > LIMITS.longPageBytes && Buffer.byteLength(json) > LIMITS.longPageBytes;

/** Nobody is to wait for a page: there are too many. */
export function pagesOverloaded(metrics: Metrics): ChatError {
  metrics.count("pages_overloaded_total");
  return new ChatError("overloaded");
}

/** @param unreadBytesMax over all connections; one page always goes out */
export function createPageAnswers({
  unreadBytesMax,
  metrics,
}: {
  readonly unreadBytesMax: number;
  readonly metrics: Metrics;
}): PageAnswers {
  let unreadBytes = 0;

  /** A body that is counted while it is unread. */
  function counted(json: string): ReadableStream {
    const bytes = Buffer.byteLength(json);
    if (unreadBytes > 0 && unreadBytes + bytes > unreadBytesMax) throw pagesOverloaded(metrics);
    // Not held any longer than until the runtime has its own bytes of it.
    let held = json;
    const source: Bun.DirectUnderlyingSource = {
      type: "direct",
      // Counted here and not above: an answer whose client has gone by now is never asked for.
      async pull(sink) {
        unreadBytes += bytes;
        try {
          sink.write(held);
          held = "";
          // Resolves when the socket has taken the last byte, or is closed. What was written whole and ended before
          // anything was sent has a Content-Length.
          await sink.end();
        } finally {
          unreadBytes -= bytes;
        }
      },
    };
    // The types of the DOM know nothing of Bun's own kind of stream.
    return new ReadableStream(source as unknown as UnderlyingSource, { highWaterMark: bytes + 1 });
  }

  return {
    send(c, json) {
      const isUncounted = c.env.isHead || !isLongPage(json);
      return c.body(isUncounted ? json : counted(json), 200, { "content-type": "application/json" });
    },
  };
}
