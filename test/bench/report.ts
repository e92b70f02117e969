/** What the rounds come to: figures side by side, ratios, and whether the bounds are met. */

import { CONTENDERS, type ContenderName } from "./contenders.ts";
import type { Machine } from "./machine.ts";
import { faultOf, type Run } from "./run.ts";
import type { Scenario } from "./scenarios.ts";
import { median, ratios, type Spread, spread } from "./statistics.ts";

/** What one contender did in one scenario, over the rounds. */
export interface Row {
  readonly contender: ContenderName;
  /** Deliveries or acks a second. */
  readonly perSecond: Spread;
  /** Server CPU microseconds for each of them; null where the system does not tell. */
  readonly cpuMicros: number | null;
  /** How much of a core the server and the generator used. */
  readonly serverShare: number | null;
  readonly generatorShare: number;
  /** Cores that neither of the two used: what disturbed the rounds. */
  readonly othersShare: number | null;
  /** A delivery on the wire, WebSocket header included. */
  readonly deliveryBytes: number;
  /** The server's memory at the end. */
  readonly serverBytes: number | null;
  /** Ours by this one: above 1 ours is faster. */
  readonly oursBy: { readonly perSecond: Spread; readonly perCpu: number | null } | null;
}

export interface Verdict {
  readonly scenario: string;
  readonly against: ContenderName;
  readonly ratio: Spread;
  /** The same ratio in work for each unit of CPU: what others do on the machine moves it less. */
  readonly perCpu: number | null;
  /** Whether others took enough of the cores for `ratio` to mean little. */
  readonly disturbed: boolean;
  readonly atLeast: number;
  readonly met: boolean;
}

export interface ScenarioReport {
  readonly scenario: Scenario;
  readonly rows: readonly Row[];
  readonly verdicts: readonly Verdict[];
  /** Losses, repeats, order faults, refusals: any of them makes the bench fail. */
  readonly faults: readonly string[];
}

/** More than so many cores' work of others disturbs a measurement on few cores. */
const DISTURBED_CORES = 0.1;

const perSecond = (scenario: Scenario, run: Run) => run[scenario.unit] / run.seconds;
const cpuMicros = (scenario: Scenario, run: Run) =>
  run.serverCpuSeconds === null ? null : (run.serverCpuSeconds / run[scenario.unit]) * 1e6;

const medianOrNull = (values: readonly (number | null)[]) => {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : median(known);
};

/** @param runs in the order of the rounds */
export function reportOn(scenario: Scenario, runs: readonly Run[]): ScenarioReport {
  const of = (name: ContenderName) => runs.filter(({ contender }) => contender === name);
  const speeds = (name: ContenderName) => of(name).map((run) => perSecond(scenario, run));
  const cpus = (name: ContenderName) => medianOrNull(of(name).map((run) => cpuMicros(scenario, run)));
  const names = scenario.contenders.filter((name) => of(name).length > 0);
  const hasOurs = names.includes("ours");

  const rows = names.map((contender): Row => {
    const [own, ours] = [cpus(contender), cpus("ours")];
    const mine = of(contender);
    return {
      contender,
      perSecond: spread(speeds(contender)),
      cpuMicros: own,
      serverShare: medianOrNull(
        mine.map(({ serverCpuSeconds, seconds }) =>
          serverCpuSeconds === null ? null : serverCpuSeconds / seconds,
        ),
      ),
      generatorShare: median(mine.map(({ generatorShare }) => generatorShare)),
      othersShare: medianOrNull(mine.map(({ othersShare }) => othersShare)),
      deliveryBytes: median(mine.map(({ deliveryBytes, deliveries }) => deliveryBytes / deliveries)),
      serverBytes: medianOrNull(mine.map(({ serverBytes }) => serverBytes)),
      oursBy:
        hasOurs && contender !== "ours"
          ? {
              perSecond: ratios(speeds("ours"), speeds(contender)),
              perCpu: own === null || ours === null ? null : own / ours,
            }
          : null,
    };
  });

  const verdicts = scenario.bounds.flatMap(({ against, atLeast }): Verdict[] => {
    const row = rows.find(({ contender }) => contender === against);
    if (row === undefined || row.oursBy === null) return [];
    const { perSecond: ratio, perCpu } = row.oursBy;
    const ours = rows.find(({ contender }) => contender === "ours");
    const disturbed = [row, ours].some((one) => (one?.othersShare ?? 0) > DISTURBED_CORES);
    const met = ratio.median >= atLeast;
    return [{ scenario: scenario.name, against, ratio, perCpu, disturbed, atLeast, met }];
  });

  const faults = runs.flatMap((run) => {
    const fault = faultOf(run);
    return fault === undefined ? [] : [`${scenario.name}, ${run.contender}: ${fault}`];
  });
  return { scenario, rows, verdicts, faults };
}

