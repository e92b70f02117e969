import { expect, test } from "bun:test";
import { createMetrics } from "../../src/observe/metrics.ts";
import { createHeldSends } from "../../src/realtime/held-sends.ts";
import { room } from "../contract/drafting.ts";

const [LOBBY, HALL] = [room("lobby"), room("hall")];

function heldSends({ sendsMax = 10, textBytesMax = 50_000, bytesMax = 100_000, waitMs = 60_000 } = {}) {
  const late: string[] = [];
  const joining = new Set<string>();
  const metrics = createMetrics();
  const held = createHeldSends<string>({
    waitMs,
    sendsMax,
    textBytesMax,
    bytesMax,
    monotonicNow: () => performance.now(),
    waitsOn: (send) => joining.has(send),
    onLate: (send) => late.push(send),
    metrics,
  });
  return { held, late, joining, metrics };
}

test("createHeldSends gives back one connection's sends to one room, or to all, oldest first and once", () => {
  const { held } = heldSends();
  const [ada, bob] = [{}, {}];
  held.hold(ada, LOBBY, "one", 1);
  held.hold(bob, LOBBY, "another's", 1);
  held.hold(ada, HALL, "two", 1);
  held.hold(ada, LOBBY, "three", 1);
  expect(held.take(ada, LOBBY)).toEqual(["one", "three"]);
  expect(held.take(ada, LOBBY)).toEqual([]);
  held.hold(ada, LOBBY, "four", 1);
  expect(held.take(ada)).toEqual(["two", "four"]);
  expect(held.take(bob)).toEqual(["another's"]);
});

test("createHeldSends refuses more sends of one connection, and more bytes of all, until some are taken", () => {
  const { held, metrics } = heldSends({ sendsMax: 2, bytesMax: 10_000 });
  const [ada, bob] = [{}, {}];
  const overloaded = expect.objectContaining({ code: "overloaded", details: { retryAfterMs: 60_000 } });
  for (const send of ["one", "two"]) held.hold(ada, LOBBY, send, 1);
  expect(() => held.hold(ada, HALL, "three", 1)).toThrow(overloaded);
  expect(() => held.hold(bob, LOBBY, "long", 9_000)).toThrow(overloaded);
  held.take(ada);
  held.hold(bob, LOBBY, "long", 9_000);
  expect(held.take(bob)).toEqual(["long"]);
  expect(metrics.snapshot().sends_overloaded_total).toBe(2);
});

test("createHeldSends keeps no more text of one connection than its share, but one send of any length", () => {
  const { held, metrics } = heldSends({ textBytesMax: 1_000 });
  const [ada, bob, cy] = [{}, {}, {}];
  held.hold(ada, LOBBY, "one", 600);
  expect(() => held.hold(ada, HALL, "two", 401)).toThrow(expect.objectContaining({ code: "overloaded" }));
  held.hold(ada, HALL, "three", 400);
  held.hold(bob, LOBBY, "another's", 1_000);
  held.hold(cy, LOBBY, "long", 9_000);
  expect(held.take(ada, LOBBY)).toEqual(["one"]);
  held.hold(ada, HALL, "four", 600);
  expect([held.take(ada), held.take(bob), held.take(cy)]).toEqual([
    ["three", "four"],
    ["another's"],
    ["long"],
  ]);
  expect(metrics.snapshot().sends_overloaded_total).toBe(1);
});

test("createHeldSends tells of those that waited too long, in the order in which they came", async () => {
  const { held, late } = heldSends({ waitMs: 5 });
  const [ada, bob] = [{}, {}];
  held.hold(ada, LOBBY, "one", 1);
  held.hold(bob, LOBBY, "taken", 1);
  held.hold(ada, HALL, "two", 1);
  held.take(bob);
  while (late.length < 2) await Bun.sleep(1);
  held.hold(ada, HALL, "three", 1);
  while (late.length < 3) await Bun.sleep(1);
  expect(late).toEqual(["one", "two", "three"]);
  expect(held.take(ada)).toEqual([]);
});

test("createHeldSends keeps one whose connection is joining, and one whose time begins anew, behind those that came later", async () => {
  const { held, late, joining } = heldSends({ waitMs: 20 });
  const [ada, bob, cy] = [{}, {}, {}];
  joining.add("joins");
  held.hold(ada, LOBBY, "joins", 1);
  held.hold(bob, LOBBY, "anew", 1);
  held.hold(cy, HALL, "one", 1);
  held.restart(bob);
  while (late.length < 2) await Bun.sleep(1);
  expect(late).toEqual(["one", "anew"]);
  joining.clear();
  while (late.length < 3) await Bun.sleep(1);
  expect(late).toEqual(["one", "anew", "joins"]);
});
