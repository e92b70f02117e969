import { beforeEach, expect, test } from "bun:test";
import { createAdmission } from "../../src/chat/admission.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics, type Metrics } from "../../src/observe/metrics.ts";

let metrics: Metrics;
beforeEach(() => {
  metrics = createMetrics();
});

const refusalOf = (act: () => void) => {
  try {
    act();
  } catch (error) {
    if (error instanceof ChatError) return error;
    throw error;
  }
  return undefined;
};

test("admit refuses beyond the rate with the time to wait, for that sender only", () => {
  let now = 0;
  const admission = createAdmission({
    rate: { perSecond: 10, burst: 2 },
    inFlightMax: 5,
    monotonicNow: () => now,
    metrics,
  });
  const [one, other] = [admission.allowance(), admission.allowance()];
  admission.admit(one);
  admission.admit(one);
  const refusal = refusalOf(() => admission.admit(one));
  expect(refusal?.code).toBe("rate_limited");
  expect(refusal?.details.retryAfterMs).toBe(100);
  expect(metrics.snapshot().sends_rate_limited_total).toBe(1);
  expect(refusalOf(() => admission.admit(other))).toBeUndefined();
  now = 100;
  expect(refusalOf(() => admission.admit(one))).toBeUndefined();
});

test("admit refuses when too many are unanswered, also with the rate off", () => {
  const admission = createAdmission({ rate: null, inFlightMax: 2, monotonicNow: () => 0, metrics });
  const allowance = admission.allowance();
  for (let sent = 0; sent < 1_000; sent++) admission.admit(allowance);
  allowance.inFlight = 2;
  const refusal = refusalOf(() => admission.admit(allowance));
  expect(refusal?.code).toBe("overloaded");
  expect(refusal?.details.retryAfterMs).toBeGreaterThan(0);
  expect(metrics.snapshot().sends_overloaded_total).toBe(1);
});

test("allowanceOf remembers an address and forgets the least recently seen", () => {
  const admission = createAdmission({
    rate: { perSecond: 1, burst: 1 },
    inFlightMax: 1,
    monotonicNow: () => 0,
    metrics,
  });
  const first = admission.allowanceOf("first");
  const second = admission.allowanceOf("second");
  for (let index = 2; index < LIMITS.rateAddressesMax; index++) admission.allowanceOf(`a${index}`);
  expect(admission.allowanceOf("first")).toBe(first);
  admission.allowanceOf("one more");
  expect(admission.allowanceOf("first")).toBe(first);
  expect(admission.allowanceOf("second")).not.toBe(second);
});

test("allowanceOf and admitHandshake count an IPv6 caller by the first 64 bits of the address", () => {
  const admission = createAdmission({
    rate: { perSecond: 1, burst: 1 },
    inFlightMax: 1,
    monotonicNow: () => 0,
    metrics,
  });
  expect(admission.allowanceOf("2001:db8::1")).toBe(admission.allowanceOf("2001:db8::2"));
  expect(admission.allowanceOf("2001:db8::1")).not.toBe(admission.allowanceOf("2001:db8:0:1::1"));
  const burst = LIMITS.handshakesPerSend * LIMITS.handshakeBurstSeconds;
  for (let come = 0; come < burst; come++) admission.admitHandshake(`2001:db8::${come.toString(16)}`);
  expect(refusalOf(() => admission.admitHandshake("2001:db8::ffff:1"))?.code).toBe("rate_limited");
  expect(refusalOf(() => admission.admitHandshake("2001:db8:0:1::1"))).toBeUndefined();
});

test("admitHandshake lets 5,000 clients of one address in twice over, and then so many a second", () => {
  let now = 0;
  const rate = { perSecond: 20, burst: 40 };
  const admission = createAdmission({ rate, inFlightMax: 1, monotonicNow: () => now, metrics });
  for (let come = 0; come < 10_000; come++) admission.admitHandshake("192.0.2.1");
  const refusal = refusalOf(() => admission.admitHandshake("192.0.2.1"));
  expect([refusal?.code, refusal?.details.retryAfterMs]).toEqual(["rate_limited", 5]);
  expect(metrics.snapshot().handshakes_rate_limited_total).toBe(1);
  expect(refusalOf(() => admission.admitHandshake("192.0.2.2"))).toBeUndefined();
  now = 1_000;
  for (let come = 0; come < 200; come++) admission.admitHandshake("192.0.2.1");
  expect(refusalOf(() => admission.admitHandshake("192.0.2.1"))?.code).toBe("rate_limited");
});

test("admitJoin lets a connection into as many rooms as it may be in, and then as many a second as it may send", () => {
  let now = 0;
  const rate = { perSecond: 20, burst: 40 };
  const admission = createAdmission({ rate, inFlightMax: 1, monotonicNow: () => now, metrics });
  const allowance = admission.allowance();
  for (let joined = 0; joined < LIMITS.roomsPerConnectionMax; joined++) admission.admitJoin(allowance);
  expect(refusalOf(() => admission.admitJoin(allowance))?.details.retryAfterMs).toBe(50);
  expect(metrics.snapshot().joins_rate_limited_total).toBe(1);
  // Joins and sends are counted apart.
  expect(refusalOf(() => admission.admit(allowance))).toBeUndefined();
  now = 50;
  expect(refusalOf(() => admission.admitJoin(allowance))).toBeUndefined();
});

test("a rate that is off limits neither joins nor handshakes", () => {
  const admission = createAdmission({ rate: null, inFlightMax: 1, monotonicNow: () => 0, metrics });
  const allowance = admission.allowance();
  for (let come = 0; come < 20_000; come++) {
    admission.admitHandshake("192.0.2.1");
    admission.admitJoin(allowance);
  }
  expect(metrics.snapshot().handshakes_rate_limited_total).toBe(0);
});
