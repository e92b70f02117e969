/**
 * What the world outside the service knows: what was said and answered, and what each member was shown. It knows nothing
 * of how the service works, and notes at once what no honest service can do.
 */

import type { WireMessage } from "../../fixture/member.ts";
import { faultOfRefusal, isRetryable, leavesUnknown, type Refusal } from "./refusals.ts";
import type { Watch } from "./watch.ts";

export type ViolationKind =
  | "lost" // acked, and not there as it was acked
  | "twice" // stored or shown more than once
  | "reordered"
  | "hole"
  | "unsaid" // shown, and not in the history
  | "missed" // in the history, and not shown to a member
  | "early" // acked or shown before it was on disk
  | "refused yet stored"
  | "wrong answer"
  | "unanswered"
  | "untold" // a member from before a reset of the store was let in, or shown something, without being told
  | "let in" // a process came up on a store that it must not serve
  | "cut off" // the service closed a connection that it had no reason to close
  | "slow to recover"
  | "stuck"
  | "not felt" // the harness's own: a fault that changed nothing
  | "ended";

export interface Violation {
  readonly kind: ViolationKind;
  readonly what: string;
}

/** One message that a speaker wants to say. */
export interface Said {
  readonly room: string;
  readonly userId: string;
  /** Unique: by it a message is known again. */
  readonly text: string;
  /** Without one it is sent only once. */
  readonly clientId: string | null;
  /** The service must refuse it for good, with this code. */
  readonly mustRefuse: string | null;
  readonly firstSentAt: number;
  /** Answers that leave open whether it was stored, a broken connection included. */
  unknowns: number;
  acked: { readonly id: string; readonly seq: number; readonly afterMs: number } | null;
}

export type Answer =
  | {
      readonly kind: "acked";
      readonly id: string;
      readonly seq: number;
      readonly timestamp: string;
      readonly duplicate: boolean;
    }
  | ({ readonly kind: "refused" } & Refusal)
  // The client sent it on a connection where it could not say it yet: refused for sure, and not for good.
  | { readonly kind: "ahead" }
  | { readonly kind: "broken" };

/** A connection that was not ended from this side. */
export interface Break {
  readonly who: string;
  readonly why: string;
  readonly at: number;
}

/** The service's clock can be as far away from ours when no fault has set it. */
const CLOCK_AWAY_MS = 30 * 60_000;

/** What is compared of a message, in one line. */
export const fingerprint = ({ id, seq, user_id, message, timestamp, received_at }: WireMessage) =>
  `${seq} ${id} ${user_id} ${timestamp} ${received_at} ${Bun.hash(message).toString(36)}`;

/** By which way a member was shown a message. */
export type Way = "live" | "replayed" | "read on";

/** How many of the last things that happened to a member are told with what went wrong. */
const TRAIL_MAX = 24;

/** What one member was shown of one room: everything from the number after `start`, if the service is honest. */
export interface Sightings {
  readonly member: string;
  readonly room: string;
  start: number;
  shown: string[];
  /** How often the store had been reset when it began. */
  readonly resets: number;
  /** The member was told that the store is another: nothing more is to come. */
  isOver: boolean;
  readonly last: number;
}

/** What a copy of the store must have, once it is put back. */
export interface Backup {
  readonly acked: ReadonlySet<string>;
  /** How much of each sighting was shown. */
  readonly shown: ReadonlyMap<Sightings, number>;
}

export type Ledger = ReturnType<typeof createLedger>;

