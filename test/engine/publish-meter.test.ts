/** When the backlogs are looked at, and when topics must be left alone. */

import { afterEach, describe, expect, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";
import { createPublishMeter, type PublishMeter } from "../../src/engine/publish-meter.ts";

let meter: PublishMeter | undefined;
afterEach(() => meter?.stop());

describe("createPublishMeter", () => {
  test("sweeps in the next tick once enough was published, and again for what was not flushed then", async () => {
    const swept: (() => void)[] = [];
    const sweep = () => new Promise<void>((resolve) => swept.push(resolve));
    const [first, second] = [sweep(), sweep()];
    meter = createPublishMeter(() => swept.shift()?.());
    let turned = false;
    expect(meter.mayPublish(LIMITS.publishedUnsweptBytesMax)).toBe(true);
    setImmediate(() => {
      turned = true;
    });
    await first;
    expect(turned).toBe(false);
    await second;
    expect(turned).toBe(true);
  });

  test("sweeps soon after a publish, however small", async () => {
    const swept = new Promise<void>((resolve) => {
      meter = createPublishMeter(resolve);
    });
    expect(meter?.mayPublish(1)).toBe(true);
    await swept;
  });

  test("lets a tick publish up to the ceiling, and more only when that has been flushed", async () => {
    let sweeps = 0;
    let swept = () => {};
    meter = createPublishMeter(() => {
      sweeps++;
      swept();
    });
    const twice = new Promise<void>((resolve) => {
      swept = () => sweeps === 2 && resolve();
    });
    expect(meter.mayPublish(LIMITS.publishedUnflushedBytesMax)).toBe(true);
    expect(meter.mayPublish(1)).toBe(false);
    await twice;
    expect(meter.mayPublish(LIMITS.publishedUnflushedBytesMax)).toBe(true);
  });
});
