import { describe, expect, test } from "bun:test";
import type { Readiness } from "../../src/http/health.ts";
import type { StoreStatus } from "../../src/repository/repository.ts";
import { startHttpApp } from "../fixture/http-app.ts";

describe("health", () => {
  test("GET / says degraded while the store is down, still with 200, and never asks it", async () => {
    let status: StoreStatus = { up: true };
    const app = await startHttpApp({
      between: (repository) => ({ ...repository, status: () => status, head: () => new Promise(() => {}) }),
    });
    const health = async () => {
      const answer = await fetch(app.url);
      return { status: answer.status, body: await answer.json() };
    };
    try {
      const named = { service: "chat-service", version: "1.2.3", uptime_s: 42 };
      expect(await health()).toEqual({
        status: 200,
        body: { status: "ok", ...named, storage: { kind: "sqlite", status: "up" } },
      });
      status = { up: false, reason: "the disk is full" };
      expect(await health()).toEqual({
        status: 200,
        body: { status: "degraded", ...named, storage: { kind: "sqlite", status: "down" } },
      });
    } finally {
      await app.dispose();
    }
  });

  test("GET /readyz gives the reason with 503, while GET /livez stays alive", async () => {
    let state: Readiness = { ready: true };
    const app = await startHttpApp({ readiness: () => state });
    const ready = async () => {
      const answer = await fetch(`${app.url}/readyz`);
      return { status: answer.status, body: await answer.json() };
    };
    try {
      expect(await ready()).toEqual({ status: 200, body: { status: "ok" } });
      for (const reason of ["storage_unavailable", "draining"] as const) {
        state = { ready: false, reason };
        expect(await ready()).toEqual({ status: 503, body: { status: "unavailable", reason } });
        expect((await fetch(`${app.url}/livez`)).status).toBe(200);
      }
    } finally {
      await app.dispose();
    }
  });
});
