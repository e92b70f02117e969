import { expect, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";
import { connectionsMaxOf, readConnectionsMax } from "../../src/runtime/connections-max.ts";

const limits = (soft: string) => `Limit                     Soft Limit           Hard Limit           Units
Max processes             95983                95983                processes
Max open files            ${soft.padEnd(20)} 1048576              files
Max locked memory         8388608              8388608              bytes
`;

test("connectionsMaxOf keeps some descriptors, half of few, and never gives more than the ceiling", () => {
  expect(connectionsMaxOf(limits("20000"))).toBe(20_000 - LIMITS.descriptorsKept);
  expect(connectionsMaxOf(limits("101"))).toBe(50);
  expect(connectionsMaxOf(limits("1048576"))).toBe(LIMITS.connectionsMax);
  expect(connectionsMaxOf(limits("unlimited"))).toBe(LIMITS.connectionsMax);
  expect(connectionsMaxOf(undefined)).toBe(LIMITS.connectionsMax);
});

test("readConnectionsMax gives what this process may have", async () => {
  const soft = Number((await Bun.$`sh -c 'ulimit -Sn'`.text()).trim());
  const max = await readConnectionsMax();
  expect(max).toBeGreaterThan(0);
  expect(max).toBeLessThanOrEqual(Math.min(LIMITS.connectionsMax, soft));
});
