import { expect, test } from "bun:test";
import { createChance } from "../../fixture/chance.ts";
import { drift, floorOf, growth, median, quantile, slope } from "./trend.ts";

const line = (count: number, of: (at: number) => number) =>
  Array.from({ length: count }, (_, n) => ({ at: n * 5, value: of(n * 5) }));

test("slope finds a line and is not moved by a quarter of wild points", () => {
  const chance = createChance(7);
  const points = line(80, (at) => 100 + 0.25 * at);
  expect(slope(points)).toBeCloseTo(0.25);
  const wild = points.map((point) =>
    chance.often(0.2) ? { ...point, value: chance.between(-1e6, 1e6) } : point,
  );
  expect(slope(wild)).toBeCloseTo(0.25, 1);
  expect(slope([])).toBe(0);
});

test("growth of a sawtooth's floor sees the leak below it and nothing without one", () => {
  const chance = createChance(11);
  const saw = (leakPerHour: number) =>
    line(240, (at) => 90 + (leakPerHour * at) / 3_600 + (at % 40) + chance.between(0, 3));
  expect(Math.abs(growth(floorOf(saw(0), 60)).perHour)).toBeLessThan(12);
  expect(growth(floorOf(saw(120), 60)).perHour).toBeGreaterThan(100);
  expect(growth(floorOf(saw(120), 60)).total).toBeGreaterThan(30);
});

test("drift compares the first third with the last", () => {
  expect(drift(line(9, (at) => (at < 15 ? 1 : at < 30 ? 50 : 4)))).toEqual({ early: 1, late: 4 });
});

test("quantile and median count from the sorted list", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(quantile([1, 2, 3, 4], 0.99)).toBe(4);
  expect(median([])).toBeNaN();
});
