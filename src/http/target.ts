/** What a request asks for, as it was sent: the raw path and query, before anything decodes or normalises them. */

import type { Context } from "hono";

/** What the routes know about a request beyond the request itself. */
export interface HttpEnv {
  Bindings: {
    /** The caller's address; only the socket says it, never a header. */
    readonly address: string;
    /** Asked with HEAD: the body is only measured. */
    readonly isHead: boolean;
  };
}

export interface Target {
  readonly path: string;
  /** Without its question mark; empty when there is none. */
  readonly query: string;
}

/** Bun hands on an absolute URL, or the bare path where the `Host` header is unfit for one. */
export function targetOf(url: string): Target {
  const start = url.startsWith("/") ? 0 : url.indexOf("/", url.indexOf("://") + 3);
  const [whole = ""] = url.slice(start).split("#", 1);
  const mark = whole.indexOf("?");
  return mark < 0 ? { path: whole, query: "" } : { path: whole.slice(0, mark), query: whole.slice(mark + 1) };
}

/** Path and query as one text. */
export const wholeTarget = (url: string) => {
  const { path, query } = targetOf(url);
  return `${path}?${query}`;
};

export const rawQuery = (c: Context<HttpEnv>) => targetOf(c.req.raw.url).query;

/** The name in `/messages/{user_id}` and `/rooms/{room}/…`, still encoded: hono's own decoding forgives too much. */
export const rawName = (c: Context<HttpEnv>) => targetOf(c.req.raw.url).path.split("/")[2] ?? "";
