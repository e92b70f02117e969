/**
 * Chaos: drives the real program through faults and judges it from outside. Every fault alone on every store that can have
 * it, then random mixes from one printed seed; what fails is made smaller and printed. Exit 1 on any violation.
 */

import { writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { ownServers } from "../../fixture/mongodb.ts";
import { FROM_SOURCE } from "../../fixture/program.ts";
import { type Chance, createChance } from "./chance.ts";
import type { Stretch } from "./cores.ts";
import { type Database, openDatabase } from "./database.ts";
import type { StoreKind } from "./fault.ts";
import { FAULT_NAMES, type FaultName } from "./faults.ts";
import { openMachines } from "./machine.ts";
import { alone, faultsOf, mix, type Plan, summary } from "./plan.ts";
import { type Outcome, play } from "./play.ts";
import { RECOVERY_MS } from "./recovery.ts";
import { shrink } from "./shrink.ts";
import type { StageOptions } from "./stage.ts";

/** However slow the machine is, a run that is cut short has made so many. */
const FAULTS_LEAST = 25;

const USAGE = `bun run chaos [options]
  --seed N        of all plans; printed when it is left out
  --mixes N       random mixes after the faults alone (default 8)
  --minutes N     go on with mixes for so long
  --within N      begin no plan after so many minutes, but for the ${FAULTS_LEAST} faults over all stores that a run must show
  --store KIND    sqlite or mongodb only
  --only FAULT    this fault alone, no mixes: ${FAULT_NAMES.join(", ")}
  --no-alone      mixes only
  --storm N       clients of a reconnect storm (default 120)
  --plan JSON     this plan only, as it was printed
  --program FILE  the service to drive (default src/main.ts)
  --json FILE     write the report there
  --no-shrink     print a plan that failed as it is`;

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    mixes: { type: "string", default: "8" },
    minutes: { type: "string", default: "0" },
    within: { type: "string", default: "Infinity" },
    store: { type: "string" },
    only: { type: "string" },
    alone: { type: "boolean", default: true },
    storm: { type: "string", default: "120" },
    plan: { type: "string" },
    program: { type: "string" },
    json: { type: "string" },
    shrink: { type: "boolean", default: true },
    help: { type: "boolean", default: false },
  },
  allowNegative: true,
});
if (values.help) {
  console.log(USAGE);
  process.exit(0);
}

const STORES: readonly StoreKind[] = ["sqlite", "mongodb"];
const wrong = (line: string): never => {
  console.error(`${line}\n${USAGE}`);
  process.exit(2);
};
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
const stores = STORES.filter((store) => values.store === undefined || values.store === store);
if (stores.length === 0) wrong(`--store ${values.store} is unknown`);
if (values.only !== undefined && !FAULT_NAMES.includes(values.only as FaultName))
  wrong(`--only ${values.only} is unknown`);
if (![seed, Number(values.mixes), Number(values.minutes), Number(values.storm)].every(Number.isFinite))
  wrong("a number is no number");
if (!(Number(values.within) >= 0)) wrong(`--within ${values.within} is no number`);

if (stores.includes("mongodb") && !ownServers)
  wrong("chaos kills and stalls its MongoDB: unset MONGODB_TEST_URI, or give --store sqlite");
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130));

const began = performance.now();
const minutesUp = (minutes: string) => performance.now() - began >= 60_000 * Number(minutes);

/** In another order for each seed: which of them a run that is cut short leaves out is chance. */
function shuffled<T>(all: readonly T[], chance: Chance): T[] {
  const left = [...all];
  return all.flatMap(() => left.splice(chance.whole(0, left.length - 1), 1));
}

/** The plans of one store, in order; the mixes go on while there is time. */
function* plansOf(store: StoreKind): Generator<Plan> {
  if (values.plan !== undefined) {
    const plan = JSON.parse(values.plan) as Plan;
    if (plan.store === store) yield plan;
    return;
  }
  if (values.alone) {
    const plans = faultsOf(store).map((fault, index) => ({ fault, plan: alone(store, fault, seed + index) }));
    for (const { fault, plan } of shuffled(plans, createChance(seed)))
      if (values.only === undefined || values.only === fault) yield plan;
  }
  if (values.only !== undefined) return;
  // Both stores share the number that was asked for.
  const share = Math.ceil((Number(values.mixes) - STORES.indexOf(store)) / stores.length);
  for (let n = 0; n < share || !minutesUp(values.minutes); n += 1)
    yield mix(store, seed + 1_000 * (n + 1) + STORES.indexOf(store));
}

