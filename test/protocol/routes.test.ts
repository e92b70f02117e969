import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { parseJsonBody, parseRoomHistory, parseRooms, parseUserHistory } from "../../src/protocol/routes.ts";

/** What the reader gives, or the refusal's code. */
function outcome(read: () => unknown): unknown {
  try {
    return read();
  } catch (error) {
    if (error instanceof ChatError) return error.code;
    throw error;
  }
}

describe("parseRoomHistory", () => {
  test("starts from the newest with the default limit when nothing is asked", () => {
    expect(parseRoomHistory("lobby", "")).toMatchObject({
      start: { kind: "newest" },
      messagesMax: LIMITS.pageDefault,
      range: {},
    });
  });

  test("reads after with and without its epoch", () => {
    expect(parseRoomHistory("lobby", "after=0").start).toEqual({
      kind: "after",
      seq: 0,
      epoch: undefined,
    } as never);
    expect(parseRoomHistory("lobby", "after=12&epoch=e-1").start).toEqual({
      kind: "after",
      seq: 12,
      epoch: "e-1",
    } as never);
  });
});

describe("the readers of paths and queries", () => {
  test("keep every name that percent-encoding can carry", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", minLength: 1, maxLength: 40 }), (name) => {
        const encoded = encodeURIComponent(name);
        const plain = outcome(() => parseUserHistory(encoded, `room=${encoded}`));
        if (typeof plain === "string") expect(plain).toBe("invalid_request");
        else expect(plain).toMatchObject({ userId: name, room: name });
      }),
    );
  });

  test("give an answer or a refusal to anything", () => {
    const text = fc.string({
      unit: fc.constantFrom(..."%&=+?#;/.aé\u0000\ud800 0123456789limtcursofaepkn"),
      maxLength: 60,
    });
    fc.assert(
      fc.property(text, text, (segment, query) => {
        for (const read of [
          () => parseRoomHistory(segment, query),
          () => parseUserHistory(segment, query),
          () => parseRooms(query),
        ]) {
          const got = outcome(read);
          expect(typeof got === "string" ? got : "read").toBeOneOf(["read", "invalid_request"]);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("parseJsonBody", () => {
  test("takes nesting up to the ceiling, and refuses more", () => {
    const nested = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;
    expect(outcome(() => parseJsonBody(nested(LIMITS.jsonDepthMax)))).toBeArray();
    for (const depth of [LIMITS.jsonDepthMax + 2, 10_000, 400_000]) {
      expect(outcome(() => parseJsonBody(nested(depth)))).toBe("invalid_request");
    }
  });
});
