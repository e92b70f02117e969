import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { post, refusalOf, startHttpApp, type TestHttpApp } from "../fixture/http-app.ts";

let app: TestHttpApp;
beforeAll(async () => {
  app = await startHttpApp();
});
afterAll(() => app.dispose());

const WELCOME = "https://chat.example.org";
const FOREIGN = "https://evil.example";
const hello = { user_id: "anna", message: "hi" };
const granted = (answer: Response) => answer.headers.get("access-control-allow-origin");

describe("originGuard", () => {
  test("grants a welcome origin, also when the answer is a refusal", async () => {
    for (const path of ["/rooms", "/nowhere", "/rooms?limit=0"]) {
      const answer = await fetch(`${app.url}${path}`, { headers: { origin: WELCOME } });
      expect(granted(answer)).toBe(WELCOME);
      expect(answer.headers.get("vary")).toBe("Origin");
      expect(answer.headers.get("access-control-expose-headers")).toBe("Retry-After");
    }
    const sent = await post(app, "lobby", hello, { origin: WELCOME });
    expect(sent.status).toBe(201);
    expect(granted(sent)).toBe(WELCOME);
  });

  test("answers a foreign GET without a grant, and refuses its POST before anything is stored", async () => {
    const answer = await fetch(`${app.url}/rooms`, { headers: { origin: FOREIGN } });
    expect(answer.status).toBe(200);
    expect(granted(answer)).toBeNull();
    expect(answer.headers.get("vary")).toBe("Origin");
    for (const origin of [
      FOREIGN,
      "null",
      "",
      "https://chat.example.org.evil.example",
      "http://localhost:1",
    ]) {
      const sent = await post(app, "foreign", hello, { origin });
      expect(granted(sent)).toBeNull();
      const named = origin === "" ? "The request's Origin" : `Origin ${origin}`;
      expect(await refusalOf(sent)).toMatchObject({
        status: 403,
        code: "forbidden",
        message: `${named} is not in CORS_ORIGINS.`,
      });
    }
    expect(await (await fetch(`${app.url}/rooms/foreign/messages`)).json()).toMatchObject({ seq: 0 });
  });

  test("welcomes the server's own origin, but no foreign name that points here", async () => {
    expect((await post(app, "lobby", hello, { origin: app.url })).status).toBe(201);
    const rebound = { origin: "http://rebound.example", host: "rebound.example" };
    expect((await post(app, "lobby", hello, rebound)).status).toBe(403);
  });

  test("answers the preflight of a welcome origin, and grants a foreign one nothing", async () => {
    const preflight = (origin: string) =>
      fetch(`${app.url}/rooms/lobby/messages`, {
        method: "OPTIONS",
        headers: { origin, "access-control-request-method": "POST" },
      });
    const welcome = await preflight(WELCOME);
    expect(welcome.status).toBe(204);
    expect(granted(welcome)).toBe(WELCOME);
    expect(welcome.headers.get("access-control-allow-methods")).toContain("POST");
    expect(welcome.headers.get("access-control-allow-headers")).toBe("Content-Type, Idempotency-Key");
    expect(welcome.headers.get("allow")).toBe("GET, HEAD, POST, OPTIONS");
    const foreign = await preflight(FOREIGN);
    expect(granted(foreign)).toBeNull();
    expect(foreign.headers.get("access-control-allow-methods")).toBeNull();
  });

  test("grants everyone where that was asked for by name", async () => {
    const open = await startHttpApp({ origins: { any: true, named: new Set(), hosts: new Set() } });
    try {
      const sent = await post(open, "lobby", hello, { origin: FOREIGN });
      expect(sent.status).toBe(201);
      expect(granted(sent)).toBe("*");
      expect(sent.headers.get("vary")).toBeNull();
    } finally {
      await open.dispose();
    }
  });
});
