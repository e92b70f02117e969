/** The judge of growth: what bends is caught, what is noise is not. */

import { expect, test } from "bun:test";
import { judge } from "./curve.ts";

const SIZES = [1e3, 1e4, 1e5, 1e6, 1e7];
const curve = (cost: (n: number) => number) => SIZES.map((n) => ({ n, cost: cost(n) }));

test("judge lets a flat curve, a falling one and a logarithm pass", () => {
  for (const cost of [() => 5, (n: number) => 1 + 1e4 / n, Math.log10, (n: number) => 3 + Math.log2(n)])
    expect(judge(curve(cost)).bendsUpward).toBe(false);
});

test("judge catches a line, a root, and what bends only at the end", () => {
  const late = (n: number) => (n < 1e7 ? 5 : 20);
  for (const cost of [
    (n: number) => n,
    (n: number) => 5 + n / 1e5,
    Math.sqrt,
    (n: number) => n ** 0.25,
    late,
  ])
    expect(judge(curve(cost)).bendsUpward).toBe(true);
  expect(judge(curve(late)).worst.n).toBe(1e7);
});

test("judge takes a third more or less for noise, wherever it falls", () => {
  for (let place = 0; place < SIZES.length; place += 1)
    for (const share of [0.67, 1.33]) {
      const points = curve(() => 5).map((point, index) =>
        index === place ? { ...point, cost: point.cost * share } : point,
      );
      expect(judge(points).bendsUpward).toBe(false);
    }
});

test("judge catches what bends after a dear beginning", () => {
  const points = [10, 100, 1e3, 1e4].map((n, index) => ({
    n,
    cost: [1.55, 0.38, 0.28, 1.2][index] as number,
  }));
  const { bendsUpward, worst } = judge(points);
  expect(bendsUpward).toBe(true);
  expect(worst.n).toBe(1e4);
});

test("judge says what was not measured, and judges the rest", () => {
  for (const missing of [Number.NaN, Number.POSITIVE_INFINITY]) {
    const points = curve((n) => (n === 1e5 ? missing : n));
    expect(judge(points)).toMatchObject({ unmeasured: [1e5], bendsUpward: true });
  }
  expect(judge(curve(() => Number.NaN))).toMatchObject({ unmeasured: SIZES, bendsUpward: false });
});

test("judge lets the curves pass that were measured on a quiet machine", () => {
  // docs/BENCHMARKS.md, "While things grow": from this size on, in tens.
  const measured: [number, number[]][] = [
    [10, [1.55, 0.38, 0.28, 0.37]],
    [1e3, [68, 65, 56, 75, 76]],
    [100, [55, 53, 55, 48, 49]],
    [100, [87, 77, 80, 91, 97]],
    [1e3, [220, 225, 230, 220]],
    [100, [66, 59, 88, 112]],
    [100, [5, 8, 9, 12]],
    [100, [50, 57, 94, 108]],
  ];
  for (const [from, costs] of measured)
    expect(judge(costs.map((cost, index) => ({ n: from * 10 ** index, cost }))).bendsUpward).toBe(false);
});

test("judge fits the logarithm that was there", () => {
  const { atOne, perDecade } = judge(curve((n) => 2 + 3 * Math.log10(n)));
  expect(atOne).toBeCloseTo(2);
  expect(perDecade).toBeCloseTo(3);
});
