/**
 * The open loop, a process of its own: `bun paced-generator.ts '<Pace as JSON>'` has one room whose members send by a
 * timetable, whether or not the server keeps up, and prints a PacedMeasurement as JSON. A latency is counted from when its
 * send was due, so that what waits behind a stall is not left out ("coordinated omission").
 */

import { busySeconds, cpuSecondsOf } from "./machine.ts";
import { type Faults, openMembers, PATIENCE_MS } from "./members.ts";
import { quantile } from "./statistics.ts";
import { makeTexts } from "./texts.ts";

export interface Pace {
  readonly hostname: string;
  readonly port: number;
  /** The server's process, whose CPU time is read. */
  readonly serverPid: number;
  readonly members: number;
  readonly sendsPerSecond: number;
  readonly seed: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
}

export interface Latency {
  readonly p50: number;
  readonly p99: number;
}

export interface PacedMeasurement {
  /** Milliseconds from when a send was due until it was acked, and until each member had it. */
  readonly ack: Latency;
  readonly delivery: Latency;
  /** How late sends went out: the generator's own share of the latencies. */
  readonly late: Latency;
  readonly seconds: number;
  readonly serverCpuSeconds: number | null;
  readonly othersShare: number | null;
  readonly storedMessages: number;
  readonly faults: Faults;
}

/** When something came, for each member and number; 0 where it has not. */
class Arrivals {
  readonly #atMs: Float64Array;
  readonly #numbers: number;
  constructor(members: number, numbers: number) {
    this.#numbers = numbers;
    this.#atMs = new Float64Array(members * (numbers + 1));
  }
  note(member: number, number: number, atMs: number) {
    this.#atMs[member * (this.#numbers + 1) + number] = atMs;
  }
  of(member: number, number: number): number {
    return this.#atMs[member * (this.#numbers + 1) + number] ?? 0;
  }
}

const latencyOf = (times: number[]): Latency => {
  const sorted = Float64Array.from(times).sort();
  return { p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99) };
};

async function measure(pace: Pace): Promise<PacedMeasurement> {
  const { hostname, port, members, sendsPerSecond } = pace;
  const intervalMs = 1_000 / sendsPerSecond;
  const [warmUp, measured] = [pace.warmUpMs, pace.measureMs].map((ms) => Math.round(ms / intervalMs)) as [
    number,
    number,
  ];
  const total = warmUp + measured;
  const arrivals = new Arrivals(members, total);
  /** The number that the room gave to what each member sent, in the member's order, and when its ack came. */
  const acks = Array.from({ length: members }, (): { seq: number; atMs: number }[] => []);
  const room = await openMembers({
    ...{ hostname, port, rooms: ["bench 0000"], members, sending: true, inFlight: 0 },
    texts: makeTexts(pace.seed),
    heard: {
      acked(member, id, seq, atMs) {
        (acks[member] as { seq: number; atMs: number }[])[id - 1] = { seq, atMs };
      },
      delivered: (member, seq, atMs) => arrivals.note(member, seq, atMs),
    },
  });

  const sends: {
    readonly member: number;
    readonly id: number;
    readonly dueMs: number;
    readonly lateMs: number;
  }[] = [];
  const beganMs = performance.now();
  const serverAt = { begin: null as number | null, busy: null as number | null, own: process.cpuUsage() };
  let measuredFromMs = beganMs;
  await new Promise<void>((done) => {
    // Without a timer between: one is a millisecond late at times, and that would be counted as the server's.
    const turn = () => {
      for (;;) {
        const dueMs = beganMs + sends.length * intervalMs;
        const nowMs = performance.now();
        if (nowMs < dueMs) break;
        if (sends.length === total) return done();
        if (sends.length === warmUp) {
          measuredFromMs = nowMs;
          serverAt.begin = cpuSecondsOf(pace.serverPid);
          serverAt.busy = busySeconds();
          serverAt.own = process.cpuUsage();
        }
        const member = sends.length % members;
        sends.push({ member, id: room.say(member), dueMs, lateMs: nowMs - dueMs });
      }
      setImmediate(turn);
    };
    turn();
  });
  const sent = await room.acked(PATIENCE_MS);
  await room.settle(sent);
  const seconds = (performance.now() - measuredFromMs) / 1_000;
  const serverAfter = cpuSecondsOf(pace.serverPid);
  const busyAfter = busySeconds();
  const own = process.cpuUsage(serverAt.own);

  const ackMs: number[] = [];
  const deliveryMs: number[] = [];
  for (const { member, id, dueMs } of sends.slice(warmUp)) {
    const ack = acks[member]?.[id - 1];
    // What was never acked or never came is among the faults.
    if (ack === undefined) continue;
    ackMs.push(ack.atMs - dueMs);
    for (let listener = 0; listener < members; listener += 1) {
      const atMs = arrivals.of(listener, ack.seq);
      if (atMs > 0) deliveryMs.push(atMs - dueMs);
    }
  }
  const serverCpuSeconds =
    serverAt.begin === null || serverAfter === null ? null : serverAfter - serverAt.begin;
  const othersSeconds =
    serverAt.busy === null || busyAfter === null || serverCpuSeconds === null
      ? null
      : Math.max(busyAfter - serverAt.busy - serverCpuSeconds - (own.user + own.system) / 1e6, 0);
  room.close();
  return {
    ack: latencyOf(ackMs),
    delivery: latencyOf(deliveryMs),
    late: latencyOf(sends.slice(warmUp).map(({ lateMs }) => lateMs)),
    seconds,
    serverCpuSeconds,
    othersShare: othersSeconds === null ? null : othersSeconds / seconds,
    storedMessages: room.counts().acks,
    faults: room.faults,
  };
}

console.log(JSON.stringify(await measure(JSON.parse(process.argv[2] ?? "{}") as Pace)));
process.exit(0);
