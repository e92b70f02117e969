import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { formatTimestamp, parseTimestamp, toMillis } from "../../src/domain/time.ts";
import { anyMillis } from "../fixture/any-message.ts";

describe("parseTimestamp", () => {
  const read = [
    ["2026-01-31T09:05:00Z", "2026-01-31T09:05:00.000Z"],
    ["2026-01-31T09:05:00.1Z", "2026-01-31T09:05:00.100Z"],
    ["2026-01-31T09:05:00.123999Z", "2026-01-31T09:05:00.123Z"],
    ["2026-01-31T09:05:00,5Z", "2026-01-31T09:05:00.500Z"],
    ["2026-01-31T09:05Z", "2026-01-31T09:05:00.000Z"],
    ["2026-01-31T09:05:00", "2026-01-31T09:05:00.000Z"],
    ["2026-01-31T09:05:00+02:00", "2026-01-31T07:05:00.000Z"],
    ["2026-01-31T09:05:00-0530", "2026-01-31T14:35:00.000Z"],
    ["2026-01-31T09:05:00+02", "2026-01-31T07:05:00.000Z"],
    ["2024-02-29T23:59:59.999Z", "2024-02-29T23:59:59.999Z"],
    ["2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000Z"],
    ["2017-01-01T05:29:60.750+05:30", "2016-12-31T23:59:59.750Z"],
    ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"],
    ["0000-12-31T23:30:00-01:00", "0001-01-01T00:30:00.000Z"],
    ["0050-06-01T00:00:00Z", "0050-06-01T00:00:00.000Z"],
    ["9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"],
  ] as const;
  for (const [text, utc] of read) {
    test(`parseTimestamp reads ${text}`, () => {
      const at = parseTimestamp(text);
      if (at === undefined) throw new Error("unreadable");
      expect(formatTimestamp(at)).toBe(utc);
    });
  }
  const refused = [
    "",
    "now",
    "2026-01-31",
    "09:05:00Z",
    "2026-02-30T00:00:00Z",
    "2025-02-29T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T00:60:00Z",
    "2026-01-01T00:00:61Z",
    "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00+00:60",
    "99999-01-01T00:00:00Z",
    "+99999-01-01T00:00:00Z",
    "-000001-01-01T00:00:00Z",
    "9999-12-31T23:59:59-00:01",
    "0000-01-01T00:00:00Z",
    "0000-12-31T23:59:59.999Z",
    "0001-01-01T00:00:00+00:01",
    "2026-01-31 09:05:00Z",
    "2026-01-31T09:05:00Z ",
    "1769850300000",
    `2026-01-31T09:05:00.${"1".repeat(500)}Z`,
  ];
  for (const text of refused) {
    test(`parseTimestamp refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
      expect(parseTimestamp(text)).toBeUndefined();
    });
  }
});

test("toMillis cuts a broken clock to the years that can be written", () => {
  expect(formatTimestamp(toMillis(8.64e15))).toBe("9999-12-31T23:59:59.999Z");
  expect(formatTimestamp(toMillis(-8.64e15))).toBe("0001-01-01T00:00:00.000Z");
  expect(toMillis(1.9) as number).toBe(1);
});

test("formatTimestamp gives each time its own text, whichever it gave before", () => {
  fc.assert(
    fc.property(
      fc.array(anyMillis, { minLength: 1, maxLength: 5 }),
      fc.array(fc.nat(), { size: "medium" }),
      (few, order) => {
        for (const index of order) {
          const at = few[index % few.length] as (typeof few)[number];
          expect(formatTimestamp(at)).toBe(new Date(at).toISOString());
          expect(formatTimestamp(at)).toBe(new Date(at).toISOString());
        }
      },
    ),
    { numRuns: 300 },
  );
});
