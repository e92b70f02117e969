/** A polling body, read in any pieces, and judged; what a socket does to its reading is in engine.test.ts. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { bodyPiecesMaxOf, LIMITS } from "../../src/limits.ts";
import { countPayload, readPostBody, withoutStrayPongs } from "../../src/engine/polling-post.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

const streamOf = (pieces: Iterable<Uint8Array>) =>
  new ReadableStream<Uint8Array>({
    start(stream) {
      for (const piece of pieces) stream.enqueue(piece);
      stream.close();
    },
  });

describe("readPostBody", () => {
  const read = (pieces: Iterable<Uint8Array>, bytesMax: number) =>
    readPostBody(
      new Request("http://chat.test/", { method: "POST", body: streamOf(pieces) }),
      bytesMax,
      10_000,
    );

  test("puts pieces of any size together", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 9_000 })), async (pieces) => {
        const whole = Buffer.concat(pieces);
        const body = await read(pieces, Math.max(whole.byteLength, 1));
        expect(body.kind === "whole" && Buffer.from(body.bytes)).toEqual(whole);
      }),
      { numRuns: 50 },
    );
  });

  test("takes as many pieces as it may and not one more, however small they are", async () => {
    const piece = bytes("x");
    const inPieces = (count: number) =>
      read(
        Array.from({ length: count }, () => piece),
        1_000_000,
      );
    expect(await inPieces(LIMITS.bodyPiecesMax)).toMatchObject({ kind: "whole" });
    expect(await inPieces(LIMITS.bodyPiecesMax + 1)).toEqual({ kind: "too_many_pieces" });
  });

  test("takes a body of the ceiling and not a byte more", async () => {
    expect(await read([bytes("ab"), bytes("c")], 3)).toMatchObject({ kind: "whole" });
    expect(await read([bytes("ab"), bytes("cd")], 3)).toEqual({ kind: "too_large" });
  });
});

test("bodyPiecesMaxOf lets a long body come in the pieces of a slow network", () => {
  expect(bodyPiecesMaxOf(1_000_000)).toBe(LIMITS.bodyPiecesMax);
  expect(bodyPiecesMaxOf(100_000_000)).toBeGreaterThan(100_000_000 / 1_448);
});

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
    expect(countPayload(bytes("4\x1e".repeat(100_000))).packets).toBe(LIMITS.packetsPerTickMax + 1);
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
