/** Documents of any program as messages: their times, within the years that a message can have. */

import { describe, expect, test } from "bun:test";
import { isInRange, readMessage, readTime } from "../../../src/repository/mongo/schema.ts";

const FIRST = Date.parse("0001-01-01T00:00:00.000Z");
const LAST = Date.parse("9999-12-31T23:59:59.999Z");

describe("readTime", () => {
  test("takes dates and text, and nothing else", () => {
    const text = "2020-01-01T01:00:00+01:00";
    for (const value of [text, new Date(text)]) expect(Number(readTime(value))).toBe(Date.parse(text));
    for (const value of ["yesterday", 7, null, undefined, new Date(Number.NaN), {}])
      expect(readTime(value)).toBe(undefined);
  });

  test("shows a date of the year 0, or after 9999, as the first or last moment of a message", () => {
    for (const [value, shown] of [
      [new Date("0000-06-01T00:00:00Z"), FIRST],
      [new Date(-8_640_000_000_000_000), FIRST],
      [new Date(FIRST), FIRST],
      [new Date(LAST), LAST],
      [new Date(8_640_000_000_000_000), LAST],
    ] as const) {
      expect(Number(readTime(value))).toBe(shown);
      expect(isInRange(value)).toBe(value.getTime() === shown);
    }
  });
});

describe("readMessage", () => {
  test("reads a numbered document with a year 0, so that its room stays readable", () => {
    const row = { _id: "m", room: "a", seq: 3, user_id: "ann", message: "old" };
    const year0 = new Date("0000-06-01T00:00:00Z");
    const read = readMessage({ ...row, timestamp: year0, received_at: year0 });
    expect([Number(read?.seq), Number(read?.timestamp), Number(read?.receivedAt)]).toEqual([3, FIRST, FIRST]);
  });
});
