/** What is looked into is found when it is not what was sent. */

import { expect, test } from "bun:test";
import { createSamples, type Delivered, differing, isSampled } from "./samples.ts";

const sent: Delivered = { room: "a", seq: 1, id: "x", sender: "ada", text: "hi" };
const others: Delivered[] = [
  { ...sent, text: "ho" },
  { ...sent, id: "y" },
  { ...sent, sender: "bob" },
];

test("differing counts what came otherwise than it was sent, or not under that number", () => {
  expect(differing([sent], [sent])).toBe(0);
  for (const other of others) expect(differing([sent], [other])).toBe(1);
  for (const other of [
    { ...sent, seq: 2 },
    { ...sent, room: "b" },
  ])
    expect(differing([sent], [other])).toBe(2);
  expect(differing([sent], [])).toBe(1);
  expect(differing([], [sent])).toBe(1);
});

test("createSamples tells when two members got different messages under one number", () => {
  for (const other of others) {
    const samples = createSamples();
    expect(samples.deliver(sent)).toBe(true);
    expect(samples.deliver({ ...sent })).toBe(true);
    expect(samples.deliver({ ...sent, seq: 2 })).toBe(true);
    expect(samples.deliver(other)).toBe(false);
    expect(samples.all().delivered).toHaveLength(2);
  }
});

test("isSampled takes the first message of every room, and few of the others", () => {
  const indexes = Array.from({ length: 10_000 }, (_, index) => index).filter(isSampled);
  expect(indexes[0]).toBe(0);
  expect(indexes.length).toBeLessThan(10);
});
