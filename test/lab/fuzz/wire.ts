/** Bytes on a socket as no well-behaved client writes them, and what comes back. */

import { connect, type Socket } from "node:net";
import { must } from "./surface.ts";

/** Nothing may take longer to be answered or closed. */
const ANSWER_MS = 20_000;

export interface HttpAnswer {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
  /** Nothing can follow the headers, whatever they announce. */
  readonly isBare: boolean;
  /** Bytes behind the first answer: of a second one. */
  readonly more: boolean;
}

/** A frame of WebSocket (RFC 6455, section 5.2), masked with zeros unless told otherwise. */
export function frame(
  opcode: number,
  payload: Uint8Array,
  { fin = true, rsv = 0, masked = true, length = payload.length } = {},
): Buffer {
  const first = (fin ? 0x80 : 0) | (rsv << 4) | opcode;
  const flag = masked ? 0x80 : 0;
  const mask = masked ? [0, 0, 0, 0] : [];
  if (length < 126) return Buffer.concat([Buffer.from([first, flag | length, ...mask]), payload]);
  const wide = Buffer.alloc(length < 65_536 ? 2 : 8);
  if (length < 65_536) wide.writeUInt16BE(length);
  else wide.writeBigUInt64BE(BigInt(length));
  const head = Buffer.from([first, flag | (length < 65_536 ? 126 : 127)]);
  return Buffer.concat([head, wide, Buffer.from(mask), payload]);
}

export const textFrame = (text: string): Buffer => frame(1, Buffer.from(text));

/** Writes a request and resolves with the answer; undefined when the server closed without one. */
export function exchange(
  port: number,
  bytes: Uint8Array,
  { halfClose = false } = {},
): Promise<HttpAnswer | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<HttpAnswer | undefined>();
  // The answer to a HEAD announces a body that does not come.
  const hasBody = Buffer.from(bytes.subarray(0, 5)).toString("latin1") !== "HEAD ";
  let got: Buffer = Buffer.alloc(0);
  const socket = connect(port, "127.0.0.1", () => {
    if (halfClose) socket.end(bytes);
    else socket.write(bytes);
  });
  const finish = (answer: HttpAnswer | undefined) => {
    clearTimeout(late);
    // With a reset: many thousand connections that wait for their end would use up the ports.
    socket.resetAndDestroy();
    resolve(answer);
  };
  const late = setTimeout(() => {
    socket.resetAndDestroy();
    reject(new Error(`no answer within ${ANSWER_MS} ms`));
  }, ANSWER_MS);
  socket.on("data", (data: Buffer) => {
    got = got.length === 0 ? data : Buffer.concat([got, data]);
    const answer = answerOf(got, false, hasBody);
    if (answer !== undefined) finish(answer);
  });
  socket.on("error", () => {});
  socket.on("close", () => finish(answerOf(got, true, hasBody)));
  return promise;
}

function answerOf(bytes: Buffer, ended: boolean, hasBody: boolean): HttpAnswer | undefined {
  const end = bytes.indexOf("\r\n\r\n");
  if (end === -1) return undefined;
  const [statusLine = "", ...lines] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(statusLine)?.[1] ?? 0);
  if (status === 100) return answerOf(bytes.subarray(end + 4), ended, hasBody);
  const headers = new Map(
    lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
    }),
  );
  const rest = bytes.subarray(end + 4);
  const announced = headers.get("content-length");
  const isBare = !hasBody || status === 204 || status === 304 || status === 101;
  const length = isBare ? 0 : announced === undefined ? undefined : Number(announced);
  if (length === undefined) {
    if (!ended && !(headers.get("transfer-encoding") === "chunked" && rest.includes("\r\n0\r\n\r\n")))
      return undefined;
    return { status, headers, body: rest.toString(), isBare, more: false };
  }
  if (rest.length < length && !ended) return undefined;
  return { status, headers, body: rest.subarray(0, length).toString(), isBare, more: rest.length > length };
}

