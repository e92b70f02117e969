/** The excuse of MongoDB's witness, inside a plan: a database that hangs after its fault has ended. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { ownServers } from "../../fixture/mongodb.ts";
import { FROM_SOURCE, temporaryFolder } from "../../fixture/program.ts";
import { type Database, openDatabase } from "./database.ts";
import { type Machines, openMachines } from "./machine.ts";
import { planted } from "./plant.ts";
import { play } from "./play.ts";

let database: Database;
let machines: Machines;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  if (!ownServers) return;
  [database, machines, folder] = await Promise.all([openDatabase(), openMachines(), temporaryFolder()]);
});
afterAll(async () => {
  if (!ownServers) return;
  await database.close();
  await machines.remove();
  await folder.remove();
});

const HANGS_MS = 3_000;

/** Plays a fault of MongoDB; so long after its end the server hangs, and for each further number again after a while. */
async function playWithHangs(
  command: readonly string[],
  afterMs: readonly number[],
  databaseGivenUpMs?: number,
) {
  let hangs = Promise.resolve();
  const hanging: Database = {
    ...database,
    async fail(how) {
      await database.fail(how);
      if (how !== null) return;
      hangs = (async () => {
        for (const ms of afterMs) {
          await Bun.sleep(ms);
          database.pause();
          await Bun.sleep(HANGS_MS);
          database.resume();
        }
      })();
    },
  };
  const step = { fault: "insertLost", afterMs: 0, holdMs: 200, pick: 0 } as const;
  const outcome = await play(
    { store: "mongodb", seed: 7, groups: [{ acks: 20, steps: [step] }] },
    {
      ...{ command, machines, database: hanging, stormClients: 0 },
      ...(databaseGivenUpMs === undefined ? {} : { databaseGivenUpMs }),
    },
  );
  await hangs;
  return outcome;
}

/** A service that once, and only once, believes in its store no sooner than so long after that answers again. */
const believesLate = (ms: number) =>
  planted(join(folder.path, `late by ${ms}`), [
    {
      file: "src/repository/mongo/connection.ts",
      from: "          state = { up: true };\n",
      to: `          if (times > 0 && !globalThis.hasSlept) {
            globalThis.hasSlept = true;
            await Bun.sleep(${ms});
          }
          state = { up: true };\n`,
    },
  ]);

async function soundTest() {
  const { violations, recoveries } = await playWithHangs(FROM_SOURCE, [0]);
  expect(violations).toEqual([]);
  expect(recoveries[0]?.databaseAwayMs).toBeGreaterThan(HANGS_MS / 2);
}

async function slowTest() {
  // The database hangs when most of the service's delay is over. On a busy machine a large part of a delay is excused.
  const { violations, recoveries } = await playWithHangs(await believesLate(4_500), [4_000]);
  expect(violations.map(({ kind }) => kind)).toEqual(["slow to recover"]);
  expect(recoveries[0]?.databaseAwayMs).toBeGreaterThan(HANGS_MS / 2);
}

async function ceilingTest() {
  // Each hang is shorter than the ceiling, both together are longer.
  const { violations } = await playWithHangs(await believesLate(20_000), [600, 400], HANGS_MS + 1_000);
  const [stuck] = violations;
  expect([stuck?.kind, stuck?.what]).toEqual(["stuck", expect.stringContaining("MongoDB itself")]);
}

// They stall their server, which nobody may do to the user's own.
if (ownServers) {
  test("recover excuses a service while MongoDB answers its witness neither", soundTest);
  test("recover counts what a service lost before MongoDB hung", slowTest);
  test("recover gives up a MongoDB whose hangs together are longer than their ceiling", ceilingTest);
}
