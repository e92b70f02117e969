/** Who may come in, join and send now: a rate for each, and a ceiling on what a connection may have unanswered. */

import { ratedAs } from "../domain/address.ts";
import { handshakeRate, joinRate, type Meter, type Rate, restedMeter, takeTurn } from "../domain/rate.ts";
import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Counter, Metrics } from "../observe/metrics.ts";

/** What one sender has used of its allowance. */
export interface Allowance {
  /** Of sends. */
  readonly meter: Meter;
  readonly joins: Meter;
  /** Sends without an answer yet. */
  inFlight: number;
}

export interface Admission {
  /** A fresh allowance, for a connection that begins. */
  allowance(): Allowance;
  /** The allowance of an HTTP caller's address (IPv6: its /64); the least recently seen is forgotten when there are too many. */
  allowanceOf(address: string): Allowance;
  /** Lets one send in, or refuses it: `rate_limited`, or `overloaded` when too many are unanswered. */
  admit(allowance: Allowance): void;
  /** Lets one join in, or refuses it: `rate_limited`. */
  admitJoin(allowance: Allowance): void;
  /** Lets a new connection from this address in, or refuses it: `rate_limited`. */
  admitHandshake(address: string): void;
}

export interface AdmissionOptions {
  /** Of sends; the others follow from it. null: every rate limit is off. */
  readonly rate: Rate | null;
  readonly inFlightMax: number;
  /** Milliseconds of a clock that never goes back. */
  readonly monotonicNow: () => number;
  readonly metrics: Metrics;
}

/** When a sender with too much unanswered may try again: about the time that one commit takes on a slow disk. */
const OVERLOADED_RETRY_MS = 100;

export function createAdmission({ rate, inFlightMax, monotonicNow, metrics }: AdmissionOptions): Admission {
  const allowance = (): Allowance => ({ meter: restedMeter(), joins: restedMeter(), inFlight: 0 });
  const callers = byAddress(allowance);
  const newcomers = byAddress(restedMeter);
  const joins = rate && joinRate(rate);
  const handshakes = rate && handshakeRate(rate);

  function takeTurnOrRefuse(meter: Meter, allowed: Rate | null, refusals: Counter): void {
    if (allowed === null) return;
    const waitMs = takeTurn(meter, allowed, monotonicNow());
    if (waitMs === 0) return;
    metrics.count(refusals);
    throw new ChatError("rate_limited", { retryAfterMs: waitMs });
  }

  return {
    allowance,
    allowanceOf: callers,
    admit({ meter, inFlight }) {
      if (inFlight >= inFlightMax) {
        metrics.count("sends_overloaded_total");
        throw new ChatError("overloaded", { retryAfterMs: OVERLOADED_RETRY_MS });
      }
      takeTurnOrRefuse(meter, rate, "sends_rate_limited_total");
    },
    admitJoin: (allowed) => takeTurnOrRefuse(allowed.joins, joins, "joins_rate_limited_total"),
    admitHandshake: (address) =>
      takeTurnOrRefuse(newcomers(address), handshakes, "handshakes_rate_limited_total"),
  };
}

/** Remembers something of each address, up to a ceiling; the least recently seen is forgotten first. */
function byAddress<T>(make: () => T): (address: string) => T {
  const known = new Map<string, T>();
  return (address) => {
    const name = ratedAs(address);
    const found = known.get(name) ?? make();
    // A Map keeps the order of insertion: putting it in anew makes it the most recent.
    known.delete(name);
    known.set(name, found);
    if (known.size > LIMITS.rateAddressesMax) known.delete(known.keys().next().value as string);
    return found;
  };
}
