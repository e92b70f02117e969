import { describe, expect, test } from "bun:test";
import { createKeptEntries } from "../../src/chat/kept-entries.ts";
import type { Seq } from "../../src/domain/ids.ts";
import { LIMITS } from "../../src/limits.ts";
import { range, seq } from "../contract/drafting.ts";

interface Entry {
  readonly seq: Seq;
  readonly roughBytes: number;
}

const entries = (from: number, to: number, bytes = 10): Entry[] =>
  range(from, to).map((n) => ({ seq: seq(n), roughBytes: bytes }));
const seqsOf = (kept: readonly Entry[] | null) => kept?.map((entry) => Number(entry.seq)) ?? null;

describe("after", () => {
  test("gives all that follows, and nothing at all where it lacks some of it", () => {
    const kept = createKeptEntries<Entry>({ bytesMax: 1_000_000 });
    const owner = {};
    expect(kept.after(owner, seq(0))).toBeNull();
    kept.add(owner, entries(5, 7));
    kept.add(owner, entries(8, 8));
    expect(seqsOf(kept.after(owner, seq(4)))).toEqual([5, 6, 7, 8]);
    expect(seqsOf(kept.after(owner, seq(6)))).toEqual([7, 8]);
    expect(seqsOf(kept.after(owner, seq(8)))).toEqual([]);
    for (const since of [3, 9]) expect(kept.after(owner, seq(since))).toBeNull();
    expect(kept.after({}, seq(6))).toBeNull();
    kept.drop(owner);
    expect(kept.after(owner, seq(6))).toBeNull();
  });
});

test("after gives all that follows also where another program has deleted numbers in between", () => {
  const kept = createKeptEntries<Entry>({ bytesMax: 1_000_000 });
  const owner = {};
  kept.extend(owner, [...entries(1, 1), ...entries(4, 6)]);
  expect(seqsOf(kept.after(owner, seq(0)))).toEqual([1, 4, 5, 6]);
  for (const since of [1, 2, 3]) expect(seqsOf(kept.after(owner, seq(since)))).toEqual([4, 5, 6]);
  expect(seqsOf(kept.after(owner, seq(4)))).toEqual([5, 6]);
  expect(seqsOf(kept.after(owner, seq(6)))).toEqual([]);
});

describe("add", () => {
  test("keeps of one owner as much as one replay may have", () => {
    const kept = createKeptEntries<Entry>({ bytesMax: 100 * LIMITS.replayBytesMax });
    const [many, long] = [{}, {}];
    kept.add(many, entries(1, LIMITS.replayMessagesMax));
    kept.add(many, entries(LIMITS.replayMessagesMax + 1, LIMITS.replayMessagesMax + 2));
    expect(kept.after(many, seq(1))).toBeNull();
    expect(kept.after(many, seq(2))).toHaveLength(LIMITS.replayMessagesMax);
    kept.add(long, entries(1, 3, LIMITS.replayBytesMax / 2));
    expect(kept.after(long, seq(0))).toBeNull();
    expect(seqsOf(kept.after(long, seq(1)))).toEqual([2, 3]);
    kept.add(long, entries(4, 4, LIMITS.replayBytesMax + 1));
    expect(kept.after(long, seq(3))).toBeNull();
    kept.add(long, entries(5, 5));
    expect(seqsOf(kept.after(long, seq(4)))).toEqual([5]);
  });

  test("keeps of all owners no more than their ceiling: the one that was told least recently goes first", () => {
    const kept = createKeptEntries<Entry>({ bytesMax: 100 });
    const [one, two, three] = [{}, {}, {}];
    const isKept = () => [one, two, three].map((owner) => kept.after(owner, seq(0)) !== null);
    kept.add(one, entries(1, 4));
    kept.add(two, entries(1, 4));
    kept.add(one, entries(5, 5));
    kept.add(three, entries(1, 2));
    expect(isKept()).toEqual([true, false, true]);
    kept.drop(one);
    kept.add(two, entries(1, 8));
    expect(isKept()).toEqual([false, true, true]);
    kept.add(one, entries(1, 1));
    expect(isKept()).toEqual([true, true, false]);
  });
});

describe("extend", () => {
  test("takes a run that goes back further, and no other", () => {
    const kept = createKeptEntries<Entry>({ bytesMax: 60 });
    const [owner, other] = [{}, {}];
    kept.extend(owner, []);
    kept.extend(owner, entries(4, 5));
    kept.extend(owner, entries(2, 5));
    kept.extend(owner, entries(3, 5));
    expect(seqsOf(kept.after(owner, seq(1)))).toEqual([2, 3, 4, 5]);
    // What was replaced counts no longer.
    kept.add(other, entries(1, 2));
    expect([owner, other].map((each) => kept.after(each, seq(4)) !== null)).toEqual([true, false]);
    expect(seqsOf(kept.after(other, seq(0)))).toEqual([1, 2]);
  });
});

test("at gives the owner's entry of a number that is here", () => {
  const kept = createKeptEntries<Entry>({ bytesMax: 1_000_000 });
  const owner = {};
  kept.add(owner, entries(3, 5));
  expect(kept.at(owner, seq(4))?.seq).toBe(seq(4));
  for (const number of [2, 6]) expect(kept.at(owner, seq(number))).toBeUndefined();
  expect(kept.at({}, seq(4))).toBeUndefined();
});

test("after gives the newest of a run that grows message by message, at every length", () => {
  const kept = createKeptEntries<Entry>({ bytesMax: 1_000_000 });
  const owner = {};
  for (const last of range(1, 3 * LIMITS.replayMessagesMax)) {
    kept.add(owner, entries(last, last));
    const first = Math.max(1, last - LIMITS.replayMessagesMax + 1);
    expect(seqsOf(kept.after(owner, seq(last - 1)))).toEqual([last]);
    expect(Number(kept.at(owner, seq(first))?.seq)).toBe(first);
    if (last % 97 !== 0) continue;
    expect(seqsOf(kept.after(owner, seq(first - 1)))).toEqual(range(first, last));
    if (first > 1) expect(kept.after(owner, seq(first - 2))).toBeNull();
    expect(kept.at(owner, seq(Math.max(1, first - 1)))?.seq).toBe(first > 1 ? undefined : seq(1));
  }
});
