/**
 * Clients that come and stay, in a process of their own: `bun arrivals-generator.ts '<Arriving as JSON>'` brings them into
 * their rooms, lets the server rest, and prints Arrivals as JSON.
 */

import { filledRoom } from "./fill.ts";
import { bringIn, hasAllAfter, joinBySocket } from "./idlers.ts";
import { busySeconds, cpuSecondsOf, residentBytesOf } from "./machine.ts";

export interface Arriving {
  readonly hostname: string;
  readonly port: number;
  readonly serverPid: number;
  /** Those that come first: what a server takes only once, for the first client, is not counted. */
  readonly warmUp: number;
  readonly connections: number;
  readonly roomMembers: number;
  /** How many of the rooms there are: as many as are needed where left out. */
  readonly rooms?: number;
  /** What each has seen of its room, and the room's newest number. */
  readonly since?: number;
  readonly head?: number;
  /** How long memory is watched until it has settled: the runtime gives back late what it took for a handshake. */
  readonly settleMs: number;
}

/** Of those who came after the warm-up. */
export interface Arrivals {
  readonly arrived: number;
  readonly seconds: number;
  readonly serverCpuSeconds: number | null;
  readonly generatorShare: number;
  readonly othersShare: number | null;
  /** The server's memory for each of them, at rest; null where the system does not tell. */
  readonly bytesEach: number | null;
  readonly faults: readonly string[];
}

async function arrive(arriving: Arriving): Promise<Arrivals> {
  const { hostname, port, serverPid, warmUp, connections, roomMembers, rooms, since, head } = arriving;
  const faults: string[] = [];
  const bring = async (from: number, count: number) => {
    const joinings = Array.from({ length: count }, (_, n) => {
      const room = Math.floor((from + n) / roomMembers);
      return { hostname, port, since, room: filledRoom(rooms === undefined ? room : room % rooms) };
    });
    const { idlers, errors } = await bringIn(joinings, joinBySocket);
    for (const [said, times] of errors) faults.push(`${times} × ${said}`);
    return idlers;
  };
  /** The least memory that the server was seen with while it rested. */
  const settled = async () => {
    let least = residentBytesOf(serverPid);
    for (
      const until = performance.now() + arriving.settleMs;
      performance.now() < until;
      await Bun.sleep(250)
    ) {
      const bytes = residentBytesOf(serverPid);
      if (least !== null && bytes !== null) least = Math.min(least, bytes);
    }
    return least;
  };

  await bring(0, warmUp);
  const before = await settled();
  const [busyBefore, serverBefore, ownBefore] = [busySeconds(), cpuSecondsOf(serverPid), process.cpuUsage()];
  const beganMs = performance.now();
  const idlers = await bring(warmUp, connections);
  const seconds = (performance.now() - beganMs) / 1_000;
  const own = process.cpuUsage(ownBefore);
  const [busyAfter, serverAfter] = [busySeconds(), cpuSecondsOf(serverPid)];
  const after = await settled();

  if (since !== undefined && head !== undefined) {
    const wrong = idlers.filter(({ ack }) => !hasAllAfter(ack, since, head));
    if (wrong.length > 0)
      faults.push(`${wrong.length} resumed wrongly, as ${JSON.stringify(wrong[0]?.ack).slice(0, 300)}`);
  }
  const generatorSeconds = (own.user + own.system) / 1e6;
  const serverCpuSeconds = serverBefore === null || serverAfter === null ? null : serverAfter - serverBefore;
  const othersSeconds =
    busyBefore === null || busyAfter === null || serverCpuSeconds === null
      ? null
      : Math.max(busyAfter - busyBefore - serverCpuSeconds - generatorSeconds, 0);
  return {
    arrived: idlers.length,
    seconds,
    serverCpuSeconds,
    generatorShare: generatorSeconds / seconds,
    othersShare: othersSeconds === null ? null : othersSeconds / seconds,
    bytesEach: before === null || after === null ? null : (after - before) / connections,
    faults,
  };
}

console.log(JSON.stringify(await arrive(JSON.parse(process.argv[2] ?? "{}") as Arriving)));
process.exit(0);