/** A WebSocket by hand. */
export interface RawSocket {
  send(text: string): void;
  write(bytes: Uint8Array): void;
  /** Called with each text frame. */
  onText: (text: string) => void;
  readonly isClosed: boolean;
  readonly closed: Promise<void>;
  /** Resolves true with the answer to a question that comes after everything sent so far, false when it was closed. */
  fence(): Promise<boolean>;
  destroy(): void;
}

let fences = 1_000_000_000;

/** Opens one under the engine's path; undefined when it is refused. */
export async function openRaw(
  port: number,
  query = "EIO=4&transport=websocket",
): Promise<RawSocket | undefined> {
  const { promise: opened, resolve: open } = Promise.withResolvers<boolean>();
  const { promise: closed, resolve: close } = Promise.withResolvers<void>();
  let bytes: Buffer = Buffer.alloc(0);
  let isOpen = false;
  let isClosed = false;
  const asked = new Map<string, (answered: boolean) => void>();
  const tcp: Socket = connect(port, "127.0.0.1", () =>
    tcp.write(
      `GET /socket.io/?${query} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    ),
  );
  const raw: RawSocket = {
    send: (text) => void tcp.write(textFrame(text)),
    write: (data) => void tcp.write(data),
    onText: () => {},
    get isClosed() {
      return isClosed;
    },
    closed,
    fence() {
      if (isClosed) return Promise.resolve(false);
      fences += 1;
      const id = String(fences);
      const { promise, resolve, reject } = Promise.withResolvers<boolean>();
      const late = setTimeout(
        () => reject(new Error(`a connection neither answers nor ends within ${ANSWER_MS} ms`)),
        ANSWER_MS,
      );
      asked.set(id, (answered) => {
        clearTimeout(late);
        resolve(answered);
      });
      raw.send(`42${id}["fence"]`);
      return promise;
    },
    destroy: () => void tcp.resetAndDestroy(),
  };
  function takeFrames() {
    for (;;) {
      if (bytes.length < 2) return;
      const opcode = (bytes[0] as number) & 15;
      const short = (bytes[1] as number) & 127;
      const start = short === 126 ? 4 : short === 127 ? 10 : 2;
      if (bytes.length < start) return;
      const length =
        short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short;
      if (bytes.length < start + length) return;
      const payload = bytes.subarray(start, start + length);
      bytes = bytes.subarray(start + length);
      if (opcode === 8) tcp.end();
      if (opcode !== 1) continue;
      const text = payload.toString();
      // Pings are answered, or a lane would lose its connection while it waits.
      if (text === "2") raw.send("3");
      const id = /^43(\d{10,})\[/.exec(text)?.[1];
      const answered = id === undefined ? undefined : asked.get(id);
      if (id !== undefined && answered !== undefined) {
        asked.delete(id);
        answered(true);
      } else raw.onText(text);
    }
  }
  tcp.on("data", (data: Buffer) => {
    bytes = bytes.length === 0 ? data : Buffer.concat([bytes, data]);
    if (!isOpen) {
      const end = bytes.indexOf("\r\n\r\n");
      if (end === -1) return;
      isOpen = bytes.subarray(0, 12).toString() === "HTTP/1.1 101";
      bytes = bytes.subarray(end + 4);
      open(isOpen);
      if (!isOpen) tcp.resetAndDestroy();
    }
    takeFrames();
  });
  tcp.on("error", () => {});
  tcp.on("close", () => {
    isClosed = true;
    open(false);
    close();
    for (const answered of asked.values()) answered(false);
    asked.clear();
  });
  return (await opened) ? raw : undefined;
}

/** A WebSocket that has joined the default namespace. */
export async function openMember(port: number): Promise<RawSocket> {
  const raw = await openRaw(port);
  must(raw !== undefined, "a right handshake was refused");
  raw.send("40");
  must(await raw.fence(), "a right connection was not let in");
  return raw;
}
