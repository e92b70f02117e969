/** The judging of a polling payload; the reading of its body is tested through real sockets in engine.test.ts. */

import { describe, expect, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";
import { countPayload, withoutStrayPongs } from "../../src/realtime/polling-post.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

describe("countPayload", () => {
  test.each([
    ["", { packets: 1, pongs: 0 }],
    ["3", { packets: 1, pongs: 1 }],
    ["4hello\x1e3\x1e4", { packets: 3, pongs: 1 }],
    ["40\x1e40/a,\x1e43[]\x1e43", { packets: 4, pongs: 0 }],
    ["4é3\x1e3\x1e", { packets: 3, pongs: 1 }],
  ])("counts %j as it is", (payload, count) => {
    expect(countPayload(bytes(payload))).toEqual(count);
  });

  test("stops at the first packet over a ceiling", () => {
    expect(countPayload(bytes("3\x1e".repeat(100_000))).packets).toBe(LIMITS.pongsPerPostMax + 1);
    expect(countPayload(bytes("4\x1e".repeat(100_000))).packets).toBe(LIMITS.packetsPerPostMax + 1);
  });
});

describe("withoutStrayPongs", () => {
  test.each([
    ["3", true, "3"],
    ["3", false, undefined],
    ["3\x1e3", true, "3"],
    ["4a\x1e3\x1e4b\x1e3", true, "4a\x1e3\x1e4b"],
    ["4a\x1e3\x1e4b\x1e3", false, "4a\x1e4b"],
    ["4 3", false, "4 3"],
  ])("leaves of %j, a pong awaited: %p, %j", (payload, isAwaited, left) => {
    expect(withoutStrayPongs(payload, isAwaited)).toBe(left as string);
  });
});
