/**
 * Connections that the service had no reason to close. A disk that fails is answered, not hung up on; who is slow is let go
 * and logged, and who seems dead as Engine.IO pings is let go too: both can happen on a busy machine.
 */

import type { Break } from "./ledger.ts";

/** A question that is answered at once while both sides run, from when to when. */
export interface Round {
  readonly from: number;
  readonly to: number;
}

/** With these events the service says why it closes a connection. */
const REASONS = [
  "slow_client_disconnected",
  "engine_abuse_closed",
  "delivery_failed",
  "room_epoch_changed",
  "room_gap_gone",
];

/** Longer than a ping and its timeout take together (stage.ts). */
const WITHIN_MS = 3_000;
/** Half a ping's timeout: where questions are answered sooner, no ping is overdue. */
const QUICK_MS = 600;

/** @param logged whether the service logged such an event */
export function breaksUnexplained(
  breaks: readonly Break[],
  rounds: readonly Round[],
  logged: (event: string) => boolean,
): Break[] {
  if (REASONS.some(logged)) return [];
  const slow = rounds.filter(({ from, to }) => to - from > QUICK_MS);
  return breaks.filter(({ at }) => !slow.some(({ from, to }) => from <= at && to >= at - WITHIN_MS));
}