const thousands = (value: number) => `${(value / 1_000).toFixed(1)}k`;
const orDash = (value: number | null, digits: number) => (value === null ? "–" : value.toFixed(digits));
const inRange = ({ median: middle, least, most }: Spread) =>
  `${middle.toFixed(2)} (${least.toFixed(2)}–${most.toFixed(2)})`;

function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join("  "),
    )
    .join("\n");
}

export function showMachine(machine: Machine): string {
  const { bun, socketIo, bunEngine, system, processor, cores, pinned, fileSystem, syncMs } = machine;
  const place = pinned
    ? "server and generator pinned to a core each, for all alike"
    : "nothing pinned: no taskset, or one core";
  return [
    `bun ${bun}, socket.io ${socketIo}, @socket.io/bun-engine ${bunEngine}; ${system}`,
    `${processor}, ${cores} cores; ${place}`,
    `stores on ${fileSystem}, fdatasync of 4 kB ${syncMs.toFixed(2)} ms`,
  ].join("\n");
}

export function showScenario({ scenario, rows }: ScenarioReport): string {
  const { name, what, unit, senders, inFlight } = scenario;
  const singular = unit === "acks" ? "ack" : "delivery";
  const head = [
    "",
    `${unit}/s`,
    "least–most",
    `CPU µs/${singular}`,
    "ours by it",
    "by CPU",
    "server core",
    "generator core",
    "others' cores",
    "bytes/delivery",
    "memory MB",
  ];
  const body = rows.map((row) => [
    row.contender,
    thousands(row.perSecond.median),
    `${thousands(row.perSecond.least)}–${thousands(row.perSecond.most)}`,
    orDash(row.cpuMicros, row.cpuMicros !== null && row.cpuMicros < 10 ? 3 : 1),
    row.oursBy === null ? "" : inRange(row.oursBy.perSecond),
    row.oursBy === null ? "" : orDash(row.oursBy.perCpu, 2),
    orDash(row.serverShare, 2),
    // Near a whole core, the generator is what was measured.
    `${row.generatorShare.toFixed(2)}${row.generatorShare > 0.9 ? " (!)" : ""}`,
    `${orDash(row.othersShare, 2)}${(row.othersShare ?? 0) > DISTURBED_CORES ? " (!)" : ""}`,
    row.deliveryBytes.toFixed(0),
    orDash(row.serverBytes === null ? null : row.serverBytes / 1e6, 0),
  ]);
  return `${name}: ${what} (${senders} sending, ${inFlight} in flight each)\n${table([head, ...body])}`;
}

export function showVerdicts(reports: readonly ScenarioReport[]): string {
  const verdicts = reports.flatMap((report) => report.verdicts);
  const rows = verdicts.map(({ scenario, against, ratio, perCpu, disturbed, atLeast, met }) => [
    `${scenario}: ours by ${against}`,
    inRange(ratio),
    orDash(perCpu, 2),
    `at least ${atLeast}`,
    `${met ? "met" : "MISSED"}${disturbed ? " (disturbed)" : ""}`,
  ]);
  return table([["bound", "median ratio of rounds", "by CPU", "asked", ""], ...rows]);
}

export function showContenders(names: readonly ContenderName[]): string {
  return table(names.map((name) => [name, CONTENDERS[name].what])).replace(/ {2} +(?=\S)/g, "  ");
}
