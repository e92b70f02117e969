/**
 * A rate with a burst, as the generic cell rate algorithm (ITU-T I.371, Annex A): one number says when the sender would
 * be through if everything had come evenly; a burst is how far ahead of the clock that may lie. Pure.
 */

import { LIMITS } from "../limits.ts";

export interface Rate {
  /** How many a second. */
  readonly perSecond: number;
  /** How many at once after a rest. */
  readonly burst: number;
}

/** When the sender's even stream would have its next place, in milliseconds of a clock that never goes back. */
export interface Meter {
  nextAt: number;
}

export const restedMeter = (): Meter => ({ nextAt: Number.NEGATIVE_INFINITY });

/** Joins of one connection, given the rate of its sends: a connection that comes back may join all its rooms at once. */
export const joinRate = ({ perSecond }: Rate): Rate => ({ perSecond, burst: LIMITS.roomsPerConnectionMax });

/** New connections of one address, given the rate of sends: many people may share one. */
export const handshakeRate = ({ perSecond }: Rate): Rate => ({
  perSecond: perSecond * LIMITS.handshakesPerSend,
  burst: perSecond * LIMITS.handshakesPerSend * LIMITS.handshakeBurstSeconds,
});

/** Lets one through and returns 0, or changes nothing and returns in how many milliseconds one may come. */
export function takeTurn(meter: Meter, rate: Rate, now: number): number {
  const spacingMs = 1_000 / rate.perSecond;
  const nextAt = Math.max(meter.nextAt, now);
  const waitMs = nextAt - now - spacingMs * (rate.burst - 1);
  if (waitMs > 0) return Math.ceil(waitMs);
  meter.nextAt = nextAt + spacingMs;
  return 0;
}
