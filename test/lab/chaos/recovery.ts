/** How soon a service answers again after a fault: in its own time, without that in which the database answers no client. */

import { beginStretch, type Stretch } from "./cores.ts";
import { httpVoice } from "./speaker.ts";
import type { Stage } from "./stage.ts";

/** From the end of a group's last fault to the first message acked by every service, less what the database was away. */
export interface Recovery extends Stretch {
  /** For how long of that the database did not answer the witness either, though its fault had ended. */
  readonly databaseAwayMs: number;
}

/** Of a service's own time. */
export const RECOVERY_MS = 1_000;
/** By the clock, however busy the machine is: a service that is not back by then is stuck. */
const RECOVERY_GIVEN_UP_MS = 8_000;
/** A database that hangs for so long, over all its hangs together, is stuck itself, and the run is worth nothing. */
const DATABASE_GIVEN_UP_MS = 60_000;
/** Most recoveries take less; a witness would only stand in line before the service. What it has not seen is not excused. */
const WITNESS_AFTER_MS = 500;
const LOOK_MS = 250;

/**
 * Every service acks again within a second of its own time. With one service the first ack of anybody counts whose message
 * was first said after the fault: one of ours may stand behind what piled up meanwhile, and one that was on its way before
 * says nothing of those that come.
 */
export async function recover(
  stage: Stage,
  databaseGivenUpMs: number = DATABASE_GIVEN_UP_MS,
): Promise<Recovery> {
  const { ledger, services, watch, onTheWay } = stage;
  const over = performance.now();
  const stretch = beginStretch(onTheWay(services));
  let [awayMs, isJudged] = [0, false];
  /** From the question that failed to its answer: what the service did before is its own. */
  const excuse = (since: number) => {
    const from = Math.max(since, over);
    stretch.excuse(from);
    awayMs += performance.now() - from;
  };
  const witness = stage.callWitness(WITNESS_AFTER_MS, (since) => {
    if (!isJudged) excuse(since);
  });
  const databaseAwayMs = () => awayMs + performance.now() - (witness?.waitingSince() ?? performance.now());
  const isOver = () =>
    databaseAwayMs() > databaseGivenUpMs ||
    performance.now() - over - databaseAwayMs() > RECOVERY_GIVEN_UP_MS;
  const isFirstAcked = () => ledger.newestAckedAt() > over;
  const first = async () => {
    while (!(await watch.until(isFirstAcked, LOOK_MS)) && !isOver());
    return isFirstAcked();
  };
  const asked = Promise.all(services.map(({ url }, index) => probe(stage, `prober${index}`, url, isOver)));
  const isBack = services.length === 1 ? await first() : !(await asked).includes(false);
  isJudged = true;
  const since = witness?.waitingSince() ?? null;
  if (since !== null) excuse(since);
  const { wallMs, ownMs } = stretch.end();
  const recovery = { wallMs: wallMs - awayMs, ownMs, databaseAwayMs: awayMs };
  if (!isBack && awayMs > databaseGivenUpMs)
    ledger.violated("stuck", `MongoDB itself answered nobody for ${Math.round(awayMs)} ms`);
  else if (!isBack || ownMs > RECOVERY_MS || recovery.wallMs >= RECOVERY_GIVEN_UP_MS)
    ledger.violated(
      "slow to recover",
      `the first ack came ${Math.round(recovery.wallMs)} ms after the fault had ended, ${Math.round(ownMs)} ms of that were the service's own (limit ${RECOVERY_MS} ms)${witness === null ? "" : `; MongoDB answered a witness ${witness.answers()} times meanwhile, and nobody for ${Math.round(awayMs)} ms`}`,
    );
  await Promise.all([asked, witness?.end()]);
  return recovery;
}

/** Says something to a service again and again. Resolves with whether it was acked before time was up. */
async function probe(
  { ledger, rooms }: Stage,
  name: string,
  url: string,
  isOver: () => boolean,
): Promise<boolean> {
  const voice = httpVoice(name, url, ledger);
  const text = `${name} asks ${Bun.randomUUIDv7()}`;
  const draft = { room: rooms[0] as string, userId: name, text, clientId: text, mustRefuse: null };
  const entry = ledger.speak(draft);
  while (entry.acked === null && !isOver()) {
    await voice.say(entry);
    if (entry.acked === null) await Bun.sleep(10);
  }
  return entry.acked !== null;
}
