/** A whole fuzz: every surface in rounds against one running program, the canaries, and what is left of it all. */

import { createChance } from "../../fixture/chance.ts";
import { freshDatabase, startMongo } from "../../fixture/mongodb.ts";
import { endTogether, type Program, startProgram, temporaryFolder } from "../../fixture/program.ts";
import { sampleProcess, waitsBetween } from "../soak/samples.ts";
import { startCanary } from "./canary.ts";
import { cursors } from "./cursors.ts";
import { engineFrames } from "./engine-frames.ts";
import { environment } from "./environment.ts";
import { packets } from "./packets.ts";
import { parsers } from "./parsers.ts";
import { payloads } from "./payloads.ts";
import { requests } from "./requests.ts";
import { fuzz, type Surface, type SurfaceReport } from "./surface.ts";

export interface CampaignOptions {
  readonly seed: number;
  /** For each surface. */
  readonly inputs: number;
  /** After each round the program rests and is measured; memory is judged from three rounds on. */
  readonly rounds: number;
  readonly store: "sqlite" | "mongodb";
  /** Names of surfaces; empty: all. */
  readonly only: readonly string[];
}

/** The program with nobody connected. */
interface Rest {
  readonly residentMb: number;
  readonly descriptors: number;
  readonly waitsPerSecond: number;
}

export interface CampaignReport {
  readonly surfaces: readonly SurfaceReport[];
  readonly rests: readonly Rest[];
  readonly canaryMessages: number;
  readonly faults: readonly string[];
}

export const SURFACES = [
  "engine",
  "packets",
  "payloads",
  "requests",
  "cursors",
  "environment",
  "parsers",
] as const;

/** What memory may have gained between the second rest and the last one. */
const MEMORY_GAIN_MB = 24;
/** MongoDB's driver keeps the connections that it once needed. */
const DESCRIPTORS_LEFT = { sqlite: 4, mongodb: 40 };
/** Sessions that were left behind would be pinged once a second each. */
const WAITS_LEFT_PER_SECOND = 30;
const REST_MS_MAX = 30_000;
const PING_INTERVAL_MS = 1_000;
const PING_TIMEOUT_MS = 8_000;

/** Lines of the log that no input may cause. */
const LOGGED_FAULT =
  /"level":"error"|"event":"(event_failed|request_failed|store_down)"|assertion failed|^error:/;

async function rest(
  program: Program,
  settleMs: number,
  descriptorsMax = Number.POSITIVE_INFINITY,
): Promise<Rest> {
  await Bun.sleep(settleMs);
  const deadline = performance.now() + REST_MS_MAX;
  for (;;) {
    const first = await sampleProcess(program.pid);
    const began = performance.now();
    await Bun.sleep(1_000);
    const second = await sampleProcess(program.pid);
    const { residentBytes, descriptors } = second;
    const waitsPerSecond = (waitsBetween(first, second) * 1_000) / (performance.now() - began);
    const isQuiet = descriptors <= descriptorsMax;
    if (isQuiet || performance.now() > deadline)
      return { residentMb: residentBytes / 1e6, descriptors, waitsPerSecond };
  }
}

export async function campaign(
  options: CampaignOptions,
  say: (line: string) => void,
): Promise<CampaignReport> {
  const folder = await temporaryFolder();
  const mongo = options.store === "mongodb" ? await startMongo() : undefined;
  const program = await startProgram({
    cwd: folder.path,
    env: {
      RATE_LIMIT: "off",
      DRAIN_MS: "0",
      LOG_LEVEL: "debug",
      PING_INTERVAL_MS: String(PING_INTERVAL_MS),
      PING_TIMEOUT_MS: String(PING_TIMEOUT_MS),
      ...(mongo !== undefined && { MONGODB_URI: mongo.uri, MONGODB_DB_NAME: freshDatabase() }),
    },
  });
  endTogether(program);
  try {
    return await against(program, options, say);
  } finally {
    await program.end("SIGKILL");
    await mongo?.stop();
    await folder.remove();
  }
}

