import { expect, test } from "bun:test";
import { currentTick } from "../../src/runtime/ticks.ts";

test("currentTick is the same all through a tick, and another one in the next", async () => {
  const first = currentTick();
  await null;
  expect(currentTick()).toBe(first);
  await new Promise((resolve) => setImmediate(resolve));
  const second = currentTick();
  expect(second).not.toBe(first);
  expect(currentTick()).toBe(second);
});
