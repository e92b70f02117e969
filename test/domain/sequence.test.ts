import { expect, test } from "bun:test";
import type { Epoch, Seq } from "../../src/domain/ids.ts";
import { lostReason } from "../../src/domain/sequence.ts";

const head = (firstSeq: number, seq: number) => ({
  epoch: "e1" as Epoch,
  firstSeq: firstSeq as Seq,
  seq: seq as Seq,
});
const at = (seq: number) => seq as Seq;

test("lostReason finds nothing wrong with any place that is kept", () => {
  for (const since of [0, 1, 9, 10]) expect(lostReason(head(1, 10), at(since), undefined)).toBeUndefined();
  expect(lostReason(head(1, 0), at(0), "e1" as Epoch)).toBeUndefined();
});

test("lostReason tells truncated exactly where the next number is gone", () => {
  expect(lostReason(head(5, 10), at(3), undefined)).toBe("truncated");
  expect(lostReason(head(5, 10), at(4), undefined)).toBeUndefined();
});

test("lostReason tells ahead, and another epoch before everything else", () => {
  expect(lostReason(head(1, 10), at(11), undefined)).toBe("ahead");
  expect(lostReason(head(5, 10), at(0), "e2" as Epoch)).toBe("epoch_changed");
  expect(lostReason(head(5, 10), at(99), "e2" as Epoch)).toBe("epoch_changed");
});
