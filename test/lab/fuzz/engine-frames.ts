/** Engine.IO: frames of every kind on a WebSocket, payloads over polling, upgrades out of order, wrong handshakes. */

import type { Chance } from "../../fixture/chance.ts";
import { judgedHttp } from "./answers.ts";
import { changedText, MARK, oddText } from "./hostile.ts";
import { must, type Surface } from "./surface.ts";
import { exchange, frame, type HttpAnswer, openMember, openRaw, type RawSocket } from "./wire.ts";

type EngineInput =
  | { readonly kind: "frame"; readonly bytes: string; readonly isWhole: boolean }
  | { readonly kind: "handshake"; readonly method: string; readonly query: string; readonly headers: string }
  | { readonly kind: "payload"; readonly body: string; readonly headers: string; readonly twice: boolean }
  | { readonly kind: "upgrade"; readonly frames: readonly string[]; readonly between: string };

const FRAMES = [
  "2",
  "2probe",
  "3",
  "3probe",
  "5",
  "6",
  "1",
  "0",
  "4",
  "40",
  "41",
  '42["x"]',
  "b",
  "bAAEC",
  "bnot base64!",
];
const PIECES = [
  ...FRAMES,
  "\x1e",
  "\x1e\x1e",
  "7",
  "9",
  "-",
  "\u0000",
  "😀",
  "\ufffd",
  MARK,
  "4".repeat(200),
  "3\x1e3\x1e3",
];
const QUERIES = ["EIO=4&transport=polling", "EIO=4&transport=websocket"];
const QUERY_PIECES = [
  ...[
    "EIO=3",
    "EIO=",
    "EIO=4&EIO=3",
    "transport=webtransport",
    "transport=",
    "transport=polling",
    "transport=websocket",
  ],
  ...[
    "&sid=",
    "&sid=x",
    "&sid=__proto__",
    "&sid=constructor",
    "&t=",
    "&b64=1",
    "&j=0",
    "%00",
    "%",
    "+",
    "&&",
    "=",
    "#",
    MARK,
  ],
];
const HEADERS = [
  ...[
    "",
    "Upgrade: websocket\r\n",
    "Upgrade: h2c\r\n",
    "Origin: http://foreign.test\r\n",
    "Origin: null\r\n",
    "Connection: close\r\n",
  ],
  ...[
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
    "Content-Type: application/octet-stream\r\n",
  ],
  ...[
    `X-Odd: ${MARK}\r\n`,
    "Sec-WebSocket-Key: short\r\n",
    "Cookie: io=1\r\n",
    "Content-Type: text/plain;charset=UTF-8\r\n",
  ],
];

function request(port: number, method: string, query: string, headers: string, body = ""): Buffer {
  const length = method === "GET" && body === "" ? "" : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
  return Buffer.from(
    `${method} /socket.io/?${query} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n${headers}${length}\r\n${body}`,
  );
}

function oddFrame(chance: Chance, seen: readonly EngineInput[]): EngineInput {
  const kept = seen.length > 0 && chance.often(0.3) ? chance.pick(seen) : undefined;
  if (kept?.kind === "frame" && chance.often(0.5)) {
    const bytes = Buffer.from(kept.bytes, "latin1");
    const at = chance.below(bytes.length + 1);
    bytes[at] = chance.below(256);
    return { kind: "frame", bytes: bytes.toString("latin1"), isWhole: false };
  }
  const text = Buffer.from(changedText(chance, chance.pick(FRAMES), PIECES));
  // Cut in the middle of a character: what is no UTF-8.
  const payload = chance.often(0.1) ? Buffer.concat([text, Buffer.from([0xf0, 0x9f])]) : text;
  const isPlain = chance.often(0.6);
  const opcode = isPlain ? chance.pick([1, 1, 1, 2]) : chance.below(16);
  const short = isPlain ? payload : payload.subarray(0, chance.pick([0, 125, 126, payload.length]));
  const bytes = isPlain
    ? frame(opcode, payload)
    : frame(opcode, short, {
        fin: chance.often(0.7),
        rsv: chance.often(0.7) ? 0 : chance.below(8),
        masked: chance.often(0.8),
        length: chance.often(0.7) ? short.length : chance.pick([0, 126, 65_535, 999_999, 1_000_001, 2 ** 40]),
      });
  return { kind: "frame", bytes: bytes.toString("latin1"), isWhole: isPlain };
}

