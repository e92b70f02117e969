/** Plays one plan: load, faults, recovery, quiet, judgement. */

import { beginStretch } from "./cores.ts";
import { breaksUnexplained, type Round } from "./breaks.ts";
import type { Course } from "./fault.ts";
import { type FaultName, faultOf } from "./faults.ts";
import { historiesAt, judge } from "./judge.ts";
import { type Violation, label } from "./ledger.ts";
import { type Group, type Plan, faultCount } from "./plan.ts";
import { recover, type Recovery } from "./recovery.ts";
import { allShown, openStage, type Stage, type StageOptions } from "./stage.ts";
import { httpVoice } from "./speaker.ts";
import type { Supervised } from "./supervised.ts";
import { crowding } from "./watch.ts";

export interface Outcome {
  readonly plan: Plan;
  readonly faults: number;
  readonly acked: number;
  readonly delivered: number;
  readonly joins: number;
  readonly recoveries: readonly Recovery[];
  readonly refusals: Readonly<Record<string, number>>;
  readonly slowDisconnected: number;
  readonly seconds: number;
  readonly violations: readonly Violation[];
  /** What the services complained of, when something was wrong. */
  readonly complaints: readonly string[];
}

/** Acks that must come while nothing is at fault. */
const PROGRESS_MS = 20_000;
const HEALTH_MS = 1_000;
/** For so long a fault alone goes on until it is felt. */
const FELT_MS = 10_000;
const FELT_LOOK_MS = 20;

/** Never rejects: a plan that cannot be played at all has found something too. */
export async function play(plan: Plan, options: StageOptions): Promise<Outcome> {
  try {
    return await playOn(await openStage(plan, options), plan, options);
  } catch (error) {
    const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return {
      ...{ plan, faults: 0, acked: 0, delivered: 0, joins: 0, recoveries: [] },
      ...{ refusals: {}, slowDisconnected: 0, seconds: 0, complaints: [] },
      violations: [{ kind: "ended", what }],
    };
  }
}

async function playOn(stage: Stage, plan: Plan, options: StageOptions): Promise<Outcome> {
  const began = performance.now();
  const { ledger, services } = stage;
  const recoveries: Recovery[] = [];
  const health = watchHealth(stage);
  try {
    for (const group of plan.groups) {
      // What is broken already is judged as it is.
      if (ledger.violations.length > 0) break;
      await progress(stage, group.acks);
      await playGroup(stage, group, faultCount(plan) === 1);
      recoveries.push(await recover(stage, options.databaseGivenUpMs));
      stage.lateComer();
    }
    await progress(stage, 60);
    const isAtRest = await comeToRest(stage);
    if (isOnlyDisk(plan)) judgeBreaks(stage, health.rounds);
    await judge(ledger, historiesAt((services[0] as Supervised).url), stage.rooms, isAtRest);
  } catch (error) {
    ledger.violated("stuck", `the plan could not be played: ${error instanceof Error ? error.stack : error}`);
  } finally {
    await health.end();
    const failed = ledger.violations.length > 0;
    if (failed) for (const speaker of stage.speakers) void speaker.finish();
  }
  const outcome: Outcome = {
    plan,
    faults: faultCount(plan),
    acked: ledger.acks(),
    delivered: ledger.delivered(),
    joins: stage.residents.reduce((sum, resident) => sum + resident.joins(), 0),
    recoveries,
    refusals: Object.fromEntries(ledger.refusals),
    slowDisconnected: services.reduce((sum, { logged }) => sum + logged("slow_client_disconnected"), 0),
    seconds: (performance.now() - began) / 1_000,
    violations: [...ledger.violations],
    complaints: ledger.violations.length > 0 ? services.flatMap(({ complaints }) => complaints()) : [],
  };
  await stage.close();
  return outcome;
}

async function progress({ ledger, watch }: Stage, acks: number): Promise<void> {
  const goal = ledger.acks() + acks;
  const isOver = () => ledger.acks() >= goal || ledger.violations.length > 0;
  if (!(await watch.until(isOver, PROGRESS_MS * crowding())))
    ledger.violated(
      "stuck",
      `only ${acks - goal + ledger.acks()} of ${acks} acks came while nothing was at fault`,
    );
}

/** What the service stands on is at fault for as long as the fault lasts; a fault that does more counts that by itself. */
const isGround = (fault: FaultName) =>
  faultOf(fault).grounds.every((ground) => ground === "disk" || ground === "database");

const isOnlyDisk = ({ groups }: Plan) =>
  groups.every(({ steps }) =>
    steps.every(({ fault }) => faultOf(fault).grounds.every((ground) => ground === "disk")),
  );

