import { describe, expect, test } from "bun:test";
import { foreignOrigin, isOriginWelcome, type OriginList, parseOrigin } from "../../src/domain/origins.ts";

const listOf = (...origins: string[]): OriginList => {
  const parsed = origins.filter((origin) => origin !== "*").map((origin) => parseOrigin(origin));
  return {
    any: origins.includes("*"),
    named: new Set(parsed.map((entry) => entry?.origin ?? "")),
    hosts: new Set(parsed.map((entry) => entry?.host ?? "")),
  };
};

describe("isOriginWelcome", () => {
  const list = listOf("https://chat.example.org", "http://localhost:3000");
  const rows = [
    ["no origin at all", null, "anything:1", true],
    ["a named origin", "https://chat.example.org", "10.0.0.1:8000", true],
    ["a named origin in capitals", "HTTPS://Chat.Example.org", "10.0.0.1:8000", true],
    ["a named host with another scheme", "http://chat.example.org", "10.0.0.1:8000", false],
    ["a named host with another port", "https://chat.example.org:444", "10.0.0.1:8000", false],
    ["a stranger", "https://evil.example", "localhost:8000", false],
    ["a name that contains a named one", "https://chat.example.org.evil.example", "localhost:8000", false],
    ["the server's own address", "http://127.0.0.1:8000", "127.0.0.1:8000", true],
    ["the server's own IPv6 address", "http://[::1]:8000", "[::1]:8000", true],
    ["the server's own localhost", "http://localhost:8000", "localhost:8000", true],
    ["localhost on another port", "http://localhost:9000", "localhost:8000", false],
    [
      "a foreign name that points here (DNS rebinding)",
      "http://evil.example:8000",
      "evil.example:8000",
      false,
    ],
    ["the own name where it is named", "https://chat.example.org:8443", "chat.example.org:8443", true],
    ["the opaque origin", "null", "localhost:8000", false],
    ["garbage", "::", "localhost:8000", false],
    ["an origin with a path", "http://localhost:8000/x", "localhost:8000", false],
    ["a file", "file://", "localhost:8000", false],
    ["the own default port, written out", "http://10.1.2.3:80", "10.1.2.3", true],
  ] as const;
  for (const [what, origin, host, welcome] of rows) {
    test(`isOriginWelcome ${welcome ? "lets in" : "turns away"} ${what}`, () => {
      expect(isOriginWelcome(list, origin, host)).toBe(welcome);
    });
  }

  test("isOriginWelcome lets anyone in where * was asked for by name", () => {
    expect(isOriginWelcome(listOf("*"), "https://evil.example", "localhost")).toBe(true);
  });

  test("isOriginWelcome needs a host to know its own", () => {
    expect(isOriginWelcome(list, "http://127.0.0.1:8000", null)).toBe(false);
  });
});

describe("foreignOrigin", () => {
  const longest = `https://${"a".repeat(184)}.example`;
  test.each(["https://a.example", "http://[::1]:8080", "null", "file://", "app://local", longest])(
    "foreignOrigin names %s and the setting",
    (origin) => {
      const error = foreignOrigin(origin);
      expect(error.code).toBe("forbidden");
      expect(error.message).toBe(`Origin ${origin} is not in CORS_ORIGINS.`);
    },
  );

  test.each([
    "",
    "::",
    "a.example",
    "https://a.example/path",
    "https://a.example?query",
    "https://user@a.example",
    "https://a.example and more",
    "https://a.example\u001b[31m",
    "https://ä.example",
    "https://a.example:port",
    "<b>https://a.example</b>",
    `${longest}s`,
  ])("foreignOrigin never repeats %j", (origin) => {
    expect(foreignOrigin(origin).message).toBe("The request's Origin is not in CORS_ORIGINS.");
  });
});
