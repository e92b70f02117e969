/** HTTP as bytes: targets, percent-encoding, queries, headers that contradict each other, bodies and keys. */

import type { Chance } from "../../fixture/chance.ts";
import { judgedHttp } from "./answers.ts";
import { changedBytes, changedFields, changedText, jsonOf, MARK, oddJson, oddText } from "./hostile.ts";
import { must, type Surface } from "./surface.ts";
import { exchange } from "./wire.ts";

interface RequestInput {
  readonly method: string;
  readonly target: string;
  readonly headers: readonly string[];
  /** As Latin-1. */
  readonly body: string;
  readonly framing: Framing;
  /** The whole request with bytes changed at random, as Latin-1; undefined: as it is. */
  readonly garbled: string | undefined;
}

type Framing =
  "length" | "chunked" | "both" | "two_lengths" | "short" | "long" | "none" | "bad_chunks" | "negative";
const FRAMINGS: readonly Framing[] = [
  ...([
    "length",
    "length",
    "length",
    "length",
    "length",
    "length",
    "chunked",
    "chunked",
    "chunked",
    "chunked",
  ] as const),
  ...(["both", "two_lengths", "short", "long", "none", "bad_chunks", "negative"] as const),
];

const METHODS = [
  "GET",
  "GET",
  "GET",
  "POST",
  "POST",
  "HEAD",
  "OPTIONS",
  "PUT",
  "PATCH",
  "DELETE",
  "TRACE",
  "CONNECT",
  "get",
  "BREW",
];
const TARGETS = [
  ...[
    "/",
    "/livez",
    "/readyz",
    "/rooms",
    "/chat",
    "/messages/ana",
    "/rooms/fuzz/messages",
    "/socket.io/socket.io.js",
  ],
  ...[
    "/messages/ana?room=fuzz&limit=3",
    "/rooms?limit=2",
    "/rooms/fuzz/messages?after=1&limit=2",
    "/rooms/%E2%82%AC/messages",
  ],
  ...[
    "/rooms/fuzz/messages?from=2026-01-31T09:05:00%2B02:00&to=2027-01-01T00:00:00Z",
    "/socket.io/",
    "/messages/a%2Fb",
  ],
];
const TARGET_PIECES = [
  ...[
    "%",
    "%0",
    "%00",
    "%ff",
    "%C3%28",
    "%2e%2e",
    "%2F",
    "/",
    "//",
    "..",
    "?",
    "&",
    "=",
    "#",
    "+",
    "limit=",
    "limit=1e9",
  ],
  ...[
    "cursor=",
    "cursor=AAAA",
    "after=-1",
    "after=9007199254740993",
    "epoch=x",
    "room=",
    "room=a&room=b",
    "from=x",
    "to=",
  ],
  ...[
    "%ED%A0%80",
    "*",
    "http://",
    "http://foreign.test",
    ":",
    "@",
    ";",
    "\\",
    "|",
    "<",
    MARK,
    "a".repeat(4_100),
    "%61".repeat(60),
  ],
];
const HEADERS = [
  ...[
    "Accept: */*",
    "Origin: http://foreign.test",
    "Origin: null",
    "Origin: ",
    "Origin: http://localhost:3000",
    "Connection: close",
  ],
  ...[
    "Expect: 100-continue",
    "Content-Encoding: gzip",
    "Content-Type: application/json",
    "Content-Type: text/html",
  ],
  ...[
    "Content-Type: application/json; charset=utf-16",
    "Transfer-Encoding: gzip",
    "Upgrade: websocket",
    "Connection: Upgrade",
  ],
  ...[
    "Idempotency-Key: ",
    "Idempotency-Key: k1",
    "Idempotency-Key: k\u00e9",
    `Idempotency-Key: ${"k".repeat(129)}`,
    "Cookie: a=b",
  ],
  ...[
    `Idempotency-Key: ${MARK}`,
    "Range: bytes=0-1",
    "If-None-Match: *",
    "X-Forwarded-For: 1.2.3.4",
    "Host: foreign.test",
  ],
  ...[
    "Host: ",
    `Host: ${MARK}/x?y`,
    "X-Http-Method-Override: DELETE",
    `X-Long: ${"h".repeat(9_000)}`,
    `${"X".repeat(300)}: 1`,
  ],
  ...[
    "Access-Control-Request-Method: POST",
    `Access-Control-Request-Headers: ${MARK}`,
    "Content-Length: 0x10",
    "bad header line",
  ],
];

/** What may be unfinished: its writer ends its half, so that nobody waits for the rest. */
const UNFINISHED = new Set<Framing>(["long", "bad_chunks", "both", "two_lengths", "negative", "none"]);

