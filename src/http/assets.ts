/** The files the server carries: the chat page, and the bundles of the Socket.IO client that fit this server. */

import type { Context } from "hono";
// By path, since the package's exports do not name them; as files, so that a compiled program carries them too.
import plain from "../../node_modules/socket.io-client/dist/socket.io.js" with { type: "file" };
import plainMap from "../../node_modules/socket.io-client/dist/socket.io.js.map" with { type: "file" };
import minified from "../../node_modules/socket.io-client/dist/socket.io.min.js" with { type: "file" };
import minifiedMap from "../../node_modules/socket.io-client/dist/socket.io.min.js.map" with { type: "file" };
import module from "../../node_modules/socket.io-client/dist/socket.io.esm.min.js" with { type: "file" };
import moduleMap from "../../node_modules/socket.io-client/dist/socket.io.esm.min.js.map" with { type: "file" };
import chatPage from "../web/index.html" with { type: "text" };
import { assert } from "../errors.ts";
import type { HttpEnv } from "./target.ts";

type Route = (c: Context<HttpEnv>) => Response | Promise<Response>;

const SCRIPT = "text/javascript; charset=utf-8";
const MAP = "application/json";
/** Kept by browsers, and asked for anew each time: a new server's client is used at once. */
const CACHE_CONTROL = "public, no-cache";

export const clientBundles: Readonly<Record<string, Route>> = {
  "/socket.io/socket.io.js": file(plain, SCRIPT),
  "/socket.io/socket.io.js.map": file(plainMap, MAP),
  "/socket.io/socket.io.min.js": file(minified, SCRIPT),
  "/socket.io/socket.io.min.js.map": file(minifiedMap, MAP),
  "/socket.io/socket.io.esm.min.js": file(module, SCRIPT),
  "/socket.io/socket.io.esm.min.js.map": file(moduleMap, MAP),
};

/** The page runs its own script, the served bundle, and nothing else; it speaks to this server only. */
export function chatPageRoute(): Route {
  let prepared: ReturnType<typeof preparedPage> | undefined;
  return (c) => {
    prepared ??= preparedPage();
    const { body, tag, policy } = prepared;
    c.header("content-security-policy", policy);
    c.header("referrer-policy", "no-referrer");
    return answer(c, body, tag, "text/html; charset=utf-8");
  };
}

function preparedPage() {
  const html: unknown = chatPage; // bun-types knows HTML imports as bundles only
  assert(typeof html === "string", "the chat page is imported as text");
  const policy = [
    "default-src 'none'",
    `script-src 'self' ${inlineHashes(html, "script")}`,
    `style-src ${inlineHashes(html, "style")}`,
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; ");
  const body = new TextEncoder().encode(html);
  return { body, tag: entityTag(body), policy };
}

/** CSP hash sources of the page's inline elements (W3C CSP3, "hash-source"). */
const inlineHashes = (html: string, element: "script" | "style") =>
  [...html.matchAll(new RegExp(`<${element}[^>]*>([^]*?)</${element}>`, "g"))]
    .map(([, text = ""]) => `'sha256-${new Bun.CryptoHasher("sha256").update(text).digest("base64")}'`)
    .join(" ");

function file(path: string, contentType: string): Route {
  let loaded: Promise<{ body: Uint8Array<ArrayBuffer>; tag: string }> | undefined;
  const load = async () => {
    const body = await Bun.file(path).bytes();
    return { body, tag: entityTag(body) };
  };
  return async (c) => {
    loaded ??= load();
    const { body, tag } = await loaded;
    return answer(c, body, tag, contentType);
  };
}

function answer(c: Context<HttpEnv>, body: Uint8Array<ArrayBuffer>, tag: string, contentType: string) {
  c.header("cache-control", CACHE_CONTROL);
  c.header("etag", tag);
  const known = (c.req.header("if-none-match") ?? "").split(",").map((one) => one.trim().replace(/^W\//, ""));
  if (known.includes(tag) || known.includes("*")) return c.body(null, 304);
  c.header("content-type", contentType);
  return c.body(body);
}

const entityTag = (body: Uint8Array) =>
  `"${new Bun.CryptoHasher("sha256").update(body).digest("hex").slice(0, 32)}"`;
