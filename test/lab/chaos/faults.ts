/** Every fault by name: on which store it can be, how it begins, and how it ends. */

import type { FailCommand } from "./database.ts";
import type { DiskFault } from "./machine.ts";
import type { Stage } from "./stage.ts";

export type StoreKind = "sqlite" | "mongodb";

/** A fault that has begun. */
export interface Course {
  /** Whether somebody other than the harness has noticed it, or it has kept from happening what happens otherwise. */
  felt(): boolean;
  /** Ends it; resolves once what it broke is whole again. */
  end(): Promise<void> | void;
}

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
  begin(stage: Stage, step: FaultStep): Promise<Course>;
}

const BOTH: readonly StoreKind[] = ["sqlite", "mongodb"];

/** From now on, whether some service logs one of these events. */
function hears({ services }: Stage, ...events: readonly string[]): () => boolean {
  const count = () =>
    services.reduce((sum, { logged }) => sum + events.reduce((all, event) => all + logged(event), 0), 0);
  const before = count();
  return () => count() > before;
}

/** From now on, whether somebody loses a connection. */
function breaks({ ledger }: Stage): () => boolean {
  const before = ledger.breaks.length;
  return () => ledger.breaks.length > before;
}

/** From now on, whether what is said is stored no sooner than that. */
function delays({ ledger }: Stage, ms: number): () => boolean {
  const since = performance.now() + SIGNAL_MS;
  return () => ledger.quickestAckMs(since) >= ms;
}
/** How long a signal may be on its way to a program that runs. */
const SIGNAL_MS = 50;

/** More than who reads may be behind who was shown it first. */
const BEHIND_LEAST = 30;

/** How the disk's faults are felt; where not said, the store fails and says so. */
const DELAYS_MS: Partial<Record<DiskFault, number>> = {
  syncSlow: 40,
  syncHangs: Number.POSITIVE_INFINITY,
};

const disk = (how: DiskFault, holdMs: readonly [number, number] = [300, 1_500]): Fault => ({
  stores: ["sqlite"],
  ground: "disk",
  holdMs,
  async begin(stage) {
    const { machine, ledger } = stage;
    const fails = hears(stage, "store_failed");
    await machine.setDisk(how);
    if (how === "syncHangs") ledger.gateDisk(true);
    const delayMs = DELAYS_MS[how];
    return {
      felt: delayMs === undefined ? fails : delays(stage, delayMs),
      async end() {
        ledger.gateDisk(false);
        await machine.setDisk(null);
      },
    };
  },
});

const failing = (how: FailCommand): Fault => ({
  stores: ["mongodb"],
  ground: "database",
  holdMs: [200, 1_500],
  async begin(stage) {
    // MongoDB counts how often it failed on purpose, its stand-in does not; the service says that it was failed.
    const felt = hears(stage, "store_down");
    const database = stage.database();
    await database.fail(how);
    return { felt, end: () => database.fail(null) };
  },
});

const killed = (signal: "SIGKILL" | "SIGTERM"): Fault => ({
  stores: BOTH,
  ground: "process",
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

const NOT_WRITABLE_PRIMARY = 10_107;
const NOT_PRIMARY_NO_SECONDARY = 13_435;
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
      const { writes, files } = await machine.losePower(() =>
        pick % 2 === 0 ? 1 : (((pick + 37 * file++) % 10) + 1) / 10,
      );
      ledger.lost(writes);
      // All of them may have been synced.
      return { felt: () => files > 0, end: () => service.restart() };
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
    async begin(stage) {
      const database = stage.database();
      const felt = hears(stage, "store_down");
      await database.kill();
      return { felt, end: () => database.restart() };
    },
  },
  databaseStalled: {
    stores: ["mongodb"],
    ground: "database",
    holdMs: [300, 6_000],
    async begin(stage) {
      const database = stage.database();
      database.pause();
      return { felt: delays(stage, Number.POSITIVE_INFINITY), end: () => database.resume() };
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
  findNotPrimary: failing({ failCommands: ["find"], errorCode: NOT_PRIMARY_NO_SECONDARY }),
  verifyLost: failing({ failCommands: ["listCollections"], closeConnection: true }),
  endsLost: failing({ failCommands: ["aggregate"], closeConnection: true }),
  endsNotPrimary: failing({ failCommands: ["aggregate"], errorCode: NOT_PRIMARY_NO_SECONDARY }),
  everythingLost: failing({
    failCommands: ["insert", "find", "listCollections", "aggregate"],
    closeConnection: true,
  }),

  // Two services write the same rooms from the plan's first message on; one of them is killed.
  race: {
    stores: ["mongodb"],
    ground: "process",
    holdMs: [300, 1_200],
    async begin({ serviceAt, posted }, { pick }) {
      const service = serviceAt(pick);
      await service.kill("SIGKILL");
      return { felt: posted, end: () => service.restart() };
    },
  },

  clockJumps: {
    stores: BOTH,
    ground: "clock",
    holdMs: [300, 1_500],
    async begin({ machine, ledger }, { pick }) {
      const before = ledger.strangeTimes();
      await machine.setClock(SHIFTS[pick % SHIFTS.length] ?? HOURS);
      return { felt: () => ledger.strangeTimes() > before, end: () => machine.setClock(0) };
    },
  },

  cableCut: {
    stores: BOTH,
    ground: "cable",
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
    ground: "cable",
    holdMs: [0, 300],
    async begin(stage, { pick }) {
      const felt = breaks(stage);
      stage.cableAt(pick).halve();
      return { felt, end() {} };
    },
  },
  readerStops: {
    stores: BOTH,
    ground: "cable",
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
    ground: "cable",
    holdMs: [200, 500],
    async begin({ cableAt, serviceAt, vanished }, { pick }) {
      const dead = cableAt(pick).die();
      return { felt: () => dead.count > 0, end: () => vanished(dead, serviceAt(pick)) };
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
      const upgrading = upgraders(4);
      burst(60, 200);
      return { felt: () => upgrading.every((resident) => resident.isOnWebSocket()), end() {} };
    },
  },
} as const satisfies Record<string, Fault>;

export type FaultName = keyof typeof FAULTS;

export const FAULT_NAMES = Object.keys(FAULTS) as FaultName[];

export const faultOf = (name: FaultName): Fault => FAULTS[name];