const outcomes: Outcome[] = [];

function tell(outcome: Outcome): void {
  const { plan, seconds, acked, delivered, recoveries, slowDisconnected, refusals, violations } = outcome;
  const refused = Object.entries(refusals).map(([code, count]) => `, ${count} ${code}`);
  const recovered = recoveries
    .map(({ wallMs, ownMs }) => `${Math.round(ownMs)} of ${Math.round(wallMs)}`)
    .join(", ");
  const awayMs = Math.round(Math.max(0, ...recoveries.map(({ databaseAwayMs }) => databaseAwayMs)));
  const away = awayMs > 0 ? `, MongoDB itself answered nobody for ${awayMs} ms` : "";
  const slow = slowDisconnected > 0 ? `, ${slowDisconnected} slow readers disconnected` : "";
  console.log(
    `${violations.length === 0 ? "kept " : "BROKE"} ${summary(plan)} | ${seconds.toFixed(1)} s, ${acked} acked, ${delivered} delivered, recovered in ${recovered} ms${away}${slow}${refused.join("")}`,
  );
  for (const { kind, what } of violations) console.log(`      ${kind}: ${what}`);
}

async function playAll(store: StoreKind, options: Omit<StageOptions, "database">): Promise<void> {
  const database: Database | null = store === "mongodb" ? await openDatabase() : null;
  const withDatabase: StageOptions = { ...options, database };
  let faults = 0;
  try {
    for (const plan of plansOf(store)) {
      if (minutesUp(values.within) && faults >= FAULTS_LEAST / stores.length) break;
      const outcome = await play(plan, withDatabase);
      faults += outcome.faults;
      outcomes.push(outcome);
      tell(outcome);
      if (outcome.violations.length === 0) continue;
      for (const line of outcome.complaints) console.log(`      log: ${line.slice(0, 400)}`);
      console.log(`      again: bun run chaos --plan '${JSON.stringify(plan)}'`);
      if (!values.shrink) continue;
      const smallest = await shrink(outcome, withDatabase);
      console.log(`      smallest plan that fails so: ${summary(smallest.plan)}`);
      for (const { kind, what } of smallest.violations) console.log(`      ${kind}: ${what}`);
      console.log(`      again: bun run chaos --plan '${JSON.stringify(smallest.plan)}'`);
    }
  } finally {
    await database?.close();
  }
}

console.log(`chaos, seed ${seed}, on ${stores.join(" and ")}`);
const machines = await openMachines();
try {
  const command = values.program === undefined ? FROM_SOURCE : [process.execPath, resolve(values.program)];
  const options = { command, machines, stormClients: Number(values.storm) };
  // Plans mostly wait, so the stores take their turns side by side.
  await Promise.all(stores.map((store) => playAll(store, options)));
} finally {
  await machines.remove();
}

const sum = (of: (outcome: Outcome) => number) => outcomes.reduce((total, outcome) => total + of(outcome), 0);
const violations = sum((outcome) => outcome.violations.length);
const recoveries = outcomes.flatMap((outcome) => outcome.recoveries);
const excused = recoveries.filter(({ wallMs, ownMs }) => wallMs > RECOVERY_MS && ownMs <= RECOVERY_MS);
const away = recoveries.filter(({ databaseAwayMs }) => databaseAwayMs > 0);
const worst = (of: (stretch: Stretch) => number) => Math.round(Math.max(0, ...recoveries.map(of)));
if (values.json !== undefined)
  await writeFile(
    values.json,
    `${JSON.stringify({ seed, stores, seconds: (performance.now() - began) / 1_000, outcomes }, null, 1)}\n`,
  );
console.log(
  `seed ${seed}: ${outcomes.length} plans, ${sum(({ faults }) => faults)} faults, ${sum(({ acked }) => acked)} acked, ${sum(({ delivered }) => delivered)} delivered, ${sum(({ joins }) => joins)} joins, slowest recovery ${worst(({ ownMs }) => ownMs)} ms of the service's own time (${worst(({ wallMs }) => wallMs)} ms by the clock; ${excused.length} of ${recoveries.length} took over ${RECOVERY_MS} ms by the clock and were excused; ${away.length} began when MongoDB itself answered again), ${violations} violations, ${Math.round((performance.now() - began) / 1_000)} s`,
);
process.exit(violations > 0 ? 1 : 0);
