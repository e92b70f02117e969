/** Clients that come, join and stay: how many a second, and what each costs, while it comes and while it rests. */

import { join } from "node:path";
import type { Arrivals, Arriving } from "../arrivals-generator.ts";
import type { ContenderName } from "../contenders.ts";
import { fillStore } from "../fill.ts";
import { descriptors } from "../machine.ts";
import { generate, type Serving, serving } from "../run.ts";
import type { Kind, Run } from "../scenario.ts";

/** As long as it takes until the runtime has given back what it took for handshakes. */
const SETTLE_MS = 12_000;
/** The servers keep so many descriptors for other things than connections. */
const DESCRIPTORS_KEPT = 1_000;

type Coming = Omit<Arriving, "hostname" | "port" | "serverPid">;

/** WebSocket connections that join a room and rest, at the server's default limits. */
export function idleConnections(idle: {
  readonly connections: number;
  readonly roomMembers: number;
  readonly settleMs?: number;
}): Kind {
  const { roomMembers, settleMs = SETTLE_MS } = idle;
  const { count: connections, note } = within(idle.connections);
  const warmUp = Math.floor(connections / 5);
  return {
    how: `${connections} WebSocket connections${note} in rooms of ${roomMembers}; counted from the ${warmUp}th on`,
    figures: [
      { name: "kB each", digits: 1, compared: "subject by it" },
      { name: "joined/s", digits: 0, compared: "subject by it" },
      { name: "CPU µs/join", digits: 0, compared: "it by subject" },
    ],
    async measure(contender, options) {
      const arrivals = await arrive(
        { contender, options, env: { RATE_LIMIT: "" } },
        { warmUp, connections: connections - warmUp, roomMembers, settleMs },
      );
      const { bytesEach } = arrivals;
      return runOf(contender, arrivals, {
        "kB each": bytesEach === null ? null : bytesEach / 1_000,
        "joined/s": arrivals.arrived / arrivals.seconds,
        "CPU µs/join": cpuMicros(arrivals),
      });
    },
  };
}

/** Clients that were away and come back with `since`, each to get what it missed. */
export function resumes(coming: {
  readonly clients: number;
  readonly roomMembers: number;
  readonly messagesPerRoom: number;
  readonly missed: number;
}): Kind {
  const { roomMembers, messagesPerRoom, missed } = coming;
  const { count: clients, note } = within(coming.clients);
  const warmUp = Math.floor(clients / 20);
  const rooms = Math.ceil(clients / roomMembers);
  return {
    how: `${clients} clients${note} in rooms of ${roomMembers}, each of which missed ${missed} of ${messagesPerRoom} messages`,
    figures: [
      { name: "resumed/s", digits: 0, compared: "subject by it" },
      { name: "CPU µs/resume", digits: 0, compared: "it by subject" },
      { name: "clients", digits: 0 },
    ],
    async measure(contender, options) {
      const storePath = join(options.folder, `resumes-${rooms}-${messagesPerRoom}.db`);
      if (!(await Bun.file(storePath).exists()))
        fillStore(storePath, { rooms, messagesPerRoom, users: roomMembers, seed: options.seed });
      const arrivals = await arrive(
        { contender, options, storePath },
        {
          ...{ warmUp, connections: clients - warmUp, roomMembers, rooms, settleMs: 0 },
          ...{ since: messagesPerRoom - missed, head: messagesPerRoom },
        },
      );
      return runOf(contender, arrivals, {
        "resumed/s": arrivals.arrived / arrivals.seconds,
        "CPU µs/resume": cpuMicros(arrivals),
        clients: arrivals.arrived,
      });
    },
  };
}

/** As many as there are descriptors for, and what is to be said where they are fewer. */
function within(connections: number): { readonly count: number; readonly note: string } {
  const count = Math.min(connections, descriptors() - DESCRIPTORS_KEPT);
  return { count, note: count < connections ? ` (${connections} are meant: ulimit -n is too low)` : "" };
}

/** One run of such clients on a server. */
export const arrive = (asked: Serving, coming: Coming): Promise<Arrivals> =>
  serving(asked, ({ port, pid }) => {
    const arriving: Arriving = { hostname: "127.0.0.1", port, serverPid: pid, ...coming };
    return generate<Arrivals>("arrivals-generator.ts", arriving);
  });

const cpuMicros = ({ serverCpuSeconds, arrived }: Arrivals) =>
  serverCpuSeconds === null ? null : (serverCpuSeconds / arrived) * 1e6;

function runOf(contender: ContenderName, arrivals: Arrivals, figures: Run["figures"]): Run {
  const { serverCpuSeconds, seconds, generatorShare, othersShare, faults } = arrivals;
  return {
    contender,
    figures,
    shares: {
      server: serverCpuSeconds === null ? null : serverCpuSeconds / seconds,
      generator: generatorShare,
      others: othersShare,
    },
    faults,
  };
}
