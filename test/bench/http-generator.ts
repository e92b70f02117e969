/**
 * The load over HTTP, a process of its own: `bun http-generator.ts '<HttpLoad as JSON>'` asks for paths over kept
 * connections, one request in flight on each, and prints an HttpMeasurement as JSON. Raw sockets, as fetch would take
 * more of a core than the server.
 */

import { busySeconds, cpuSecondsOf } from "./machine.ts";
import { quantile } from "./statistics.ts";

export interface HttpLoad {
  readonly hostname: string;
  readonly port: number;
  /** The server's process, whose CPU time is read. */
  readonly serverPid: number;
  /** Asked for in turn. */
  readonly paths: readonly string[];
  readonly connections: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
}

export interface HttpMeasurement {
  readonly requests: number;
  readonly bodyBytes: number;
  readonly seconds: number;
  readonly p99Ms: number;
  readonly serverCpuSeconds: number | null;
  readonly generatorShare: number;
  readonly othersShare: number | null;
  /** Answers that were not 200, and connections that were closed. */
  readonly faults: number;
}

interface Asking {
  beganMs: number;
  /** Bytes of the answer's body that are still to come; undefined until its head is read. */
  owed: number | undefined;
  /** What of the head has come. */
  head: Uint8Array | undefined;
}

const END_OF_HEAD = "\r\n\r\n";
const LENGTH = /\r\ncontent-length: (\d+)/i;

async function measure(load: HttpLoad): Promise<HttpMeasurement> {
  const { hostname, port } = load;
  const requests = load.paths.map((path) =>
    Buffer.from(`GET ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n\r\n`),
  );
  let asked = 0;
  let answered = 0;
  let bodyBytes = 0;
  let faults = 0;
  let times: number[] = [];
  let until = 0;
  let busy = 0;
  let rested: (() => void) | undefined;

  const ask = (socket: Bun.Socket<Asking>) => {
    socket.data.beganMs = performance.now();
    socket.data.owed = undefined;
    // A request is shorter than any socket's buffer.
    socket.write(requests[asked % requests.length] as Buffer);
    asked += 1;
  };
  const rest = () => {
    busy -= 1;
    if (busy === 0) rested?.();
  };

  function take(socket: Bun.Socket<Asking>, chunk: Uint8Array) {
    const asking = socket.data;
    let came = chunk.length;
    if (asking.owed === undefined) {
      const head = asking.head === undefined ? chunk : Buffer.concat([asking.head, chunk]);
      const text = Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, 2_048)).toString("latin1");
      const end = text.indexOf(END_OF_HEAD);
      if (end < 0) {
        asking.head = Buffer.from(head);
        return;
      }
      asking.head = undefined;
      const length = LENGTH.exec(text.slice(0, end))?.[1];
      if (!text.startsWith("HTTP/1.1 200") || length === undefined) faults += 1;
      asking.owed = Number(length ?? 0);
      bodyBytes += asking.owed;
      came = head.length - end - END_OF_HEAD.length;
    }
    asking.owed -= came;
    if (asking.owed > 0) return;
    if (asking.owed < 0) faults += 1;
    const nowMs = performance.now();
    answered += 1;
    times.push(nowMs - asking.beganMs);
    if (nowMs < until) ask(socket);
    else rest();
  }

  const sockets = await Promise.all(
    Array.from({ length: load.connections }, () =>
      Bun.connect<Asking>({
        hostname,
        port,
        data: { beganMs: 0, owed: undefined, head: undefined },
        socket: {
          binaryType: "uint8array",
          data: take,
          close() {
            faults += 1;
            rest();
          },
        },
      }),
    ),
  );

  /** Asks for so long; over when everything is answered. */
  async function phase(durationMs: number) {
    const began = performance.now();
    until = began + durationMs;
    const { promise, resolve } = Promise.withResolvers<void>();
    rested = resolve;
    busy = sockets.length;
    for (const socket of sockets) ask(socket);
    await promise;
    return (performance.now() - began) / 1_000;
  }

  await phase(load.warmUpMs);
  const before = { answered, bodyBytes, busy: busySeconds(), server: cpuSecondsOf(load.serverPid) };
  times = [];
  const ownBefore = process.cpuUsage();
  const seconds = await phase(load.measureMs);
  const own = process.cpuUsage(ownBefore);
  const after = { busy: busySeconds(), server: cpuSecondsOf(load.serverPid) };
  const generatorSeconds = (own.user + own.system) / 1e6;
  const serverCpuSeconds =
    before.server === null || after.server === null ? null : after.server - before.server;
  const othersSeconds =
    before.busy === null || after.busy === null || serverCpuSeconds === null
      ? null
      : Math.max(after.busy - before.busy - serverCpuSeconds - generatorSeconds, 0);
  return {
    requests: answered - before.answered,
    bodyBytes: bodyBytes - before.bodyBytes,
    seconds,
    p99Ms: quantile(
      times.sort((a, b) => a - b),
      0.99,
    ),
    serverCpuSeconds,
    generatorShare: generatorSeconds / seconds,
    othersShare: othersSeconds === null ? null : othersSeconds / seconds,
    faults,
  };
}

console.log(JSON.stringify(await measure(JSON.parse(process.argv[2] ?? "{}") as HttpLoad)));
process.exit(0);
