import { expect, test } from "bun:test";
import { COUNTERS, createMetrics } from "../../src/observe/metrics.ts";

test("createMetrics counts from zero, and a snapshot stays as it was", () => {
  const metrics = createMetrics();
  expect(Object.keys(metrics.snapshot())).toEqual([...COUNTERS]);
  metrics.count("commits_total");
  const before = metrics.snapshot();
  metrics.count("commits_total", 4);
  expect(before.commits_total).toBe(1);
  expect(metrics.snapshot().commits_total).toBe(5);
});
