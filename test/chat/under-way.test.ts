import { expect, test } from "bun:test";
import { createUnderWay } from "../../src/chat/under-way.ts";

const nextTick = () => new Promise<void>((resume) => setImmediate(resume));

test("settled waits for what began before it, in whatever order that ends, and for nothing that began later", async () => {
  const underWay = createUnderWay();
  await underWay.settled();
  const [first, second] = [underWay.begin(), underWay.begin()];
  const order: string[] = [];
  const early = underWay.settled().then(() => order.push("early"));
  const third = underWay.begin();
  const late = underWay.settled().then(() => order.push("late"));
  expect(underWay.count()).toBe(3);
  third();
  second();
  await nextTick();
  expect(order).toEqual([]);
  const fourth = underWay.begin();
  first();
  await Promise.all([early, late]);
  expect(order).toEqual(["early", "late"]);
  expect(underWay.count()).toBe(1);
  fourth();
  await underWay.settled();
  expect(underWay.count()).toBe(0);
});
