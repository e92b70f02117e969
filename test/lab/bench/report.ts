/** What the rounds come to: figures side by side, ratios, and whether the bounds are met. */

import { CONTENDERS, type ContenderName } from "./contenders.ts";
import type { Machine } from "./machine.ts";
import type { Prepared } from "./peers.ts";
import { type Bound, type Figure, type Run, type Scenario, type Shares, subjectOf } from "./scenario.ts";
import { median, ratios, type Spread, spread } from "./statistics.ts";

/** What one contender did in one scenario, over the rounds. */
export interface Row {
  readonly contender: ContenderName;
  /** By the names of the figures; null where the system does not tell. */
  readonly figures: Readonly<Record<string, Spread | null>>;
  /** The subject and this one, as the figure says; none in the subject's own row. */
  readonly compared: Readonly<Record<string, Spread | null>>;
  readonly shares: Shares;
}

export interface Verdict extends Bound {
  readonly scenario: string;
  readonly subject: ContenderName;
  /** The subject's figure, or its ratio to that of the one it is held against; null where it was not measured. */
  readonly found: Spread | null;
  /** Digits that it is shown with. */
  readonly digits: Figure["digits"];
  /** Why it means little, if it does. */
  readonly doubts: readonly string[];
  /** Null where it was not measured. */
  readonly met: boolean | null;
}

export interface ScenarioReport {
  readonly scenario: Omit<Scenario, "kind"> & { readonly how: string; readonly figures: readonly Figure[] };
  readonly rows: readonly Row[];
  readonly verdicts: readonly Verdict[];
  /** Losses, repeats, order faults, refusals: any of them makes the bench fail. */
  readonly faults: readonly string[];
}

/** More than so many cores' work of others disturbs a measurement on few cores. */
const DISTURBED_CORES = 0.1;
/** A generator that takes more of its core may be what was measured. */
const GENERATOR_CORES = 0.9;

const isDisturbed = ({ others }: Shares) => (others ?? 0) > DISTURBED_CORES;
const isGeneratorFull = ({ generator }: Shares) => (generator ?? 0) > GENERATOR_CORES;

const known = (values: readonly (number | null | undefined)[]) =>
  values.filter((value) => value !== null && value !== undefined);
const medianOrNull = (values: readonly (number | null)[]) =>
  known(values).length === 0 ? null : median(known(values));

/** @param runs in the order of the rounds */
export function reportOn({ kind, ...scenario }: Scenario, runs: readonly Run[]): ScenarioReport {
  const subject = subjectOf(scenario);
  const of = (name: ContenderName) => runs.filter(({ contender }) => contender === name);
  /** Round by round; undefined where one of them is not known. */
  const values = (name: ContenderName, figure: string) => {
    const each = of(name).map(({ figures }) => figures[figure]);
    return each.length > 0 && known(each).length === each.length ? known(each) : undefined;
  };
  const spreadOf = (name: ContenderName, figure: string) => {
    const each = values(name, figure);
    return each === undefined ? null : spread(each);
  };
  const ratio = (left: ContenderName, right: ContenderName, figure: string) => {
    const [over, under] = [values(left, figure), values(right, figure)];
    return over === undefined || under === undefined ? null : ratios(over, under);
  };
  const shares = (name: ContenderName): Shares => {
    const all = of(name).map((run) => run.shares);
    return {
      server: medianOrNull(all.map(({ server }) => server)),
      generator: medianOrNull(all.map(({ generator }) => generator)),
      others: medianOrNull(all.map(({ others }) => others)),
    };
  };

  const rows = scenario.contenders
    .filter((name) => of(name).length > 0)
    .map((contender): Row => {
      const compared = kind.figures.filter(
        (figure) => figure.compared !== undefined && contender !== subject,
      );
      return {
        contender,
        figures: Object.fromEntries(kind.figures.map(({ name }) => [name, spreadOf(contender, name)])),
        compared: Object.fromEntries(
          compared.map((figure) => [
            figure.name,
            figure.compared === "subject by it"
              ? ratio(subject, contender, figure.name)
              : ratio(contender, subject, figure.name),
          ]),
        ),
        shares: shares(contender),
      };
    });

  const verdicts = scenario.bounds.map((bound): Verdict => {
    const { figure, against, atLeast = Number.NEGATIVE_INFINITY, atMost = Number.POSITIVE_INFINITY } = bound;
    const found = against === undefined ? spreadOf(subject, figure) : ratio(subject, against, figure);
    const both = [...new Set([subject, against ?? subject])].map((name) => ({ name, shares: shares(name) }));
    const doubts = [
      ...(both.some((one) => isDisturbed(one.shares)) ? ["disturbed"] : []),
      ...both.filter((one) => isGeneratorFull(one.shares)).map(({ name }) => `${name}: generator full`),
    ];
    const met = found === null ? null : found.median >= atLeast && found.median <= atMost;
    const own = kind.figures.find(({ name }) => name === figure)?.digits ?? 2;
    const digits = against === undefined ? own : 2;
    return { ...bound, scenario: scenario.name, subject, found, digits, doubts, met };
  });

  const faults = runs.flatMap((run) =>
    run.faults.map((fault) => `${scenario.name}, ${run.contender}: ${fault}`),
  );
  const { how, figures } = kind;
  return { scenario: { ...scenario, how, figures }, rows, verdicts, faults };
}

