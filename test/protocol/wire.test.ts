/** How a message looks on the wire, and that putting it together by hand changes nothing. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { encodeMessage, messageToWire } from "../../src/protocol/wire.ts";
import { anyMessage } from "../fixture/any-message.ts";

describe("encodeMessage", () => {
  test("encodeMessage writes what JSON.stringify would, for any text", () => {
    fc.assert(
      fc.property(anyMessage, (message) => {
        expect(encodeMessage(message)).toBe(JSON.stringify(messageToWire(message)));
      }),
      { numRuns: 2_000 },
    );
  });
});