function make(chance: Chance, seen: readonly EngineInput[]): EngineInput {
  const kind = chance.below(10);
  if (kind < 6) return oddFrame(chance, seen);
  if (kind === 6) {
    const query = changedText(chance, chance.pick(QUERIES), QUERY_PIECES).replace(
      /[\u0000-\u0020\u007f-\uffff]/g,
      "",
    );
    const method = chance.pick(["GET", "GET", "POST", "OPTIONS", "PUT", "DELETE"]);
    return { kind: "handshake", method, query, headers: chance.pick(HEADERS) + chance.pick(HEADERS) };
  }
  if (kind < 9) {
    const count = chance.pick([1, 2, 5, 50]);
    const packets = Array.from({ length: count }, () =>
      chance.often(0.4) ? chance.pick(FRAMES) : changedText(chance, chance.pick(FRAMES), PIECES),
    );
    const body = packets.join(chance.often(0.9) ? "\x1e" : oddText(chance).toWellFormed().slice(0, 10));
    return { kind: "payload", body, headers: chance.pick(HEADERS), twice: chance.often(0.1) };
  }
  const frames = Array.from({ length: chance.below(6) }, () =>
    chance.often(0.7)
      ? chance.pick(["2probe", "5", "2", "3"])
      : changedText(chance, chance.pick(FRAMES), PIECES),
  );
  return { kind: "upgrade", frames, between: chance.pick(["", "poll", "post", "end"]) };
}

export function engineFrames(port: number): Surface<EngineInput> {
  const polling = QUERIES[0] as string;

  async function openPolling(): Promise<string> {
    const answer = await exchange(port, request(port, "GET", polling, ""));
    must(answer?.status === 200, "a right polling handshake was refused");
    return (JSON.parse(answer.body.slice(1)) as { sid: string }).sid;
  }

  /** The session tells all that waits for it, or is gone; it never hangs. */
  async function endPolling(sid: string): Promise<string> {
    const answer = await exchange(port, request(port, "POST", `${polling}&sid=${sid}`, "", "1"));
    return judgedHttp(answer);
  }

  return {
    name: "engine",
    lanes: 8,
    show: (input) => JSON.stringify(input),
    async open() {
      let raw: RawSocket | undefined;
      const attempts = {
        async frame({ bytes, isWhole }: EngineInput & { kind: "frame" }) {
          if (raw === undefined || raw.isClosed) raw = await openMember(port);
          raw.write(Buffer.from(bytes, "latin1"));
          if (isWhole) return (await raw.fence()) ? "lives" : "closed";
          // What follows may be eaten as its rest: the connection is of no more use, and must not matter to others.
          raw.destroy();
          await raw.closed;
          return "left";
        },
        async handshake({ method, query, headers }: EngineInput & { kind: "handshake" }) {
          const answer = await exchange(port, request(port, method, query, headers));
          return `handshake ${method} ${judgedHttp(answer)}`;
        },
        async payload({ body, headers, twice }: EngineInput & { kind: "payload" }) {
          const sid = await openPolling();
          const once = () => exchange(port, request(port, "POST", `${polling}&sid=${sid}`, headers, body));
          const answers: (HttpAnswer | undefined)[] = await Promise.all(twice ? [once(), once()] : [once()]);
          const told = answers.map(judgedHttp).sort();
          return `payload ${told.join(" & ")}, then ${await endPolling(sid)}`;
        },
        async upgrade({ frames, between }: EngineInput & { kind: "upgrade" }) {
          const sid = await openPolling();
          const query = `${polling}&sid=${sid}`;
          const socket = await openRaw(port, `EIO=4&transport=websocket&sid=${sid}`);
          must(socket !== undefined, "a right upgrade was refused");
          const heard: string[] = [];
          socket.onText = (text) => heard.push(text);
          const beside: Promise<HttpAnswer | undefined>[] = [];
          for (const [index, text] of frames.entries()) {
            if (index === 1 && between === "poll")
              beside.push(exchange(port, request(port, "GET", query, "")));
            if (index === 1 && between === "post")
              beside.push(exchange(port, request(port, "POST", query, "", "40")));
            if (index === 1 && between === "end")
              beside.push(exchange(port, request(port, "POST", query, "", "1")));
            socket.send(text);
          }
          const ended = await endPolling(sid);
          const told = (await Promise.all(beside)).map(judgedHttp);
          socket.destroy();
          await socket.closed;
          return `upgrade ${heard.map((text) => text.slice(0, 7)).join()} ${told.join()}, then ${ended}`;
        },
      };
      return {
        make,
        attempt(input) {
          if (input.kind === "frame") return attempts.frame(input);
          if (input.kind === "handshake") return attempts.handshake(input);
          if (input.kind === "payload") return attempts.payload(input);
          return attempts.upgrade(input);
        },
        close() {
          raw?.destroy();
        },
      };
    },
  };
}
