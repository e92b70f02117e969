/** Every fault by name: on which store it can be, how it begins, and how it ends. */

import type { FailCommand } from "./database.ts";
import type { DiskFault } from "./machine.ts";
import type { Stage } from "./stage.ts";

export type StoreKind = "sqlite" | "mongodb";

/** Ends the fault; resolves once what it broke is whole again. */
export type End = () => Promise<void> | void;

export interface FaultStep {
  /** How long it lasts, in milliseconds. */
  readonly holdMs: number;
  /** Which service, which cable, which clock: a choice of the plan. */
  readonly pick: number;
}

export interface Fault {
  readonly stores: readonly StoreKind[];
  /** What it acts upon: two faults of one ground are not made at once. */
  readonly ground: "disk" | "database" | "process" | "clock" | "cable" | "crowd";
  /** How long it may last when it is drawn, in milliseconds. */
  readonly holdMs: readonly [number, number];
  begin(stage: Stage, step: FaultStep): Promise<End>;
}

const BOTH: readonly StoreKind[] = ["sqlite", "mongodb"];

const disk = (how: DiskFault, holdMs: readonly [number, number] = [300, 1_500]): Fault => ({
  stores: ["sqlite"],
  ground: "disk",
  holdMs,
  async begin({ machine, ledger }) {
    await machine.setDisk(how);
    if (how === "syncHangs") ledger.gateDisk(true);
    return async () => {
      ledger.gateDisk(false);
      await machine.setDisk(null);
    };
  },
});

const failing = (how: FailCommand): Fault => ({
  stores: ["mongodb"],
  ground: "database",
  holdMs: [200, 1_500],
  async begin({ database }) {
    await database().fail(how);
    return () => database().fail(null);
  },
});

const killed = (signal: "SIGKILL" | "SIGTERM"): Fault => ({
  stores: BOTH,
  ground: "process",
  holdMs: [0, 400],
  async begin({ serviceAt }, { pick }) {
    const service = serviceAt(pick);
    const gone = service.kill(signal);
    return async () => {
      await gone;
      await service.restart();
    };
  },
});

const NOT_WRITABLE_PRIMARY = 10_107;
const DUPLICATE_KEY = 11_000;

const HOURS = 3_600;
const SHIFTS = [5 * HOURS, -3 * HOURS, 26 * HOURS, -50 * HOURS];

export const FAULTS = {
  kill: killed("SIGKILL"),
  term: killed("SIGTERM"),

  // The process dies, and with it what the disk had not synced: all of it, or the last part of it.
  powerFails: {
    stores: ["sqlite"],
    ground: "process",
    holdMs: [0, 200],
    async begin({ machine, serviceAt, ledger }, { pick }) {
      const service = serviceAt(pick);
      await service.kill("SIGKILL");
      let file = 0;
      ledger.lost(
        await machine.losePower(() => (pick % 2 === 0 ? 1 : (((pick + 37 * file++) % 10) + 1) / 10)),
      );
      return () => service.restart();
    },
  },

  diskFull: disk("full"),
  diskTorn: disk("torn"),
  diskReadOnly: disk("readOnly"),
  diskError: disk("writeError"),
  syncFails: disk("syncFails", [300, 4_500]),
  syncSlow: disk("syncSlow", [500, 2_000]),
  syncHangs: disk("syncHangs", [500, 2_500]),
  // Longer than the ceiling on an operation: what waited is answered, and may still land.
  syncHangsLong: disk("syncHangs", [5_500, 6_500]),

  databaseKilled: {
    stores: ["mongodb"],
    ground: "database",
    holdMs: [0, 1_500],
    async begin({ database }) {
      await database().kill();
      return () => database().restart();
    },
  },
  databaseStalled: {
    stores: ["mongodb"],
    ground: "database",
    holdMs: [300, 6_000],
    async begin({ database }) {
      database().pause();
      return () => database().resume();
    },
  },
  insertLost: failing({ failCommands: ["insert"], closeConnection: true }),
  insertNotPrimary: failing({ failCommands: ["insert"], errorCode: NOT_WRITABLE_PRIMARY }),
  insertUnconfirmed: failing({
    failCommands: ["insert"],
    writeConcernError: { code: 64, errmsg: "waiting for replication timed out" },
  }),
  insertSteppedDown: failing({
    failCommands: ["insert"],
    writeConcernError: { code: 91, errmsg: "shutting down" },
  }),
  insertDuplicate: failing({ failCommands: ["insert"], errorCode: DUPLICATE_KEY }),
  findLost: failing({ failCommands: ["find"], closeConnection: true }),
  findNotPrimary: failing({ failCommands: ["find"], errorCode: 13_435 }),
  verifyLost: failing({ failCommands: ["listCollections"], closeConnection: true }),
  everythingLost: failing({
    failCommands: ["insert", "find", "listCollections", "aggregate"],
    closeConnection: true,
  }),

  // Two services write the same rooms from the plan's first message on; one of them is killed.
  race: {
    stores: ["mongodb"],
    ground: "process",
    holdMs: [300, 1_200],
    async begin({ serviceAt }, { pick }) {
      const service = serviceAt(pick);
      await service.kill("SIGKILL");
      return () => service.restart();
    },
  },

  clockJumps: {
    stores: BOTH,
    ground: "clock",
    holdMs: [300, 1_500],
    async begin({ machine }, { pick }) {
      await machine.setClock(SHIFTS[pick % SHIFTS.length] ?? HOURS);
      return () => machine.setClock(0);
    },
  },

  cableCut: {
    stores: BOTH,
    ground: "cable",
    holdMs: [0, 300],
    async begin({ cableAt }, { pick }) {
      cableAt(pick).cut();
      return () => {};
    },
  },
  // The half of an answer, to a poll or on a WebSocket, and then nothing: half-open polling.
  answerHalved: {
    stores: BOTH,
    ground: "cable",
    holdMs: [0, 300],
    async begin({ cableAt }, { pick }) {
      cableAt(pick).halve();
      return () => {};
    },
  },
  readerStops: {
    stores: BOTH,
    ground: "cable",
    holdMs: [800, 1_500],
    async begin({ cableAt, burst }, { pick }) {
      const clogged = cableAt(pick).clog();
      // More than the kernel takes for a reader who reads nothing.
      burst(440, 15_500);
      return () => clogged.restore();
    },
  },
  clientVanishes: {
    stores: BOTH,
    ground: "cable",
    holdMs: [200, 500],
    async begin({ cableAt, vanished }, { pick }) {
      const dead = cableAt(pick).die();
      return () => vanished(dead);
    },
  },
  reconnectStorm: {
    stores: BOTH,
    ground: "crowd",
    holdMs: [100, 300],
    begin: ({ storm }) => storm(),
  },
  upgradeInBurst: {
    stores: BOTH,
    ground: "crowd",
    holdMs: [100, 600],
    async begin({ upgraders, burst }) {
      upgraders(4);
      burst(60, 200);
      return () => {};
    },
  },
} as const satisfies Record<string, Fault>;

export type FaultName = keyof typeof FAULTS;

export const FAULT_NAMES = Object.keys(FAULTS) as FaultName[];

export const faultOf = (name: FaultName): Fault => FAULTS[name];
