/** Who may send now: a rate for each sender, and a ceiling on what a connection may have unanswered. */

import { type Meter, type Rate, restedMeter, takeTurn } from "../domain/rate.ts";
import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

/** What one sender has used of its allowance. */
export interface Allowance {
  readonly meter: Meter;
  /** Sends without an answer yet. */
  inFlight: number;
}

export interface Admission {
  /** A fresh allowance, for a connection that begins. */
  allowance(): Allowance;
  /** The allowance of an HTTP caller's address; the least recently seen is forgotten when there are too many. */
  allowanceOf(address: string): Allowance;
  /** Lets one send in, or refuses it: `rate_limited`, or `overloaded` when too many are unanswered. */
  admit(allowance: Allowance): void;
}

export interface AdmissionOptions {
  readonly rate: Rate | null;
  readonly inFlightMax: number;
  /** Milliseconds of a clock that never goes back. */
  readonly monotonicNow: () => number;
}

/** When a sender with too much unanswered may try again: about the time that one commit takes on a slow disk. */
const OVERLOADED_RETRY_MS = 100;

export function createAdmission({ rate, inFlightMax, monotonicNow }: AdmissionOptions): Admission {
  const byAddress = new Map<string, Allowance>();
  const allowance = (): Allowance => ({ meter: restedMeter(), inFlight: 0 });
  return {
    allowance,
    allowanceOf(address) {
      const known = byAddress.get(address) ?? allowance();
      // A Map keeps the order of insertion: putting it in anew makes it the most recent.
      byAddress.delete(address);
      byAddress.set(address, known);
      if (byAddress.size > LIMITS.rateAddressesMax) byAddress.delete(byAddress.keys().next().value as string);
      return known;
    },
    admit({ meter, inFlight }) {
      if (inFlight >= inFlightMax) throw new ChatError("overloaded", { retryAfterMs: OVERLOADED_RETRY_MS });
      if (rate === null) return;
      const waitMs = takeTurn(meter, rate, monotonicNow());
      if (waitMs > 0) throw new ChatError("rate_limited", { retryAfterMs: waitMs });
    },
  };
}
