/** Faults of the embedded store: its disk, its power, its files, and other processes on them. */

import { copyFile, link, mkdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { createChance } from "./chance.ts";
import { comesTrue, delays, type Fault, hears, moreAcks } from "./fault.ts";
import type { DiskFault } from "./machine.ts";
import type { Loss } from "./power.ts";
import type { Stage } from "./stage.ts";
import type { Supervised } from "./supervised.ts";

const SQLITE = ["sqlite"] as const;

/** How the disk's faults are felt; where not said, the store fails and says so. */
const DELAYS_MS: Partial<Record<DiskFault, number>> = {
  syncSlow: 40,
  syncHangs: Number.POSITIVE_INFINITY,
};

const disk = (how: DiskFault, holdMs: readonly [number, number] = [300, 1_500]): Fault => ({
  stores: SQLITE,
  grounds: ["disk"],
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

/**
 * Of what no good sync followed: all of it, the first part of each file, the last part, or each page by chance; every third
 * time the names of files too.
 */
function lossOf(pick: number): Loss {
  const chance = createChance(pick);
  const tenths = chance.whole(1, 9);
  const all = () => true;
  const byChance = () => chance.whole(1, 10) <= tenths;
  const [page, rest] = [
    [all, all],
    [(index: number, of: number) => index < (of * tenths) / 10, byChance],
    [(index: number, of: number) => index >= (of * tenths) / 10, byChance],
    [byChance, byChance],
  ][pick % 4] as [Loss["page"], () => boolean];
  return { page, size: rest, name: pick % 3 === 0 ? rest : () => false };
}

/** Ends the service as the signal does and takes the power away. Resolves with whether the disk knew the store's files. */
async function losePower(
  { machine, ledger }: Stage,
  service: Supervised,
  pick: number,
  signal: "SIGKILL" | "SIGTERM" = "SIGKILL",
): Promise<boolean> {
  await service.kill(signal);
  const { taken, images } = await machine.losePower(lossOf(pick));
  ledger.lost(taken);
  return images > 0;
}

const powerFails = (signal: "SIGKILL" | "SIGTERM"): Fault => ({
  stores: SQLITE,
  grounds: ["process"],
  holdMs: [0, 200],
  async begin(stage, { pick }) {
    const service = stage.serviceAt(pick);
    // All of it may have been synced.
    const known = await losePower(stage, service, pick, signal);
    return { felt: () => known, end: () => service.restart() };
  },
});

/** Acks that a doubt must not take with it. */
const ACKS_AFTER = 30;
const NOTICED_MS = 4_000;
/** Enough for a commit to reach its sync, and for a start to reach its log. */
const SYNC_BEGINS_MS = 60;
const START_MS = 150;
/** Where the service looks by itself and not for a send, it saves as soon as it tries again. */
const SAVED_MS = 300;
/** Acks that a backup lacks, and messages that are said at once when it has been put back. */
const ACKS_LOST = 6;
const BURST_AFTER = 160;

/** The service is back on a disk that is whole again; it acks some more, and the power fails. */
async function goOnAndLosePower(stage: Stage, service: Supervised, pick: number): Promise<void> {
  await moreAcks(stage, ACKS_AFTER);
  await losePower(stage, service, pick);
  await service.restart();
}

/** Dies with a commit in its log that no sync has followed. */
async function killInSync({ machine, ledger }: Stage, service: Supervised): Promise<void> {
  await machine.setDisk("syncHangs");
  ledger.gateDisk(true);
  await Bun.sleep(SYNC_BEGINS_MS);
  await service.kill("SIGKILL");
  ledger.gateDisk(false);
  await machine.setDisk(null);
}

/** Another hand changes the store's files while the service runs; once the service says so, it is started again. */
const meddling = (meddle: (path: string) => Promise<void>): Fault => ({
  stores: SQLITE,
  grounds: ["disk", "process"],
  holdMs: [100, 500],
  async begin(stage, { pick }) {
    const service = stage.serviceAt(pick);
    const noticed = hears(stage, "store_failed");
    const refusals = () => stage.ledger.refusals.get("storage_unavailable") ?? 0;
    const before = refusals();
    stage.countGroundFault(1);
    await meddle(stage.storePath());
    return {
      felt: noticed,
      async end() {
        // What only the log without a name has dies with the process: it is saved before the first send is refused.
        await comesTrue(stage, () => noticed() && refusals() > before, NOTICED_MS);
        await Bun.sleep(SAVED_MS);
        await service.kill(pick % 2 === 0 ? "SIGTERM" : "SIGKILL");
        stage.countGroundFault(-1);
        await service.restart();
      },
    };
  },
});

/** Another process of the service asks for the same file; it must be refused. */
const secondProcess = (name: (path: string, folder: string) => Promise<string>): Fault => ({
  stores: SQLITE,
  grounds: ["disk", "process"],
  holdMs: [0, 100],
  async begin(stage) {
    const path = stage.storePath();
    const folder = join(dirname(path), "second");
    await mkdir(folder);
    const other = await name(path, folder);
    const refused = await stage.isRefused({ SQLITE_PATH: other }, `a second process, by the name ${other}`);
    await rm(folder, { recursive: true });
    return { felt: () => refused, end() {} };
  },
});

/** An operator copies the file while the service is down, and later puts the copy in the place of the newer one. */
const backupPutBack: Fault = {
  stores: SQLITE,
  grounds: ["disk", "process"],
  holdMs: [200, 500],
  async begin(stage, { pick }) {
    const { ledger, machine } = stage;
    const service = stage.serviceAt(pick);
    const path = stage.storePath();
    // A clean end leaves everything in the file.
    await service.kill("SIGTERM");
    await copyFile(path, `${path}-copy`);
    const backup = ledger.backUp();
    await service.restart();
    await moreAcks(stage, ACKS_LOST);
    const isAtRest = await stage.hush();
    await service.kill("SIGTERM");
    if (isAtRest) {
      await rename(`${path}-copy`, path);
      await machine.settleDisk();
      ledger.putBack(backup);
    }
    await rm(`${path}-copy`, { force: true });
    const told = ledger.told();
    await service.restart();
    // Those who speak by POST fill the gap before the members are back: their numbers are then no longer ahead of the store's.
    stage.burst(BURST_AFTER, 100);
    stage.speakAgain();
    return { felt: () => !isAtRest || ledger.told() > told, end() {} };
  },
};

/** An operator has the service's own commands write a backup under load and put it back; the power may fail right after. */
const restored: Fault = {
  stores: SQLITE,
  grounds: ["disk", "process"],
  holdMs: [0, 200],
  async begin(stage, { pick }) {
    const { ledger, machine } = stage;
    const service = stage.serviceAt(pick);
    const file = join(dirname(stage.storePath()), "backup.db");
    // What is acked from here on may be in it or not.
    const backup = ledger.backUp();
    await stage.runCommand("backup", file);
    await moreAcks(stage, ACKS_LOST);
    const isAtRest = await stage.hush();
    await service.kill(pick % 2 === 0 ? "SIGTERM" : "SIGKILL");
    if (isAtRest) {
      await stage.runCommand("restore", file);
      ledger.putBack(backup);
      if (pick % 4 < 2) ledger.lost((await machine.losePower(lossOf(pick))).taken);
    }
    await rm(file);
    const told = ledger.told();
    await service.restart();
    stage.burst(BURST_AFTER, 100);
    stage.speakAgain();
    return { felt: () => !isAtRest || ledger.told() > told, end() {} };
  },
};

/** A copy is put back, but the service was killed, and its log still lies beside the copy: it belongs to a newer state of the file. */
const logLeftBeside: Fault = {
  stores: SQLITE,
  grounds: ["disk", "process"],
  holdMs: [0, 100],
  async begin(stage, { pick }) {
    const { ledger, machine } = stage;
    const service = stage.serviceAt(pick);
    const path = stage.storePath();
    await service.kill("SIGTERM");
    await copyFile(path, `${path}-copy`);
    const backup = ledger.backUp();
    // The log is one of a later state of the file only after the file got another one whole.
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      await service.restart();
      await moreAcks(stage, ACKS_LOST);
      if (signal === "SIGKILL" && !(await stage.hush())) {
        await rm(`${path}-copy`);
        return { felt: () => true, end: () => stage.speakAgain() };
      }
      await service.kill(signal);
    }
    await rename(`${path}-copy`, path);
    await machine.settleDisk();
    const refused = await stage.isRefused({}, "a start on a backup beside the log of a newer state");
    for (const suffix of ["-wal", "-shm"]) await rm(`${path}${suffix}`, { force: true });
    await machine.settleDisk();
    ledger.putBack(backup);
    await service.restart();
    stage.speakAgain();
    return { felt: () => refused, end() {} };
  },
};

export const SQLITE_FAULTS = {
  // The process dies, and with it any part of what the disk had not synced.
  powerFails: powerFails("SIGKILL"),
  // The process ends in order, and the power fails right after.
  powerFailsAfterEnd: powerFails("SIGTERM"),

  // Killed with a sync under way, and the power fails at once.
  powerFailsInSync: {
    stores: SQLITE,
    grounds: ["disk", "process"],
    holdMs: [0, 200],
    async begin(stage, { pick }) {
      const service = stage.serviceAt(pick);
      await killInSync(stage, service);
      const known = await losePower(stage, service, pick);
      return { felt: () => known, end: () => service.restart() };
    },
  },
  // Killed with a sync under way; the power fails while the service starts again, and once more.
  powerFailsAtStart: {
    stores: SQLITE,
    grounds: ["disk", "process"],
    holdMs: [5, 120],
    async begin(stage, { pick, holdMs }) {
      const { machine, ledger } = stage;
      const service = stage.serviceAt(pick);
      await killInSync(stage, service);
      if (pick % 2 === 0) {
        // The start meets what a failed sync has left, too.
        await machine.setDisk("syncFails");
        await stage.beginsToStart(START_MS);
        await machine.setDisk(null);
      }
      let images = 0;
      for (const forMs of [holdMs, START_MS]) {
        await stage.beginsToStart(forMs);
        const lost = await machine.losePower(lossOf(pick));
        ledger.lost(lost.taken);
        images += lost.images;
      }
      return { felt: () => images > 0, end: () => service.restart() };
    },
  },

  diskFull: disk("full"),
  diskTorn: disk("torn"),
  diskReadOnly: disk("readOnly"),
  diskError: disk("writeError"),
  syncFails: disk("syncFails", [300, 4_500]),
  syncFailsBriefly: disk("syncFails", [5, 60]),
  syncSlow: disk("syncSlow", [500, 2_000]),
  syncHangs: disk("syncHangs", [500, 2_500]),
  // Longer than the ceiling on an operation: what waited is answered, and may still land.
  syncHangsLong: disk("syncHangs", [5_500, 6_500]),

  // A sync fails; the process dies with its doubt; the next one finds everything readable, and the power fails later.
  doubtOutlived: {
    stores: SQLITE,
    grounds: ["disk", "process"],
    holdMs: [0, 100],
    async begin(stage, { pick }) {
      const service = stage.serviceAt(pick);
      const fails = hears(stage, "store_failed");
      stage.countGroundFault(1);
      await stage.machine.setDisk("syncFails");
      const failed = await comesTrue(stage, fails, NOTICED_MS);
      await service.kill(pick % 4 === 0 ? "SIGTERM" : "SIGKILL");
      await stage.machine.setDisk(null);
      stage.countGroundFault(-1);
      return {
        felt: () => failed,
        async end() {
          await service.restart();
          await goOnAndLosePower(stage, service, pick);
        },
      };
    },
  },
  // A sync fails, the service recovers its store by itself and acks more, and the power fails.
  doubtRecovered: {
    stores: SQLITE,
    grounds: ["disk", "process"],
    holdMs: [0, 100],
    async begin(stage, { pick }) {
      const service = stage.serviceAt(pick);
      const fails = hears(stage, "store_failed");
      const recovers = hears(stage, "store_recovered");
      stage.countGroundFault(1);
      await stage.machine.setDisk("syncFails");
      const failed = await comesTrue(stage, fails, NOTICED_MS);
      await stage.machine.setDisk(null);
      stage.countGroundFault(-1);
      return {
        felt: () => failed && recovers(),
        async end() {
          await comesTrue(stage, recovers, NOTICED_MS);
          await goOnAndLosePower(stage, service, pick);
        },
      };
    },
  },
  // Killed with a sync under way; the first start fails on the disk, a supervisor tries again, and the power fails later.
  startFails: {
    stores: SQLITE,
    grounds: ["disk", "process"],
    holdMs: [300, 1_000],
    async begin(stage, { pick }) {
      const { machine } = stage;
      const service = stage.serviceAt(pick);
      stage.countGroundFault(1);
      await killInSync(stage, service);
      await machine.setDisk(pick % 5 === 0 ? "writeError" : "syncFails");
      const before = service.failedStarts();
      const back = service.restart();
      return {
        felt: () => service.failedStarts() > before,
        async end() {
          await machine.setDisk(null);
          stage.countGroundFault(-1);
          await back;
          await goOnAndLosePower(stage, service, pick);
        },
      };
    },
  },

  logUnlinked: meddling((path) => rm(`${path}-wal`)),
  logReplaced: meddling(async (path) => {
    await writeFile(`${path}-other`, "");
    await rename(`${path}-other`, `${path}-wal`);
  }),
  fileMoved: {
    stores: SQLITE,
    grounds: ["disk", "process"],
    holdMs: [200, 1_500],
    async begin(stage) {
      const path = stage.storePath();
      const noticed = hears(stage, "store_failed");
      stage.countGroundFault(1);
      await rename(path, `${path}-moved`);
      return {
        felt: noticed,
        async end() {
          await rename(`${path}-moved`, path);
          stage.countGroundFault(-1);
        },
      };
    },
  },

  secondProcess: secondProcess(async (path, folder) => {
    await symlink(path, join(folder, "chat.db"));
    return join(folder, "chat.db");
  }),
  secondName: secondProcess(async (path, folder) => {
    await link(path, join(folder, "other.db"));
    return join(folder, "other.db");
  }),

  backupPutBack,
  restored,
  logLeftBeside,
} as const satisfies Record<string, Fault>;
