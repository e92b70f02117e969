import { describe, expect, test } from "bun:test";
import {
  parseClientId,
  parseEpoch,
  parseRoomName,
  parseSeq,
  parseUserId,
  seqAfter,
} from "../../src/domain/ids.ts";

describe("parseRoomName", () => {
  const good = [
    "a",
    "general",
    "a".repeat(128),
    "😀".repeat(128),
    "é̂",
    "...",
    "a/b?c#d%",
    " a ",
    "$gt",
    "-",
    "\u200b",
  ];
  for (const name of good) {
    test(`parseRoomName keeps ${JSON.stringify(name.slice(0, 12))} as it is`, () => {
      expect(parseRoomName(name) as string | undefined).toBe(name);
    });
  }
  const bad = [
    ["empty", ""],
    ["blank", " \t\u3000"],
    ["129 letters", "a".repeat(129)],
    ["129 emoji", "😀".repeat(129)],
    ["a dot", "."],
    ["two dots", ".."],
    ["NUL", "a\u0000b"],
    ["a new line", "a\nb"],
    ["DEL", "a\u007f"],
    ["a C1 control", "a\u0085b"],
    ["a lone high surrogate", "a\ud800"],
    ["a lone low surrogate", "\udc00a"],
  ] as const;
  for (const [what, name] of bad) {
    test(`parseRoomName refuses ${what}`, () => {
      expect(parseRoomName(name)).toBeUndefined();
    });
  }

  test("parseRoomName compares as it is: no normalisation", () => {
    expect(parseRoomName("é")).not.toBe(parseRoomName("e\u0301"));
  });
});

test("parseUserId and parseClientId have the same form as a room", () => {
  for (const parse of [parseUserId, parseClientId]) {
    expect(parse("ada") as string | undefined).toBe("ada");
    expect(parse("..")).toBeUndefined();
    expect(parse("x".repeat(129))).toBeUndefined();
  }
});

test("parseSeq takes whole numbers from 0 to 2^53 - 1", () => {
  expect(parseSeq(0) as number | undefined).toBe(0);
  expect(parseSeq(Number.MAX_SAFE_INTEGER) as number | undefined).toBe(Number.MAX_SAFE_INTEGER);
  for (const value of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])
    expect(parseSeq(value)).toBeUndefined();
});

test("seqAfter counts on", () => {
  const three = parseSeq(3);
  if (three === undefined) throw new Error("3 is a place");
  expect(seqAfter(three) as number).toBe(4);
  expect(seqAfter(three, 5) as number).toBe(8);
});

test("parseEpoch takes a plain token of at most 64 characters", () => {
  expect(parseEpoch("0192-ab_Z") as string | undefined).toBe("0192-ab_Z");
  for (const text of ["", "a b", "é", "x".repeat(65)]) expect(parseEpoch(text)).toBeUndefined();
});
