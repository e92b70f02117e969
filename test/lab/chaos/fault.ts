/** What a fault is, and how the harness knows that it was felt. */

import type { Stage } from "./stage.ts";

export type StoreKind = "sqlite" | "mongodb";

export const BOTH: readonly StoreKind[] = ["sqlite", "mongodb"];

/** A fault that has begun. */
export interface Course {
  /** Whether it had an effect outside the harness: the service said so, a client was hit, or an ack did not come. */
  felt(): boolean;
  /** Ends it; resolves once what it broke is whole again. */
  end(): Promise<void> | void;
}

export interface FaultStep {
  /** How long it lasts, in milliseconds. */
  readonly holdMs: number;
  /** Which service, which cable, which clock: a choice of the plan. */
  readonly pick: number;
}

/** What a fault acts upon. */
export type Ground = "disk" | "database" | "process" | "clock" | "cable" | "crowd";

export interface Fault {
  readonly stores: readonly StoreKind[];
  /** Two faults that share a ground are not made at once. */
  readonly grounds: readonly Ground[];
  /** How long it may last when it is drawn, in milliseconds. */
  readonly holdMs: readonly [number, number];
  begin(stage: Stage, step: FaultStep): Promise<Course>;
}

/** From now on, whether some service logs one of these events. */
export function hears({ services }: Stage, ...events: readonly string[]): () => boolean {
  const count = () =>
    services.reduce((sum, { logged }) => sum + events.reduce((all, event) => all + logged(event), 0), 0);
  const before = count();
  return () => count() > before;
}

/** From now on, whether a client loses a connection. */
export function breaks({ ledger }: Stage): () => boolean {
  const before = ledger.breaks.length;
  return () => ledger.breaks.length > before;
}

/** How long a signal may be on its way to a program that runs. */
const SIGNAL_MS = 50;

/** From now on, whether what is said is stored no sooner than that. */
export function delays({ ledger }: Stage, ms: number): () => boolean {
  const since = performance.now() + SIGNAL_MS;
  return () => ledger.quickestAckMs(since) >= ms;
}

const LOOK_MS = 20;

/** Resolves with whether the condition came true within that time; it gives up where a promise is broken already. */
export async function comesTrue(
  { ledger }: Stage,
  condition: () => boolean,
  withinMs: number,
): Promise<boolean> {
  const until = performance.now() + withinMs;
  while (!condition() && performance.now() < until && ledger.violations.length === 0)
    await Bun.sleep(LOOK_MS);
  return condition();
}

const ACKS_MS = 8_000;

/** So many acks more, if they come. */
export function moreAcks(stage: Stage, count: number): Promise<boolean> {
  const goal = stage.ledger.acks() + count;
  return comesTrue(stage, () => stage.ledger.acks() >= goal, ACKS_MS);
}