/** @param alone nothing else hides the fault: it goes on until it is felt */
async function playGroup(stage: Stage, { steps }: Group, alone: boolean): Promise<void> {
  await Promise.all(
    steps.map(async (step) => {
      await Bun.sleep(step.afterMs);
      if (isGround(step.fault)) stage.countGroundFault(1);
      const course = await faultOf(step.fault).begin(stage, step);
      await Bun.sleep(step.holdMs);
      if (alone) await feel(stage, step.fault, course);
      await course.end();
      if (isGround(step.fault)) stage.countGroundFault(-1);
    }),
  );
}

/** A fault that changes nothing is none of the service's, but what it left whole was not tried either. */
async function feel({ ledger }: Stage, fault: FaultName, { felt }: Course): Promise<void> {
  const until = performance.now() + FELT_MS;
  while (!felt() && ledger.violations.length === 0) {
    if (performance.now() > until) return ledger.violated("not felt", `nobody noticed anything of ${fault}`);
    await Bun.sleep(FELT_LOOK_MS);
  }
}

/** Everybody finishes what they were saying, and everybody is shown all of it; then once more, one by one. */
async function comeToRest(stage: Stage): Promise<boolean> {
  const { ledger, speakers, rooms, services } = stage;
  const finished = await Promise.all(speakers.map((speaker) => speaker.finish()));
  if (finished.includes(false)) {
    const open = [...ledger.said.values()].filter(
      ({ acked, clientId, mustRefuse }) => !acked && clientId && !mustRefuse,
    );
    ledger.violated(
      "stuck",
      `no answer in the end: ${open
        .slice(0, 5)
        .map(({ text }) => label(text))
        .join(", ")}`,
    );
  }
  // What comes twice or late would come before these.
  const heads = new Map<string, number>();
  const voice = httpVoice("closer", (services[0] as Supervised).url, ledger);
  for (const room of rooms) {
    const text = `closer ends ${room}`;
    const entry = ledger.speak({ room, userId: "closer", text, clientId: text, mustRefuse: null });
    await voice.say(entry);
    heads.set(room, entry.acked?.seq ?? Number.POSITIVE_INFINITY);
  }
  const isShown = await allShown(stage, heads);
  if (!isShown) {
    const behind = stage.residents.flatMap((resident) =>
      [...heads]
        .filter(([room, seq]) => resident.last(room) < seq)
        .map(
          ([room, seq]) =>
            `${resident.name}${resident.isIn(room) ? "" : " (not in)"} ${resident.last(room)} of ${seq} in ${room}`,
        ),
    );
    ledger.violated("missed", `not everybody was shown everything: ${behind.slice(0, 8).join(", ")}`);
  }
  return isShown && !finished.includes(false);
}

function judgeBreaks({ ledger, services }: Stage, rounds: readonly Round[]): void {
  const logged = (event: string) => services.some((service) => service.logged(event) > 0);
  for (const { who, why } of breaksUnexplained(ledger.breaks, rounds, logged))
    ledger.violated("cut off", `${who} lost its connection while only the disk was at fault: ${why}`);
}

/** `GET /` never waits for the store: asked all the time, it is answered at once while the process runs. */
function watchHealth({ services, ledger, watch, onTheWay }: Stage) {
  const rounds: Round[] = [];
  let ended = false;
  const ask = async (service: Supervised) => {
    const { url, generation, isUp } = service;
    while (!ended) {
      const life = generation();
      // It waits for no stand-in.
      const over = beginStretch({ ...onTheWay([service]), standIns: [] });
      const round = { from: performance.now(), to: Number.POSITIVE_INFINITY };
      rounds.push(round);
      const wasUp = isUp();
      const fault = await fetch(url, { signal: AbortSignal.timeout(20_000) })
        .then(async (response) => {
          await response.text();
          return response.ok ? null : `answered ${response.status}`;
        })
        .catch((error: Error) => `failed: ${error.message}`);
      const { wallMs, ownMs } = over.end();
      round.to = performance.now();
      if (wasUp && isUp() && generation() === life) {
        if (fault !== null) ledger.violated("stuck", `GET / ${fault}`);
        else if (ownMs > HEALTH_MS)
          ledger.violated(
            "stuck",
            `GET / took ${Math.round(wallMs)} ms, ${Math.round(ownMs)} ms of them the service's own (limit ${HEALTH_MS})`,
          );
      }
      await watch.until(() => ended, 150);
    }
  };
  const asking = services.map(ask);
  return {
    /** Each question, from when to when. */
    rounds,
    async end() {
      ended = true;
      watch.changed();
      await Promise.all(asking);
    },
  };
}
