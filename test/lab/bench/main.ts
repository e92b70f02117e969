/**
 * `bun run bench`: contenders × scenarios, side by side in one run, in rounds that alternate between the contenders.
 *   --rounds N    how many rounds (default 5; the figures are medians)
 *   --only NAME   one scenario, or one contender with the one it is compared with; may be given more than once
 *   --all         the scenarios too that take long and run only when they are named
 *   --peers       other platforms' chat servers too, where a scenario takes them; installs them (docs/BENCHMARKS.md).
 *                 One that cannot be had is left out, and said; where --only names it, that is an error
 *   --json FILE   writes every run and the report
 *   BENCH_BEFORE  in the environment: a checkout of another commit, packages installed, that takes part as `before`
 *   --seed N      what the senders say
 * Exits 1 when a message was lost, repeated or out of order, refused, or is not in the store; never for being slow.
 */

import { parseArgs } from "node:util";
import { endTogether } from "./belongings.ts";
import { BEFORE, CONTENDERS, type ContenderName } from "./contenders.ts";
import { describeMachine, IN_MEMORY, stayWithGenerators, storeFolder } from "./machine.ts";
import { PEER_NAMES, type PeerName, type Prepared, preparePeers } from "./peers.ts";
import { reportOn, showContenders, showMachine, showPeers, showScenario, showVerdicts } from "./report.ts";
import { type Run, type Scenario, subjectOf } from "./scenario.ts";
import { SCENARIOS } from "./scenarios.ts";

const ROUNDS = 5;
const WARM_UP_MS = 1_500;
const MEASURE_MS = 2_000;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: String(ROUNDS) },
    only: { type: "string", multiple: true, default: [] },
    all: { type: "boolean", default: false },
    peers: { type: "boolean", default: false },
    json: { type: "string" },
    seed: { type: "string", default: "1" },
  },
});

const rounds = wholeNumber("rounds", values.rounds);
const seed = wholeNumber("seed", values.seed);
const wanted = chosen(values.only);

function wholeNumber(name: string, text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  return refuse(`--${name} must be a whole number from 1 on`);
}

function refuse(line: string): never {
  process.stderr.write(`${line}\n`);
  process.exit(64);
}

/** The scenarios, each with its contenders, that `--only` leaves. Whom the others are compared with stays. */
function chosen(only: readonly string[]): readonly Scenario[] {
  const named = new Set(only);
  const contenders = Object.keys(CONTENDERS).filter((name) => named.delete(name));
  const known = SCENARIOS.map((scenario) =>
    withBefore(withPeers(scenario, (name) => values.peers || only.includes(name))),
  );
  const byName = known.filter(({ name }) => named.delete(name));
  if (named.size > 0)
    refuse(
      `--only knows ${[...SCENARIOS.map((scenario) => scenario.name), ...Object.keys(CONTENDERS)].join(", ")}`,
    );
  const candidates = byName.length > 0 ? byName : known.filter(({ usual }) => usual || values.all);
  if (contenders.length === 0) return candidates;
  return candidates
    .map((scenario) => ({
      ...scenario,
      contenders: scenario.contenders.filter(
        (name) => contenders.includes(name) || name === subjectOf(scenario),
      ),
    }))
    .filter((scenario) => scenario.contenders.some((name) => contenders.includes(name)));
}

/** The commit before takes part wherever the program from source does. */
function withBefore(scenario: Scenario): Scenario {
  if (BEFORE === undefined || !scenario.contenders.includes("ours")) return scenario;
  return { ...scenario, contenders: [...scenario.contenders, "before"] };
}

function withPeers(scenario: Scenario, isWanted: (name: PeerName) => boolean): Scenario {
  return {
    ...scenario,
    contenders: [...scenario.contenders, ...(scenario.peers ?? []).filter(isWanted)],
  };
}