function makeBody(chance: Chance): string {
  const right = [
    ["user_id", '"ana"'],
    ["message", JSON.stringify(`posted ${chance.below(1e9)}`)],
  ] as const;
  const kind = chance.below(8);
  const text =
    kind < 2
      ? jsonOf(right)
      : kind < 5
        ? jsonOf(changedFields(chance, right))
        : kind === 5
          ? oddJson(chance)
          : changedText(chance, jsonOf(right));
  const bytes = Buffer.from(text);
  return (kind === 7 ? changedBytes(chance, bytes) : bytes).toString("latin1");
}

function framed(body: string, framing: Framing): { headers: string[]; body: string } {
  const { length } = body;
  const half = Math.floor(length / 2);
  const chunk = (part: string) => (part === "" ? "" : `${part.length.toString(16)}\r\n${part}\r\n`);
  const chunks = `${chunk(body.slice(0, half))}${chunk(body.slice(half))}0\r\n\r\n`;
  switch (framing) {
    case "length":
      return { headers: [`Content-Length: ${length}`], body };
    case "chunked":
      return { headers: ["Transfer-Encoding: chunked"], body: chunks };
    case "both":
      return {
        headers: [`Content-Length: ${length}`, "Transfer-Encoding: chunked"],
        body: `${chunks}GET /${MARK} HTTP/1.1\r\nHost: x\r\n\r\n`,
      };
    case "two_lengths":
      return { headers: [`Content-Length: ${length}`, `Content-Length: ${length + 5}`], body };
    case "short":
      return { headers: [`Content-Length: ${half}`], body };
    case "long":
      return { headers: [`Content-Length: ${length + 100}`], body };
    case "none":
      return { headers: [], body };
    case "bad_chunks":
      return { headers: ["Transfer-Encoding: chunked"], body: `${length + 7}\r\n${body}\r\nzz\r\n` };
    case "negative":
      return { headers: ["Content-Length: -1"], body };
  }
}

function bytesOf({ method, target, headers, body, framing, garbled }: RequestInput): Buffer {
  if (garbled !== undefined) return Buffer.from(garbled, "latin1");
  const { headers: more, body: sent } = framed(body, framing);
  const lines = [`${method} ${target} HTTP/1.1`, ...headers, ...more];
  return Buffer.from(`${lines.join("\r\n")}\r\n\r\n${sent}`, "latin1");
}

function make(chance: Chance, seen: readonly RequestInput[]): RequestInput {
  const kept = seen.length > 0 && chance.often(0.4) ? chance.pick(seen) : undefined;
  const target = kept?.target ?? chance.pick(TARGETS);
  const isPost = chance.often(0.4);
  const method = isPost ? "POST" : chance.pick(METHODS);
  const asked = isPost && chance.often(0.6) ? "/rooms/fuzz/messages" : target;
  const changed = chance.often(isPost ? 0.4 : 0.7) ? changedText(chance, asked, TARGET_PIECES) : asked;
  const input: RequestInput = {
    method,
    // A line break would begin another header, which is a header's business.
    target: changed.replace(/[\r\n]/g, "") || "/",
    headers: [
      ...(chance.often(0.95) ? ["Host: 127.0.0.1"] : []),
      ...(isPost && chance.often(0.8) ? ["Content-Type: application/json"] : []),
      ...Array.from({ length: chance.below(3) }, () =>
        chance.often(0.8)
          ? chance.pick(HEADERS)
          : `Idempotency-Key: ${oddText(chance)
              .replace(/[\r\n]/g, "")
              .slice(0, 300)}`,
      ),
    ],
    body: isPost || chance.often(0.1) ? makeBody(chance) : "",
    framing: isPost ? chance.pick(FRAMINGS) : chance.pick(["length", "none", ...FRAMINGS]),
    garbled: undefined,
  };
  if (!chance.often(0.08)) return input;
  return { ...input, garbled: changedBytes(chance, bytesOf(input)).toString("latin1") };
}

export function requests(port: number): Surface<RequestInput> {
  return {
    name: "requests",
    lanes: 16,
    show: (input) => JSON.stringify(bytesOf(input).toString("latin1")),
    open: () => ({
      make,
      async attempt(input) {
        // What is odd may be unfinished.
        const halfClose =
          input.garbled !== undefined || UNFINISHED.has(input.framing) || input.headers.length > 2;
        const answer = await exchange(port, bytesOf(input), { halfClose });
        const told = judgedHttp(answer);
        if (input.garbled === undefined && input.framing === "both" && answer !== undefined)
          must(!(answer.status < 400 && answer.more), "a request hidden behind two lengths was answered too");
        return `${input.method} ${told}`;
      },
      close() {},
    }),
  };
}
