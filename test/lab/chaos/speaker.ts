/** A speaker: says each message again with the same name until it is answered, through every fault, by event or by POST. */

import { LIMITS } from "../../../src/limits.ts";
import type { WireMessage } from "../../fixture/member.ts";
import type { Chance } from "./chance.ts";
import type { Answer, Ledger, Said } from "./ledger.ts";
import { isRetryable, readRefusal } from "./refusals.ts";
import { answerMs, type Resident } from "./resident.ts";
import { crowding, type Watch } from "./watch.ts";

/** One way to reach the service. */
export interface Voice {
  readonly name: string;
  /** What it is told when its message is not a valid one. */
  readonly invalidCode: string;
  /** Whether a try makes sense now. */
  canSpeak(room: string): boolean;
  say(entry: Said): Promise<Answer>;
}

export interface SpeakerOptions {
  readonly voice: Voice;
  readonly rooms: readonly string[];
  readonly ledger: Ledger;
  readonly watch: Watch;
  readonly chance: Chance;
  /** Messages without an answer at once. */
  readonly inFlight: number;
  /** Between an answer and the next message of the same slot. */
  readonly paceMs: () => number;
}

export interface Speaker {
  /** Says so many messages more at once, each of about that size. */
  burst(count: number, bytes: number): void;
  /** Says nothing new until `goOn`. Resolves with whether everything said has its answer; it never takes longer than the ceiling. */
  pause(): Promise<boolean>;
  goOn(): void;
  /** Says nothing new. Resolves with whether everything said has its answer; it never takes longer than the ceiling. */
  finish(): Promise<boolean>;
}

/** Between two tries of one message. */
const RETRY_MS = 40;
/** Once everything is well again a message is answered long before this. */
const FINISH_MS = 20_000;
const GIVE_UP_MS = 2_000;
/** Bytes that no service takes. */
const TOO_LONG = 20_000;

export const socketVoice = (resident: Resident): Voice => ({
  name: resident.name,
  invalidCode: "invalid_payload",
  canSpeak: resident.isIn,
  say: (entry) =>
    resident.say(entry, {
      room: entry.room,
      user_id: entry.userId,
      message: entry.text,
      ...(entry.clientId === null ? {} : { client_id: entry.clientId }),
    }),
});

export function httpVoice(name: string, url: string, ledger: Ledger): Voice {
  async function post(entry: Said): Promise<Answer> {
    const response = await fetch(`${url}/rooms/${encodeURIComponent(entry.room)}/messages`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(entry.clientId === null ? {} : { "idempotency-key": entry.clientId }),
      },
      body: JSON.stringify({ user_id: entry.userId, message: entry.text }),
      signal: AbortSignal.timeout(answerMs()),
    });
    if (response.ok) {
      const { id, seq, timestamp } = (await response.json()) as WireMessage & { seq: number };
      return { kind: "acked", id, seq, timestamp, duplicate: response.status === 200 };
    }
    return { kind: "refused", ...(await readRefusal(response)) };
  }
  return {
    name,
    invalidCode: "invalid_request",
    canSpeak: () => true,
    async say(entry) {
      const answer = await post(entry).catch((error: Error): Answer => {
        if (error.name === "TimeoutError")
          ledger.violated("unanswered", `${name} got no answer to its POST "${entry.text.slice(0, 40)}"`);
        else ledger.broke(name, error.message);
        return { kind: "broken" };
      });
      ledger.answered(entry, answer);
      return answer;
    },
  };
}

export function createSpeaker(options: SpeakerOptions): Speaker {
  const { voice, rooms, ledger, watch, chance, inFlight, paceMs } = options;
  const acked: Said[] = [];
  let isFinishing = false;
  let count = 0;
  let unanswered = 0;

  function draft(bytes: number): Said {
    const text = `${voice.name} ${++count} `.padEnd(bytes, "x");
    // One in twenty has no name: it is sent once, whatever comes of it.
    const clientId = chance.onceIn(20) ? null : `${voice.name}-${count}`;
    return ledger.speak({ room: chance.oneOf(rooms), userId: voice.name, text, clientId, mustRefuse: null });
  }

  /** What no service may take, each unlike any other message. */
  function poison(): Said {
    count += 1;
    const text = `${voice.name} ${count} must be refused`;
    const base = { room: chance.oneOf(rooms), userId: voice.name, clientId: `${voice.name}-${count}` };
    const known = acked.findLast((entry) => entry.acked !== null);
    const kind = chance.oneOf(known === undefined ? ["long", "blank"] : ["long", "blank", "conflict"]);
    if (kind === "long")
      return ledger.speak({ ...base, text: text.padEnd(TOO_LONG, "x"), mustRefuse: "payload_too_large" });
    if (kind === "blank" || known === undefined)
      return ledger.speak({ ...base, userId: " ", text, mustRefuse: voice.invalidCode });
    return ledger.speak({
      ...base,
      room: known.room,
      clientId: known.clientId,
      text,
      mustRefuse: "conflict",
    });
  }

  async function tellOnce(entry: Said): Promise<Answer> {
    await watch.until(() => voice.canSpeak(entry.room), FINISH_MS);
    return voice.canSpeak(entry.room) ? voice.say(entry) : { kind: "broken" };
  }

  /** Until it is acked, or refused as it must be. */
  async function tell(entry: Said): Promise<void> {
    unanswered += 1;
    for (;;) {
      const answer = await tellOnce(entry);
      if (answer.kind === "acked") {
        if (entry.mustRefuse === null && entry.clientId !== null) acked.push(entry);
        break;
      }
      if (answer.kind === "refused" && !isRetryable(answer.code)) break;
      if (entry.clientId === null || gaveUp) break;
      await Bun.sleep(answer.kind === "refused" ? Math.max(RETRY_MS, answer.retryAfterMs ?? 0) : RETRY_MS);
    }
    unanswered -= 1;
    watch.changed();
  }

  async function repeat(entry: Said): Promise<void> {
    unanswered += 1;
    await tellOnce(entry);
    unanswered -= 1;
    watch.changed();
  }

  let gaveUp = false;
  let paused: PromiseWithResolvers<void> | undefined;
  async function speak(): Promise<void> {
    while (!isFinishing) {
      await paused?.promise;
      const known = chance.onceIn(15) ? acked.at(-chance.whole(1, 40)) : undefined;
      // Now and then a message that was acked is sent again, as after an answer that was lost.
      if (known !== undefined && known.acked !== null) await repeat(known);
      else await tell(chance.onceIn(30) ? poison() : draft(chance.whole(30, 600)));
      await Bun.sleep(paceMs());
    }
  }
  const slots = Array.from({ length: inFlight }, speak);

  return {
    burst(messages, bytes) {
      for (let n = 0; n < messages; n += 1) void tell(draft(Math.min(bytes, LIMITS.replayBytesMax)));
    },
    pause() {
      paused ??= Promise.withResolvers();
      return watch.until(() => unanswered === 0, FINISH_MS * crowding());
    },
    goOn() {
      paused?.resolve();
      paused = undefined;
    },
    async finish() {
      isFinishing = true;
      paused?.resolve();
      // Of a service that broke its promises already nothing more is expected.
      const withinMs = ledger.violations.length > 0 ? GIVE_UP_MS : FINISH_MS * crowding();
      const finished = await watch.until(() => unanswered === 0, withinMs);
      gaveUp = true;
      if (finished) await Promise.all(slots);
      return finished;
    },
  };
}