const orDash = (value: number | null, digits: number) => (value === null ? "–" : value.toFixed(digits));
const shown = (value: number, digits: Figure["digits"]) =>
  digits === "k" ? `${(value / 1_000).toFixed(1)}k` : value.toFixed(digits);
const inRange = ({ median: middle, least, most }: Spread, digits: Figure["digits"] = 2) =>
  `${shown(middle, digits)} (${shown(least, digits)}–${shown(most, digits)})`;

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
  const { commit, dirty, bun, node, sqlite, socketIo, bunEngine, system, processor, cores } = machine;
  const { pinned, openFiles, fileSystem, syncMs } = machine;
  const place = pinned
    ? "server and generator pinned to a core each, for all alike"
    : "nothing pinned: no taskset, or one core";
  return [
    `commit ${commit ?? "unknown"}${dirty === true ? " with changes that are not committed" : ""}`,
    `bun ${bun}, SQLite ${sqlite}, socket.io ${socketIo}, @socket.io/bun-engine ${bunEngine}${node === null ? "" : `, Node ${node}`}; ${system}`,
    `${processor}, ${cores} cores, ${openFiles ?? "any number of"} open files; ${place}`,
    `stores on ${fileSystem}, fdatasync of 4 kB ${syncMs.toFixed(2)} ms`,
  ].join("\n");
}

export function showScenario({ scenario, rows }: ScenarioReport): string {
  const { name, what, how, figures } = scenario;
  const subject = subjectOf(scenario);
  const compared = figures.filter((figure) => figure.compared !== undefined);
  const head = [
    "",
    ...figures.map((figure) => figure.name),
    ...compared.map((figure) =>
      figure.compared === "subject by it"
        ? `${subject} by it, ${figure.name}`
        : `it by ${subject}, ${figure.name}`,
    ),
    "server core",
    "generator core",
    "others' cores",
  ];
  const body = rows.map(({ contender, shares, ...row }) => [
    contender,
    ...figures.map((figure, column) => {
      const value = row.figures[figure.name];
      if (value === null || value === undefined) return "–";
      return column === 0 ? inRange(value, figure.digits) : shown(value.median, figure.digits);
    }),
    ...compared.map((figure) => {
      const value = row.compared[figure.name];
      return value === null || value === undefined ? "" : inRange(value);
    }),
    orDash(shares.server, 2),
    `${orDash(shares.generator, 2)}${isGeneratorFull(shares) ? " (!)" : ""}`,
    `${orDash(shares.others, 2)}${isDisturbed(shares) ? " (!)" : ""}`,
  ]);
  return `${name}: ${what} (${how})\n${table([head, ...body])}`;
}

export function showVerdicts(reports: readonly ScenarioReport[]): string {
  const rows = reports
    .flatMap((report) => report.verdicts)
    .map(({ scenario, figure, subject, against, found, digits, doubts, atLeast, atMost, met }) => [
      `${scenario}, ${figure}: ${against === undefined ? subject : `${subject} by ${against}`}`,
      found === null ? "–" : inRange(found, digits),
      atLeast === undefined ? `at most ${atMost}` : `at least ${atLeast}`,
      met === null
        ? "not measured"
        : [met ? "met" : "MISSED", ...doubts.map((doubt) => `(${doubt})`)].join(" "),
    ]);
  return table([["bound", "median of rounds", "asked", ""], ...rows]);
}

export function showContenders(names: readonly ContenderName[]): string {
  return table(names.map((name) => [name, CONTENDERS[name].what])).replace(/ {2} +(?=\S)/g, "  ");
}

export const showPeers = ({ ready, leftOut }: Prepared): string =>
  [
    ...[...ready].map(([name, versions]) => `${name}: ${versions}`),
    ...[...leftOut].map(([name, why]) => `${name} LEFT OUT: ${why}`),
  ].join("\n");
