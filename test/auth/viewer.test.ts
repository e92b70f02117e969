import { expect, test } from "bun:test";
import { ANONYMOUS, speakerOf } from "../../src/auth/viewer.ts";
import type { UserId } from "../../src/domain/ids.ts";
import { ChatError } from "../../src/errors.ts";

const [ada, bob] = ["ada" as UserId, "bob" as UserId];

test("speakerOf believes an anonymous viewer", () => {
  expect(speakerOf(ANONYMOUS, ada)).toBe(ada);
  expect(speakerOf(ANONYMOUS, undefined)).toBeUndefined();
});

test("speakerOf lets a known viewer speak as itself only", () => {
  const viewer = { kind: "user", userId: ada } as const;
  expect(speakerOf(viewer, undefined)).toBe(ada);
  expect(speakerOf(viewer, ada)).toBe(ada);
  expect(() => speakerOf(viewer, bob)).toThrow(new ChatError("forbidden"));
});
