import { expect, test } from "bun:test";
import { currentTurn } from "../../src/runtime/ticks.ts";

test("currentTurn is the same all through a turn, and another one in the next", async () => {
  const first = currentTurn();
  await null;
  expect(currentTurn()).toBe(first);
  await new Promise((resolve) => setImmediate(resolve));
  const second = currentTurn();
  expect(second).not.toBe(first);
  expect(currentTurn()).toBe(second);
});
