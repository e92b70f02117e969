/** Every fault by name: on which store it can be, how it begins, and how it ends. */

import { BOTH, breaks, type Fault, hears } from "./fault.ts";
import { MONGO_FAULTS } from "./mongo-faults.ts";
import { SQLITE_FAULTS } from "./sqlite-faults.ts";

/** A member that reads is not so many messages behind the member that was shown them first. */
const BEHIND_LEAST = 30;

const killed = (signal: "SIGKILL" | "SIGTERM"): Fault => ({
  stores: BOTH,
  grounds: ["process"],
  holdMs: [0, 400],
  async begin({ serviceAt }, { pick }) {
    const service = serviceAt(pick);
    const life = service.generation();
    const gone = service.kill(signal);
    return {
      felt: () => !service.isUp() || service.generation() > life,
      async end() {
        await gone;
        await service.restart();
      },
    };
  },
});

const HOURS = 3_600;
const SHIFTS = [5 * HOURS, -3 * HOURS, 26 * HOURS, -50 * HOURS];

export const FAULTS = {
  kill: killed("SIGKILL"),
  term: killed("SIGTERM"),

  ...SQLITE_FAULTS,
  ...MONGO_FAULTS,

  clockJumps: {
    stores: BOTH,
    grounds: ["clock"],
    holdMs: [300, 1_500],
    async begin({ machine, ledger }, { pick }) {
      const before = ledger.strangeTimes();
      await machine.setClock(SHIFTS[pick % SHIFTS.length] ?? HOURS);
      return { felt: () => ledger.strangeTimes() > before, end: () => machine.setClock(0) };
    },
  },

  cableCut: {
    stores: BOTH,
    grounds: ["cable"],
    holdMs: [0, 300],
    async begin(stage, { pick }) {
      const felt = breaks(stage);
      stage.cableAt(pick).cut();
      return { felt, end() {} };
    },
  },
  // The half of an answer, to a poll or on a WebSocket, and then nothing: half-open polling.
  answerHalved: {
    stores: BOTH,
    grounds: ["cable"],
    holdMs: [0, 300],
    async begin(stage, { pick }) {
      const felt = breaks(stage);
      stage.cableAt(pick).halve();
      return { felt, end() {} };
    },
  },
  readerStops: {
    stores: BOTH,
    grounds: ["cable"],
    holdMs: [800, 1_500],
    async begin(stage, { pick }) {
      const letGo = hears(stage, "slow_client_disconnected");
      const clogged = stage.cableAt(pick).clog();
      // More than the kernel takes for a reader who reads nothing.
      stage.burst(440, 15_500);
      return { felt: () => letGo() || stage.behind() > BEHIND_LEAST, end: () => clogged.restore() };
    },
  },
  clientVanishes: {
    stores: BOTH,
    grounds: ["cable"],
    holdMs: [200, 500],
    async begin({ cableAt, serviceAt, vanished }, { pick }) {
      const dead = cableAt(pick).die();
      return { felt: () => dead.count > 0, end: () => vanished(dead, serviceAt(pick)) };
    },
  },
  reconnectStorm: {
    stores: BOTH,
    grounds: ["crowd"],
    holdMs: [100, 300],
    begin: ({ storm }) => storm(),
  },
  upgradeInBurst: {
    stores: BOTH,
    grounds: ["crowd"],
    holdMs: [100, 600],
    async begin({ upgraders, burst }) {
      const upgrading = upgraders(4);
      burst(60, 200);
      return { felt: () => upgrading.every((resident) => resident.isOnWebSocket()), end() {} };
    },
  },
} as const satisfies Record<string, Fault>;

export type FaultName = keyof typeof FAULTS;

export const FAULT_NAMES = Object.keys(FAULTS) as FaultName[];

export const faultOf = (name: FaultName): Fault => FAULTS[name];