async function against(
  program: Program,
  { seed, inputs, rounds, store, only }: CampaignOptions,
  say: (line: string) => void,
): Promise<CampaignReport> {
  const faults: string[] = [];
  let hasEnded = false;
  void program.exited.then(() => {
    hasEnded = true;
  });
  const all = [
    engineFrames(program.port),
    packets(program.port),
    payloads(program.port),
    requests(program.port),
    cursors(program.url),
    environment,
    parsers,
  ] as unknown as readonly Surface[];
  const surfaces = all.filter(({ name }) => only.length === 0 || only.includes(name));
  const chances = new Map(
    surfaces.map(({ name }) => [name, createChance(seed ^ (SURFACES.indexOf(name as "engine") << 24))]),
  );

  await (await fetch(program.url)).arrayBuffer();
  const before = await rest(program, 0);
  const canary = await startCanary(program.url);
  const reports = new Map<string, SurfaceReport>();
  const rests: Rest[] = [];
  // The canaries' own two connections, and one for what fetch keeps open.
  const descriptorsMax = before.descriptors + DESCRIPTORS_LEFT[store];
  let read = 0;

  for (let round = 1; round <= rounds; round += 1) {
    for (const surface of surfaces) {
      const share = Math.floor((inputs * round) / rounds) - Math.floor((inputs * (round - 1)) / rounds);
      const own = chances.get(surface.name);
      if (own === undefined || hasEnded) continue;
      const report = await fuzz(surface, share, own, () => !hasEnded);
      reports.set(surface.name, joined(reports.get(surface.name), report));
      const output = program.output();
      for (const line of output
        .slice(read)
        .split("\n")
        .filter((said) => LOGGED_FAULT.test(said))
        .slice(0, 5))
        faults.push(`${surface.name}: logged ${line.slice(0, 600)}`);
      read = output.length;
      say(
        `round ${round} ${surface.name}: ${report.inputs} inputs in ${report.seconds.toFixed(1)} s, ${reports.get(surface.name)?.outcomes.size} outcomes, ${report.findings.length} findings`,
      );
    }
    if (hasEnded) break;
    if (rounds > 1) {
      rests.push(await rest(program, PING_INTERVAL_MS + PING_TIMEOUT_MS + 1_000, descriptorsMax + 3));
      say(`rest ${round}: ${JSON.stringify(rests.at(-1))}`);
    }
  }
  if (hasEnded) {
    faults.push(`the program ended: ${program.output().slice(-1_500)}`);
    return { surfaces: [...reports.values()], rests, canaryMessages: canary.acked, faults };
  }
  await canary.stop();
  faults.push(...canary.faults);
  const after = await rest(program, rounds > 1 ? PING_INTERVAL_MS + PING_TIMEOUT_MS : 0, descriptorsMax);
  rests.push(after);
  faults.push(...leftOver({ before, after, rests, descriptorsMax, isLong: rounds > 1 }));
  const code = await program.end();
  if (code !== 0) faults.push(`the program ended with ${code}: ${program.errors().slice(0, 500)}`);
  return { surfaces: [...reports.values()], rests, canaryMessages: canary.acked, faults };
}

interface Left {
  readonly before: Rest;
  readonly after: Rest;
  readonly rests: readonly Rest[];
  readonly descriptorsMax: number;
  readonly isLong: boolean;
}

function leftOver({ before, after, rests, descriptorsMax, isLong }: Left): string[] {
  const faults: string[] = [];
  if (after.descriptors > descriptorsMax)
    faults.push(`descriptors: ${before.descriptors} before, ${after.descriptors} after`);
  if (!isLong) return faults;
  if (after.waitsPerSecond > before.waitsPerSecond + WAITS_LEFT_PER_SECOND)
    faults.push(
      `timers: woken ${before.waitsPerSecond.toFixed(0)} times a second before, ${after.waitsPerSecond.toFixed(0)} after`,
    );
  const [, warm] = rests;
  if (rests.length > 3 && warm !== undefined && after.residentMb > warm.residentMb + MEMORY_GAIN_MB)
    faults.push(
      `memory: ${warm.residentMb.toFixed(1)} MB after two rounds, ${after.residentMb.toFixed(1)} MB at the end`,
    );
  return faults;
}

function joined(earlier: SurfaceReport | undefined, report: SurfaceReport): SurfaceReport {
  if (earlier === undefined) return report;
  const outcomes = new Map(earlier.outcomes);
  for (const [outcome, count] of report.outcomes) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + count);
  const findings = new Map(
    [...report.findings, ...earlier.findings].map((finding) => [finding.what, finding]),
  );
  return {
    name: report.name,
    inputs: earlier.inputs + report.inputs,
    seconds: earlier.seconds + report.seconds,
    outcomes,
    findings: [...findings.values()],
  };
}
