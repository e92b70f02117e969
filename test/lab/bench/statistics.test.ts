/** What a figure of the bench is worth hangs on how its samples are counted. */

import { expect, test } from "bun:test";
import { delaysOfAllTicks, quantile } from "./statistics.ts";

test("delaysOfAllTicks counts a stall once for each millisecond of it", () => {
  expect(delaysOfAllTicks([0.2, 0.9, 3])).toEqual([0.2, 0.9, 3, 2, 1]);
  expect(delaysOfAllTicks([2.5])).toEqual([2.5, 1.5, 0.5]);
  expect(delaysOfAllTicks([1])).toEqual([1]);
});

test("delaysOfAllTicks lets a loop that stalls for a fifth of its time look like one", () => {
  // A second of ticks: a stall of 20 ms in each 100 ms is a sample in 81, and a fifth of the time.
  const delays = Array.from({ length: 10 }, () => [20, ...Array.from({ length: 80 }, () => 0.1)]).flat();
  const all = delaysOfAllTicks(delays).sort((a, b) => a - b);
  expect(all.length).toBe(1_000);
  expect(quantile(all, 0.75)).toBe(0.1);
  expect(quantile(all, 0.85)).toBeGreaterThan(4);
});
