/**
 * The load generator, a process of its own: `bun generator.ts '<Load as JSON>'` fills the rooms of one server, warms it
 * up, measures, and prints a Measurement as JSON.
 */

import { createDialect, type DialectName } from "./dialects.ts";
import { busySeconds, cpuSecondsOf, residentBytesOf } from "./machine.ts";
import { type Counts, type Faults, type MembersOptions, openMembers } from "./members.ts";
import { differing, type Samples } from "./samples.ts";
import { makeTexts } from "./texts.ts";

export interface Load {
  readonly hostname: string;
  readonly port: number;
  /** Socket.IO where left out. */
  readonly dialect?: DialectName;
  /** The server's process, whose CPU time is read. */
  readonly serverPid: number;
  readonly rooms: number;
  /** In each room; some of them send. */
  readonly members: number;
  readonly senders: number;
  readonly inFlight: number;
  readonly seed: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** Sent to the server where the measured time begins and where it ends, if it has a probe that hears it. */
  readonly signal?: NodeJS.Signals;
}

/** Of the measured time alone, but for `storedMessages` and `faults`: those are of the whole run. */
export interface Measurement extends Counts {
  /** From the first send to the last delivery. */
  readonly seconds: number;
  /** User and system time of all threads; null where the system does not tell. */
  readonly serverCpuSeconds: number | null;
  /** The server's memory at the end. */
  readonly serverBytes: number | null;
  /** The generator's own CPU time by the wall clock's: near 1 it is the generator that was measured. */
  readonly generatorShare: number;
  /** Cores that neither server nor generator used, but somebody did: what disturbed the measurement. */
  readonly othersShare: number | null;
  /** What the store must hold. */
  readonly storedMessages: number;
  readonly faults: Faults;
}

/** What the thread of the pure receivers is told, and answers with its counts and faults each time. */
export type ReceiversAsk =
  { readonly open: MembersOptions } | { readonly settle: readonly number[] } | { readonly close: true };
export interface ReceiversAnswer {
  readonly counts: Counts;
  readonly faults: Faults;
  readonly samples: Samples;
}

/**
 * Pure receivers live on a thread of their own: else the next sends would wait until the one thread has read what the
 * last ones brought to everyone, and the server would stand idle meanwhile.
 */
function startReceivers() {
  const thread = new Worker(new URL("./receivers.ts", import.meta.url));
  return (ask: ReceiversAsk) =>
    new Promise<ReceiversAnswer>((resolve, reject) => {
      thread.onmessage = ({ data }: MessageEvent<ReceiversAnswer>) => resolve(data);
      thread.onerror = ({ message }) => reject(new Error(message));
      thread.postMessage(ask);
    });
}

const added = <T extends object>(left: T, right: T): T =>
  Object.fromEntries(
    Object.entries(left).map(([name, value]) => [name, value + (right as Record<string, number>)[name]]),
  ) as T;

async function measure(load: Load): Promise<Measurement> {
  const { hostname, port, dialect = "socket.io", inFlight, senders } = load;
  // Names of one length: a delivery's number then stands at the same place in every room.
  const rooms = Array.from({ length: load.rooms }, (_, index) => `bench ${String(index).padStart(4, "0")}`);
  const texts = makeTexts(load.seed);
  const options = { hostname, port, dialect, rooms, inFlight, texts };
  const speakers = await openMembers({ ...options, members: senders, sending: true });
  const receivers = startReceivers();
  await receivers({ open: { ...options, members: load.members - senders, sending: false } });

  /** Sends for so long; over when everyone has everything. */
  async function phase(durationMs: number) {
    const began = performance.now();
    const sent = await speakers.send(durationMs);
    const [others] = await Promise.all([receivers({ settle: sent }), speakers.settle(sent)]);
    const seconds = (performance.now() - began) / 1_000;
    return { seconds, counts: added(speakers.counts(), others.counts) };
  }

  const { counts: before } = await phase(load.warmUpMs);
  if (load.signal !== undefined) process.kill(load.serverPid, load.signal);
  const busyBefore = busySeconds();
  const serverBefore = cpuSecondsOf(load.serverPid);
  const own = process.cpuUsage();
  const { seconds, counts } = await phase(load.measureMs);
  const { user, system } = process.cpuUsage(own);
  const serverAfter = cpuSecondsOf(load.serverPid);
  const busyAfter = busySeconds();
  if (load.signal !== undefined) process.kill(load.serverPid, load.signal);
  const generatorSeconds = (user + system) / 1e6;
  const serverCpuSeconds = serverBefore === null || serverAfter === null ? null : serverAfter - serverBefore;
  const othersSeconds =
    busyBefore === null || busyAfter === null || serverCpuSeconds === null
      ? null
      : Math.max(busyAfter - busyBefore - serverCpuSeconds - generatorSeconds, 0);
  const serverBytes = residentBytesOf(load.serverPid);
  speakers.close();
  const others = await receivers({ close: true });
  const faults = added(speakers.faults, others.faults);
  if (load.members > senders && createDialect(dialect).acksNumbered)
    faults.altered += differing(speakers.samples().acked, others.samples.delivered);
  return {
    seconds,
    acks: counts.acks - before.acks,
    deliveries: counts.deliveries - before.deliveries,
    deliveryBytes: counts.deliveryBytes - before.deliveryBytes,
    serverCpuSeconds,
    serverBytes,
    generatorShare: generatorSeconds / seconds,
    othersShare: othersSeconds === null ? null : othersSeconds / seconds,
    storedMessages: counts.acks,
    faults,
  };
}

console.log(JSON.stringify(await measure(JSON.parse(process.argv[2] ?? "{}") as Load)));
process.exit(0);