export function createLedger(watch: Watch) {
  const said = new Map<string, Said>();
  const violations: Violation[] = [];
  const sightings: (Sightings & { last: number })[] = [];
  /** How often each code was answered; "none" where the connection broke first. */
  const refusals = new Map<string, number>();
  /** Numbers that one connection's sends got, by the order of their emission. */
  const emissions = new Map<string, { readonly order: number; readonly seq: number }[]>();
  /** Since when no sync of the disk ends; null while they do. */
  let gateFrom: number | null = null;
  let acks = 0;
  let newestAckedAt = Number.NEGATIVE_INFINITY;
  let strangeTimes = 0;
  const breaks: Break[] = [];
  /** How often an operator or another program has changed what the store holds, and how often a member was told so. */
  let [resets, told] = [0, 0];
  let mayGoOn = false;
  /** Rooms were emptied, and the store has not begun anew since: they may begin behind any number. */
  let wasEmptied = false;
  /** The last things that happened to each member, oldest first. */
  const trails = new Map<string, string[]>();

  const note = (member: string, what: string) => {
    const trail = trails.get(member) ?? [];
    trails.set(member, trail);
    trail.push(`${Math.round(performance.now())} ${what}`);
    if (trail.length > TRAIL_MAX) trail.shift();
  };

  const violated = (kind: ViolationKind, what: string) => {
    if (violations.filter((other) => other.kind === kind).length < 5) violations.push({ kind, what });
    watch.changed();
  };

  /** A client was refused something, rightly or not: the refusal must be as the contract says. */
  const refused = (what: string, refusal: Refusal) => {
    const fault = faultOfRefusal(refusal);
    if (fault !== undefined) violated("wrong answer", `${what} was refused with ${refusal.code}: ${fault}`);
  };

  const early = (entry: Said, done: string) => {
    if (gateFrom !== null && entry.firstSentAt > gateFrom)
      violated("early", `"${label(entry.text)}" was ${done} while no sync ended`);
  };

  return {
    violations,
    said,
    sightings,
    refusals,
    emissions,
    violated,
    breaks,
    /** Something happened to a member that its trail should tell. */
    note,
    acks: () => acks,
    /** When the youngest message was first said that has its ack. */
    newestAckedAt: () => newestAckedAt,
    /** The highest number that was acked in the room. */
    newestSeq: (room: string) =>
      Math.max(0, ...[...said.values()].map((entry) => (entry.room === room ? (entry.acked?.seq ?? 0) : 0))),
    /** How many messages were stored with a time that is far from ours. */
    strangeTimes: () => strangeTimes,
    /** The shortest time to an ack, of the messages that were first said since then; infinite where there is none. */
    quickestAckMs: (since: number) =>
      Math.min(
        Number.POSITIVE_INFINITY,
        ...[...said.values()].flatMap(({ firstSentAt, acked }) =>
          acked !== null && firstSentAt > since ? [acked.afterMs] : [],
        ),
      ),
    broke(who: string, why: string) {
      breaks.push({ who, why, at: performance.now() });
      watch.changed();
    },
    refused,
    /** So many writes were lost with the power. */
    lost(writes: number) {
      refusals.set("writes lost", (refusals.get("writes lost") ?? 0) + writes);
    },
    delivered: () => sightings.reduce((sum, { shown }) => sum + shown.length, 0),

    /** What a copy of the store that is made now must have. Nothing may be on its way to the store. */
    backUp: (): Backup => ({
      acked: new Set([...said.values()].flatMap(({ acked, text }) => (acked === null ? [] : [text]))),
      shown: new Map(sightings.map((seen) => [seen, seen.shown.length])),
    }),
    /**
     * The store holds what the copy has, or nothing where there is none. What was acked since then is gone by an operator's
     * hand, as if it had never been acked, and members from before must be told when they come back.
     * @param goOn the rooms may go on with their numbers, and then no member need be told
     */
    putBack(backup: Backup | null, goOn = false): void {
      resets += 1;
      mayGoOn = goOn;
      wasEmptied = goOn || (backup !== null && wasEmptied);
      for (const entry of said.values()) {
        if (entry.acked === null || backup?.acked.has(entry.text)) continue;
        entry.acked = null;
        entry.unknowns += 1;
      }
      for (const seen of sightings) {
        seen.shown = seen.shown.slice(0, backup?.shown.get(seen) ?? 0);
        if (backup === null) seen.start = seen.last;
      }
      emissions.clear();
    },
    /** How often an operator or another program has changed what the store holds. */
    resets: () => resets,
    /** Whether a member need not be told of the last time, where its rooms go on with their numbers. */
    mayGoOn: () => mayGoOn,
    /** Whether the beginnings of rooms may be gone. */
    wasEmptied: () => wasEmptied,
    /** How often a member that had been there before was told of it. */
    told: () => told,
    /**
     * A member from before the last reset has joined again.
     * @returns whether it begins anew; where not, its sighting goes on
     */
    joinedAgain(
      seen: Sightings,
      joined: { readonly seq: number; readonly recovered?: boolean; readonly reason?: string },
    ): boolean {
      if (joined.recovered === false) {
        told += 1;
        seen.isOver = true;
        return true;
      }
      if (!mayGoOn || joined.seq < seen.last)
        violated(
          "untold",
          `${seen.member} came back to ${seen.room} after ${seen.last} and was not told that the store is another (it is at ${joined.seq})`,
        );
      return false;
    },

    /** From now on nothing that is sent can reach the disk. */
    gateDisk(closed: boolean) {
      gateFrom = closed ? performance.now() : null;
    },

    speak(draft: Pick<Said, "room" | "userId" | "text" | "clientId" | "mustRefuse">): Said {
      const entry: Said = { ...draft, firstSentAt: performance.now(), unknowns: 0, acked: null };
      said.set(entry.text, entry);
      return entry;
    },

    /** @param emission the connection it was sent by, and its place among what that connection sent */
    answered(
      entry: Said,
      answer: Answer,
      emission?: { readonly connection: string; readonly order: number },
    ): void {
      const name = `"${label(entry.text)}"`;
      if (answer.kind === "broken") {
        entry.unknowns += 1;
        refusals.set("none", (refusals.get("none") ?? 0) + 1);
      }
      if (answer.kind === "refused") {
        refusals.set(answer.code, (refusals.get(answer.code) ?? 0) + 1);
        refused(name, answer);
        if (leavesUnknown(answer.code)) entry.unknowns += 1;
        else if (!isRetryable(answer.code) && answer.code !== entry.mustRefuse)
          violated("wrong answer", `${name} was refused for good: ${answer.code}`);
      }
      if (answer.kind === "ahead") refusals.set("not_in_room", (refusals.get("not_in_room") ?? 0) + 1);
      if (answer.kind === "acked") {
        acks += 1;
        newestAckedAt = Math.max(newestAckedAt, entry.firstSentAt);
        const { id, seq, timestamp, duplicate } = answer;
        if (!duplicate && Math.abs(Date.parse(timestamp) - Date.now()) > CLOCK_AWAY_MS) strangeTimes += 1;
        if (entry.mustRefuse !== null)
          violated("wrong answer", `${name} was acked instead of refused: ${entry.mustRefuse}`);
        if (entry.acked !== null && (entry.acked.id !== id || entry.acked.seq !== seq))
          violated("twice", `${name} was acked as ${entry.acked.seq} and as ${seq}`);
        if (entry.acked !== null && !duplicate)
          violated("twice", `${name} was acked as new again, at ${seq}`);
        if (entry.acked === null && duplicate && entry.unknowns === 0)
          violated("wrong answer", `${name} was called a duplicate when it was first sent`);
        entry.acked ??= { id, seq, afterMs: performance.now() - entry.firstSentAt };
        early(entry, "acked");
        if (emission !== undefined && !duplicate) {
          const key = `${emission.connection} ${entry.room}`;
          const known = emissions.get(key);
          const place = { order: emission.order, seq };
          if (known === undefined) emissions.set(key, [place]);
          else known.push(place);
        }
      }
      watch.changed();
    },

    /** A member that begins to be shown a room. */
    sight(member: string, room: string, start: number) {
      const seen: Sightings & { last: number } = {
        ...{ member, room, start, shown: [], resets, isOver: false, last: start },
      };
      sightings.push(seen);
      return {
        seen,
        /** The member is shown this message. */
        show(message: WireMessage, way: Way): void {
          const seq = message.seq ?? 0;
          note(member, `${seq} of ${room} ${way}`);
          const trail = () => `; its trail: ${trails.get(member)?.join(", ")}`;
          // A room that another program emptied goes on behind a number that none has exceeded.
          if (seen.resets < resets && mayGoOn && seen.shown.length === 0 && seq > seen.last)
            [seen.start, seen.last] = [seq - 1, seq - 1];
          if (seen.resets < resets && !mayGoOn)
            violated(
              "untold",
              `${member} was shown ${seq} of ${room}, which is of another epoch than it joined${trail()}`,
            );
          else if (seq > seen.last + 1)
            violated("hole", `${member} was shown ${seq} after ${seen.last} in ${room}${trail()}`);
          else if (seq === seen.last)
            violated("twice", `${member} was shown ${seq} twice in ${room}${trail()}`);
          else if (seq < seen.last)
            violated("reordered", `${member} was shown ${seq} after ${seen.last} in ${room}${trail()}`);
          seen.last = seq;
          seen.shown.push(fingerprint(message));
          const entry = said.get(message.message);
          if (entry === undefined)
            violated("unsaid", `${member} was shown "${label(message.message)}", which nobody said`);
          else early(entry, `shown to ${member}`);
          watch.changed();
        },
      };
    },
  };
}

/** Enough of a text to know it by. */
export const label = (text: string) => text.slice(0, 40).trim();
