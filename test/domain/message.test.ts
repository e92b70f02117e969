import { expect, test } from "bun:test";
import { textFault } from "../../src/domain/message.ts";

test("textFault finds nothing wrong with new lines, emoji and other controls", () => {
  for (const text of ["hi", "a\nb\r\n", "😀", "\u0001x", " x "]) expect(textFault(text)).toBeUndefined();
});

test("textFault names NUL, lone surrogates and blank texts", () => {
  expect(textFault("a\u0000")).toContain("NUL");
  expect(textFault("a\ud800b")).toContain("well-formed");
  for (const text of ["", " ", "\n\t"]) expect(textFault(text)).toContain("blank");
});
