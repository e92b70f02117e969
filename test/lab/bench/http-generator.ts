/**
 * The load over HTTP, a process of its own: `bun http-generator.ts '<HttpLoad as JSON>'` asks for paths over kept
 * connections, one request in flight on each, and prints an HttpMeasurement as JSON. Raw sockets, as fetch would take
 * more of a core than the server.
 */

import { busySeconds, cpuSecondsOf } from "./machine.ts";
import { openMembers, PATIENCE_MS } from "./members.ts";
import { quantile } from "./statistics.ts";
import { makeTexts } from "./texts.ts";

export interface HttpLoad {
  readonly hostname: string;
  readonly port: number;
  /** The server's process, whose CPU time is read. */
  readonly serverPid: number;
  /** Of paths, one a line, that are asked for in turn. */
  readonly pathsFile: string;
  readonly connections: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** Rooms that are sent to meanwhile, over a connection to each. */
  readonly sending?: {
    readonly rooms: readonly string[];
    /** The number of the first message that each of them gets. */
    readonly firstSeq: number;
    /** To each of them. */
    readonly sendsPerSecond: number;
    readonly seed: number;
  };
}

export interface HttpMeasurement {
  readonly requests: number;
  readonly bodyBytes: number;
  readonly seconds: number;
  readonly p99Ms: number;
  readonly serverCpuSeconds: number | null;
  readonly generatorShare: number;
  readonly othersShare: number | null;
  /** Answers that were no 200 or of another length than before, and connections that were closed or fell silent. */
  readonly faults: number;
  /** Sends that were not acked, or not delivered to their sender. */
  readonly sendFaults: number;
}

interface Asking {
  beganMs: number;
  /** Which path was asked for. */
  path: number;
  /** Bytes of the answer that have come. */
  came: number;
  /** The answer's beginning, as long as its length is not known. */
  head: Uint8Array | undefined;
}

/** Bytes of an answer's head and of its body. */
interface Lengths {
  readonly head: number;
  readonly body: number;
}

const END_OF_HEAD = "\r\n\r\n";
const LENGTH = /\r\ncontent-length: (\d+)/i;
const STATUS_FROM = "HTTP/1.1 ".length;
const [TWO, ZERO] = [..."20"].map((digit) => digit.charCodeAt(0));
const isOk = (answer: Uint8Array) =>
  answer[STATUS_FROM] === TWO && answer[STATUS_FROM + 1] === ZERO && answer[STATUS_FROM + 2] === ZERO;

async function measure(load: HttpLoad): Promise<HttpMeasurement> {
  const { hostname, port } = load;
  const paths = (await Bun.file(load.pathsFile).text()).split("\n");
  const requests = paths.map((path) =>
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

  /** A path's answer is as long each time: but for its status its head is read once, which spares the generator most of its work. */
  const known: (Lengths | undefined)[] = requests.map(() => undefined);

  const ask = (socket: Bun.Socket<Asking>) => {
    const asking = socket.data;
    asking.beganMs = performance.now();
    asking.path = asked % requests.length;
    asking.came = 0;
    // A request is shorter than any socket's buffer.
    socket.write(requests[asking.path] as Buffer);
    asked += 1;
  };
  const rest = () => {
    busy -= 1;
    if (busy === 0) rested?.();
  };

  /** The lengths of what came, once its head is whole; anything but a 200 with its length is a fault. */
  function learn(asking: Asking, chunk: Uint8Array): Lengths | undefined {
    const bytes = asking.head === undefined ? Buffer.from(chunk) : Buffer.concat([asking.head, chunk]);
    const text = bytes.toString("latin1", 0, 4_096);
    const end = text.indexOf(END_OF_HEAD);
    asking.head = end < 0 ? bytes : undefined;
    if (end < 0) return undefined;
    const body = Number(LENGTH.exec(text.slice(0, end))?.[1] ?? Number.NaN);
    if (Number.isNaN(body)) {
      faults += 1;
      return undefined;
    }
    // The length of a refusal is not the page's.
    if (!isOk(bytes)) return undefined;
    const lengths = { head: end + END_OF_HEAD.length, body };
    known[asking.path] = lengths;
    return lengths;
  }

  function take(socket: Bun.Socket<Asking>, chunk: Uint8Array) {
    const asking = socket.data;
    // Servers write an answer's first line in one piece.
    if (asking.came === 0 && !isOk(chunk)) faults += 1;
    asking.came += chunk.length;
    const lengths = known[asking.path] ?? learn(asking, chunk);
    if (lengths === undefined || asking.came < lengths.head + lengths.body) return;
    if (asking.came > lengths.head + lengths.body) faults += 1;
    bodyBytes += lengths.body;
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
        data: { beganMs: 0, path: 0, came: 0, head: undefined },
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
    const patience = setTimeout(() => {
      faults += busy;
      resolve();
    }, durationMs + PATIENCE_MS);
    await promise;
    clearTimeout(patience);
    return (performance.now() - began) / 1_000;
  }

  const stopSending = load.sending === undefined ? async () => 0 : await sendMeanwhile(load, load.sending);
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
    sendFaults: await stopSending(),
  };
}

/** One send every so often, to the rooms in turn, until it is stopped; then the number of faults. */
async function sendMeanwhile(
  { hostname, port }: HttpLoad,
  { rooms, firstSeq, sendsPerSecond, seed }: NonNullable<HttpLoad["sending"]>,
): Promise<() => Promise<number>> {
  const members = await openMembers({
    ...{ hostname, port, rooms, members: 1, sending: true, inFlight: 0 },
    ...{ texts: makeTexts(seed), firstSeq },
  });
  let place = 0;
  const sending = setInterval(
    () => members.say(place++ % rooms.length),
    1_000 / (sendsPerSecond * rooms.length),
  );
  return async () => {
    clearInterval(sending);
    await members.settle(await members.acked(PATIENCE_MS));
    members.close();
    return Object.values(members.faults).reduce((sum, count) => sum + count, 0);
  };
}

console.log(JSON.stringify(await measure(JSON.parse(process.argv[2] ?? "{}") as HttpLoad)));
process.exit(0);
