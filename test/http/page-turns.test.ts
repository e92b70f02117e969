/** Long pages one in each tick of the event loop, ordinary ones as they come. */

import { expect, test } from "bun:test";
import { createPageTurns } from "../../src/http/page-turns.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics } from "../../src/observe/metrics.ts";

/** Takes a tick by itself. */
const LONG = "x".repeat(LIMITS.pageTurnBytes);
/** Fits a tick twice, and three times are too much. */
const HALF = "x".repeat(LIMITS.pageTurnBytes / 2 - 1);
const SHORT = "x".repeat(LIMITS.longPageBytes);

/** Counts the ticks of the event loop until told to stop. */
function countTicks() {
  let tick = 0;
  let isOver = false;
  const next = () => {
    tick += 1;
    if (!isOver) setImmediate(next);
  };
  setImmediate(next);
  return {
    now: () => tick,
    [Symbol.dispose]: () => {
      isOver = true;
    },
  };
}

const turnOver = () => new Promise((resume) => setImmediate(resume));
const refusalOf = (making: Promise<unknown>) => making.catch((error: unknown) => error);

test("make lets the loop go round after a long page, and takes who waits in order", async () => {
  const turns = createPageTurns({ metrics: createMetrics() });
  using counted = countTicks();
  const made: { page: number; tick: number }[] = [];
  const make = (page: number) =>
    turns.make(
      async () => page,
      () => {
        made.push({ page, tick: counted.now() });
        return LONG;
      },
    );
  await make(0);
  await Promise.all([1, 2, 3, 4, 5].map(make));
  expect(made.map(({ page }) => page)).toEqual([0, 1, 2, 3, 4, 5]);
  // This counter's immediates may stand before or after theirs: two pages in one of its ticks are one of each side.
  const perTick = made.map(({ tick }) => made.filter((other) => other.tick === tick).length);
  expect(Math.max(...perTick)).toBeLessThanOrEqual(2);
  expect((made.at(-1)?.tick ?? 0) - (made[0]?.tick ?? 0)).toBeGreaterThanOrEqual(4);
});

test("make encodes in separate ticks what was read at the same time", async () => {
  const turns = createPageTurns({ metrics: createMetrics() });
  const read = Promise.withResolvers<void>();
  let made = 0;
  const making = Array.from({ length: 4 }, () =>
    turns.make(
      () => read.promise,
      () => {
        made += 1;
        return LONG;
      },
    ),
  );
  read.resolve();
  await making[0];
  expect(made).toBe(1);
  await Promise.all(making);
  expect(made).toBe(4);
});

test("make makes as many in one tick as there is time for, and short ones that had to wait among them", async () => {
  const turns = createPageTurns({ metrics: createMetrics() });
  const make = async (json: string) =>
    turns.make(
      async () => 0,
      () => json,
    );
  await make(LONG);
  let made = 0;
  const making = [HALF, HALF, HALF, HALF, ...Array.from({ length: 12 }, () => SHORT)].map(async (json) => {
    await make(json);
    made += 1;
  });
  const steps: number[] = [];
  for (let before = 0; made < making.length; before = made) {
    await turnOver();
    if (made > before) steps.push(made - before);
  }
  expect(steps.every((step) => step <= 8)).toBeTrue();
  expect(steps.length).toBeWithin(3, 8);
});

test("make makes short pages at once", async () => {
  const turns = createPageTurns({ metrics: createMetrics() });
  using counted = countTicks();
  for (let n = 0; n < 10; n += 1)
    expect(
      await turns.make(
        async () => 0,
        () => SHORT,
      ),
    ).toBe(SHORT);
  expect(counted.now()).toBe(0);
});

test("make goes on after a page that could not be read, or encoded", async () => {
  const turns = createPageTurns({ metrics: createMetrics() });
  const fails = () => {
    throw new Error("no page");
  };
  const making = [
    turns.make(
      async () => 0,
      () => LONG,
    ),
    refusalOf(turns.make(async () => fails(), String)),
    refusalOf(turns.make(async () => 0, fails)),
    turns.make(
      async () => 0,
      () => LONG,
    ),
  ];
  expect((await Promise.all(making)).map((end) => (end instanceof Error ? end.message : "page"))).toEqual([
    "page",
    "no page",
    "no page",
    "page",
  ]);
});

test("make refuses with overloaded, and counts it, when too many wait", async () => {
  const metrics = createMetrics();
  const turns = createPageTurns({ metrics });
  const make = () =>
    turns.make(
      async () => 0,
      () => LONG,
    );
  await make();
  const waiting = Array.from({ length: LIMITS.pageTurnWaitersMax }, make);
  expect(await refusalOf(make())).toMatchObject({ code: "overloaded", details: { retryAfterMs: 1_000 } });
  expect(metrics.snapshot().pages_overloaded_total).toBe(1);
  await Promise.all(waiting);
  await turnOver();
  expect(await make()).toBe(LONG);
  expect(metrics.snapshot().pages_overloaded_total).toBe(1);
});
