/** Turns at a MongoDB: never more at once than allowed, in order, and none is lost. */

import { describe, expect, test } from "bun:test";
import { createTurns } from "../../../src/repository/mongo/turns.ts";

const live = () => new AbortController().signal;

describe("createTurns", () => {
  test("lets so many in, and the next in order when one is given back", async () => {
    const turns = createTurns(2, 10);
    const order: number[] = [];
    const back = await Promise.all([turns.take(live()), turns.take(live())]);
    const waiting = [1, 2, 3].map((n) =>
      turns.take(live()).then((giveBack) => {
        order.push(n);
        return giveBack;
      }),
    );
    await Promise.resolve();
    expect(order).toEqual([]);
    back[0]?.();
    (await waiting[0])?.();
    await waiting[1];
    expect(order).toEqual([1, 2]);
    back[1]?.();
    await waiting[2];
    expect(order).toEqual([1, 2, 3]);
  });

  test("refuses as overloaded beyond its ceiling, and lets go of whoever waits no more", async () => {
    const turns = createTurns(1, 1);
    const giveBack = await turns.take(live());
    const ended = new AbortController();
    const impatient = turns.take(ended.signal);
    await expect(turns.take(live())).rejects.toMatchObject({
      code: "overloaded",
      details: { retryAfterMs: expect.any(Number) },
    });
    ended.abort(new Error("gone"));
    await expect(impatient).rejects.toThrow("gone");
    await expect(turns.take(ended.signal)).rejects.toThrow("gone");
    const patient = turns.take(live());
    giveBack();
    (await patient)();
    (await turns.take(live()))();
  });
});
