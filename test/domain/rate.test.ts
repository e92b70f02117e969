import { expect, test } from "bun:test";
import { restedMeter, takeTurn } from "../../src/domain/rate.ts";

const rate = { perSecond: 20, burst: 40 };

test("takeTurn lets a burst through and then one at the rate", () => {
  const meter = restedMeter();
  for (let sent = 0; sent < 40; sent++) expect(takeTurn(meter, rate, 0)).toBe(0);
  expect(takeTurn(meter, rate, 0)).toBe(50);
  expect(takeTurn(meter, rate, 49)).toBe(1);
  expect(takeTurn(meter, rate, 50)).toBe(0);
  expect(takeTurn(meter, rate, 50)).toBe(50);
});

test("takeTurn lets through exactly rate × time + burst over a long time", () => {
  const meter = restedMeter();
  let passed = 0;
  for (let now = 0; now <= 10_000; now += 7) if (takeTurn(meter, rate, now) === 0) passed += 1;
  for (let extra = 0; extra < 1_000; extra++) if (takeTurn(meter, rate, 10_000) === 0) passed += 1;
  expect(passed).toBe(240);
});

test("takeTurn gives nothing for a clock that went back, and saves up no more than a burst", () => {
  const meter = restedMeter();
  for (let sent = 0; sent < 40; sent++) takeTurn(meter, rate, 1_000);
  expect(takeTurn(meter, rate, 0)).toBeGreaterThan(0);
  for (let sent = 0; sent < 40; sent++) expect(takeTurn(meter, rate, 1_000_000)).toBe(0);
  expect(takeTurn(meter, rate, 1_000_000)).toBeGreaterThan(0);
});
