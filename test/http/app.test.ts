import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { post, rawRequest, refusalOf, startHttpApp, type TestHttpApp } from "../fixture/http-app.ts";

let app: TestHttpApp;
beforeAll(async () => {
  app = await startHttpApp();
});
afterAll(() => app.dispose());

const get = (path: string, init?: RequestInit) => fetch(`${app.url}${path}`, init);

const READABLE = ["/", "/livez", "/readyz", "/messages/anna", "/rooms/lobby/messages", "/rooms", "/chat"];

describe("every route", () => {
  test.each(READABLE)("GET %s answers 200, and HEAD the same without the body", async (path) => {
    const answer = await get(path);
    const body = await answer.bytes();
    const head = await get(path, { method: "HEAD" });
    expect(answer.status).toBe(200);
    expect(head.status).toBe(200);
    expect(head.headers.get("content-type")).toBe(answer.headers.get("content-type"));
    expect(head.headers.get("content-length")).toBe(String(body.byteLength));
    expect(await head.text()).toBe("");
  });

  test.each(READABLE)("%s answers other methods with 405 and says which are allowed", async (path) => {
    for (const method of ["DELETE", "PUT", "PATCH"]) {
      const answer = await get(path, { method });
      expect(answer.headers.get("allow")).toBe(
        path.startsWith("/rooms/") ? "GET, HEAD, POST, OPTIONS" : "GET, HEAD, OPTIONS",
      );
      expect(await refusalOf(answer)).toMatchObject({ status: 405, code: "method_not_allowed" });
    }
  });

  test.each(READABLE.filter((path) => path !== "/chat"))("%s is JSON that nobody keeps", async (path) => {
    const { headers } = await get(path);
    expect(headers.get("content-type")).toBe("application/json");
    expect(headers.get("cache-control")).toBe("no-store");
    expect(headers.get("x-content-type-options")).toBe("nosniff");
  });

  test.each(["/nowhere", "/messages", "/messages/", "/rooms/", "/rooms/a", "/rooms//messages", "/livez/x"])(
    "the unknown path %s is 404 in JSON",
    async (path) => {
      expect(await refusalOf(await get(path))).toEqual({
        status: 404,
        code: "not_found",
        message: "There is nothing here.",
        retryable: false,
      });
      expect((await get(path, { method: "POST" })).status).toBe(404);
    },
  );
});

describe("a strange request", () => {
  test("that asks for the end of its connection is told of it", async () => {
    const answer = await rawRequest(app.port, "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    expect(answer.toLowerCase()).toContain("\r\nconnection: close\r\n");
  });

  test("of a path or a query over the ceiling is 400", async () => {
    for (const path of [`/messages/${"a".repeat(8_000)}`, `/rooms?x=${"a".repeat(LIMITS.urlCharsMax)}`]) {
      expect(await refusalOf(await get(path))).toMatchObject({ status: 400, code: "invalid_request" });
    }
    expect((await get(`/rooms?x=${"a".repeat(LIMITS.urlCharsMax - "/rooms?x=".length)}`)).status).toBe(200);
  });

  test.each([
    ["GET /rooms HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n", 200],
    ["GET /messages/%zz HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n", 400],
    ["GET http://elsewhere.example/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200],
    ["GET /messages/a?limit=1#?limit=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200],
    ["HEAD /livez HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n", 200],
    ["OPTIONS /rooms HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 204],
  ])("%j is answered with %d", async (bytes, status) => {
    expect(await rawRequest(app.port, bytes)).toStartWith(`HTTP/1.1 ${status} `);
  });
});

describe("what fails inside", () => {
  test("is internal to the caller, and told with its cause to the log", async () => {
    const failing = await startHttpApp({
      between: (repository) => ({
        ...repository,
        readRooms: () => Promise.reject(new TypeError("secret words of a database")),
      }),
    });
    try {
      const answer = await fetch(`${failing.url}/rooms`);
      expect(await refusalOf(answer)).toEqual({
        status: 500,
        code: "internal",
        message: "Something went wrong on our side.",
        retryable: true,
      });
      const logged = failing.log.filter((line) => line.includes("request_failed"));
      expect(logged).toHaveLength(1);
      expect(JSON.parse(logged[0] as string)).toMatchObject({
        level: "error",
        method: "GET",
        path: "/rooms",
      });
      expect(logged[0]).toContain("secret words of a database");
    } finally {
      await failing.dispose();
    }
  });
});

describe("a store that is away", () => {
  test("is 503 for reads and sends, and may be tried again", async () => {
    const away = () => Promise.reject(new ChatError("storage_unavailable"));
    const failing = await startHttpApp({
      between: (repository) => ({
        ...repository,
        append: away,
        readBefore: away,
        readByUser: away,
        readRooms: away,
      }),
    });
    try {
      for (const answer of [
        await fetch(`${failing.url}/rooms`),
        await fetch(`${failing.url}/messages/anna`),
        await fetch(`${failing.url}/rooms/lobby/messages`),
        await post(failing, "lobby", { user_id: "anna", message: "hi" }),
      ]) {
        expect(await refusalOf(answer)).toMatchObject({
          status: 503,
          code: "storage_unavailable",
          retryable: true,
        });
      }
    } finally {
      await failing.dispose();
    }
  });
});

describe("createHttpApp", () => {
  test("limits the sends of an address, whatever X-Forwarded-For says", async () => {
    const limited = await startHttpApp({ rate: { perSecond: 0.5, burst: 2 } });
    try {
      const send = (from: string) =>
        post(limited, "lobby", { user_id: "anna", message: "hi" }, { "x-forwarded-for": from });
      expect((await send("10.0.0.1")).status).toBe(201);
      expect((await send("10.0.0.2")).status).toBe(201);
      const refused = await send("10.0.0.3");
      expect(refused.headers.get("retry-after")).toMatch(/^[12]$/);
      const { retry_after_ms, ...rest } = await refusalOf(refused);
      expect(rest).toMatchObject({ status: 429, code: "rate_limited", retryable: true });
      expect(retry_after_ms).toBeWithin(1, 2_001);
    } finally {
      await limited.dispose();
    }
  });
});