/** What of the scenarios is left without those, and without contenders whose program is not there. */
function without(all: readonly Scenario[], left: ReadonlyMap<string, string>): readonly Scenario[] {
  const isHere = (name: ContenderName) => {
    const { needs } = CONTENDERS[name];
    return !left.has(name) && (needs === undefined || Bun.which(needs) !== null);
  };
  return all.map((scenario) => ({ ...scenario, contenders: scenario.contenders.filter(isHere) }));
}

/** Installs the peers that take part. Those that cannot be had are said, and an error where they were named. */
async function peersOf(all: readonly Scenario[]): Promise<Prepared> {
  const taking = new Set(all.flatMap(({ contenders }) => contenders));
  const prepared = await preparePeers(PEER_NAMES.filter((name) => taking.has(name)));
  for (const [name, why] of prepared.leftOut) process.stderr.write(`left out: ${name}: ${why}\n`);
  if (values.only.some((name) => prepared.leftOut.has(name as PeerName))) process.exit(1);
  return prepared;
}

async function measure({ name, kind }: Scenario, contender: ContenderName): Promise<Run> {
  try {
    return await kind.measure(contender, {
      ...{ folder: folder.path, seed },
      ...{ warmUpMs: WARM_UP_MS, measureMs: MEASURE_MS },
    });
  } catch (error) {
    throw new Error(`${name}, ${contender}`, { cause: error });
  }
}

endTogether();
const peers = await peersOf(wanted);
const scenarios = without(wanted, peers.leftOut);
stayWithGenerators();
const folder = await storeFolder();
try {
  const node = scenarios.some(({ contenders }) =>
    contenders.some((name) => CONTENDERS[name].needs === "node"),
  );
  const machine = describeMachine(folder.path, { node });
  console.log(showMachine(machine));
  if (IN_MEMORY.has(machine.fileSystem)) console.log("THE STORES LIE IN MEMORY: an fsync costs nothing here");
  console.log(
    `seed ${seed}, ${rounds} rounds, each run a fresh process and store: ${WARM_UP_MS} ms to warm up, then ${MEASURE_MS} ms (where no other time is named) and the drain\n`,
  );
  console.log(`${showContenders([...new Set(scenarios.flatMap(({ contenders }) => contenders))])}\n`);
  if (peers.ready.size + peers.leftOut.size > 0) console.log(`${showPeers(peers)}\n`);

  const runs = new Map<Scenario, Run[]>(scenarios.map((scenario) => [scenario, []]));
  for (let round = 1; round <= rounds; round += 1) {
    for (const scenario of scenarios) {
      // Every other round backwards, so that nobody always follows the same neighbour.
      const order = round % 2 === 1 ? scenario.contenders : scenario.contenders.toReversed();
      for (const contender of order) {
        const done = await measure(scenario, contender);
        runs.get(scenario)?.push(done);
        const [figure] = scenario.kind.figures;
        const value = figure === undefined ? null : done.figures[figure.name];
        process.stderr.write(
          `round ${round} ${scenario.name} ${contender}: ${value?.toPrecision(4)} ${figure?.name}\n`,
        );
      }
    }
  }

  const reports = scenarios.map((scenario) => reportOn(scenario, runs.get(scenario) ?? []));
  for (const report of reports) console.log(`${showScenario(report)}\n`);
  console.log(showVerdicts(reports));
  if (values.json !== undefined) {
    const every = Object.fromEntries([...runs].map(([{ name }, list]) => [name, list]));
    const written = {
      machine,
      peers: { versions: Object.fromEntries(peers.ready), leftOut: Object.fromEntries(peers.leftOut) },
      seed,
      rounds,
      warmUpMs: WARM_UP_MS,
      measureMs: MEASURE_MS,
      reports,
      runs: every,
    };
    await Bun.write(values.json, `${JSON.stringify(written, null, 2)}\n`);
  }
  const faults = reports.flatMap((report) => report.faults);
  for (const fault of faults) console.error(`FAULT ${fault}`);
  process.exitCode = faults.length > 0 ? 1 : 0;
} finally {
  await folder.remove();
}
