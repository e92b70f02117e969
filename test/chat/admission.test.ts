import { expect, test } from "bun:test";
import { createAdmission } from "../../src/chat/admission.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";

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
  });
  const [one, other] = [admission.allowance(), admission.allowance()];
  admission.admit(one);
  admission.admit(one);
  const refusal = refusalOf(() => admission.admit(one));
  expect(refusal?.code).toBe("rate_limited");
  expect(refusal?.details.retryAfterMs).toBe(100);
  expect(refusalOf(() => admission.admit(other))).toBeUndefined();
  now = 100;
  expect(refusalOf(() => admission.admit(one))).toBeUndefined();
});

test("admit refuses when too many are unanswered, also with the rate off", () => {
  const admission = createAdmission({ rate: null, inFlightMax: 2, monotonicNow: () => 0 });
  const allowance = admission.allowance();
  for (let sent = 0; sent < 1_000; sent++) admission.admit(allowance);
  allowance.inFlight = 2;
  const refusal = refusalOf(() => admission.admit(allowance));
  expect(refusal?.code).toBe("overloaded");
  expect(refusal?.details.retryAfterMs).toBeGreaterThan(0);
});

test("allowanceOf remembers an address and forgets the least recently seen", () => {
  const admission = createAdmission({
    rate: { perSecond: 1, burst: 1 },
    inFlightMax: 1,
    monotonicNow: () => 0,
  });
  const first = admission.allowanceOf("first");
  const second = admission.allowanceOf("second");
  for (let index = 2; index < LIMITS.rateAddressesMax; index++) admission.allowanceOf(`a${index}`);
  expect(admission.allowanceOf("first")).toBe(first);
  admission.allowanceOf("one more");
  expect(admission.allowanceOf("first")).toBe(first);
  expect(admission.allowanceOf("second")).not.toBe(second);
});
