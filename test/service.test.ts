import { afterEach, expect, test } from "bun:test";
import { rawExchange } from "./fixture/engine.ts";
import { startTestService } from "./fixture/service.ts";

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

test("startService answers a Host that is none as it answers any other, and shows nothing of itself", async () => {
  const { service, log, dispose } = await startTestService();
  undo.push(dispose);
  const asked: [string, string, number][] = [
    ["", "/livez", 200],
    ["a b", "/rooms", 200],
    ["", "/nowhere", 404],
    ["a b", "/socket.io/?EIO=4&transport=polling", 404],
    ["[", "/socket.io/socket.io.js", 200],
    ["[", "/socket.io/?EIO=4&transport=polling", 404],
    ["a:b:c", "/socket.io/?EIO=4&transport=websocket&sid=x", 404],
  ];
  for (const [host, path, status] of asked) {
    const request = `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`;
    const answer = await rawExchange(service.port, request);
    expect(answer).toStartWith(`HTTP/1.1 ${status} `);
    expect(answer).not.toContain("<!doctype");
    if (status === 404) expect(answer).toContain('"code":"not_found"');
  }
  expect(log.filter((line) => line.includes("failed"))).toEqual([]);
});
