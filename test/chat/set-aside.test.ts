import { expect, test } from "bun:test";
import { createSetAside } from "../../src/chat/set-aside.ts";
import { parseEpoch } from "../../src/domain/ids.ts";
import { LIMITS } from "../../src/limits.ts";
import type { EncodedEntry } from "../../src/protocol/wire.ts";
import { assured, range, seq } from "../contract/drafting.ts";

const [ONE, TWO] = ["one", "two"].map((name) => assured(parseEpoch(name))) as [never, never];
const entry = (n: number, bytes = 10): EncodedEntry => ({ seq: seq(n), json: `${n}`, bytes });
const seqsOf = ({ entries }: { entries: readonly EncodedEntry[] }) => entries.map((one) => Number(one.seq));

test("add keeps one run of one epoch without a hole, whatever comes", () => {
  const aside = createSetAside({ bytesMax: 1_000_000 })();
  for (const n of [3, 4, 4, 3, 5]) aside.add(ONE, entry(n));
  expect(seqsOf(aside)).toEqual([3, 4, 5]);
  aside.add(ONE, entry(7));
  expect(seqsOf(aside)).toEqual([7]);
  aside.add(TWO, entry(8));
  expect(seqsOf(aside)).toEqual([8]);
  expect(aside.epoch).toBe(TWO);
});

test("add begins anew past the ceilings of one room", () => {
  const newAside = createSetAside({ bytesMax: 100 * LIMITS.feedPendingBytesMax });
  const [many, long] = [newAside(), newAside()];
  for (const n of range(1, LIMITS.feedPendingMax + 1)) many.add(ONE, entry(n));
  expect(seqsOf(many)).toEqual([LIMITS.feedPendingMax + 1]);
  for (const n of range(1, 3)) long.add(ONE, entry(n, LIMITS.feedPendingBytesMax / 2));
  expect(seqsOf(long)).toEqual([3]);
});

test("add forgets what is too much for all rooms together, until others have cleared theirs", () => {
  const newAside = createSetAside({ bytesMax: 100 });
  const [one, two] = [newAside(), newAside()];
  one.add(ONE, entry(1, 80));
  two.add(ONE, entry(1, 20));
  two.add(ONE, entry(2, 20));
  expect([seqsOf(one), seqsOf(two)]).toEqual([[1], []]);
  one.clear();
  one.clear();
  for (const n of range(3, 7)) two.add(ONE, entry(n, 20));
  expect(seqsOf(two)).toEqual([3, 4, 5, 6, 7]);
  one.add(ONE, entry(1, 1));
  expect(seqsOf(one)).toEqual([]);
});
