/** Who is let into the engine: as many as there may be, and as often as an address may come. */

import { afterEach, expect, test } from "bun:test";
import { createAdmission } from "../../src/chat/admission.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import { type GuestServer, openPolling, openSocket, startGuestServer } from "../fixture/engine.ts";

const hosts: GuestServer[] = [];
afterEach(async () => {
  for (const host of hosts.splice(0)) await host.stop();
});

function start(options: Parameters<typeof startGuestServer>[0]): GuestServer {
  const host = startGuestServer(options);
  hosts.push(host);
  return host;
}

const handshake = (url: string, more = "") => fetch(`${url}/socket.io/?EIO=4&transport=polling${more}`);

test("createEngine refuses sessions beyond its ceiling, and lets the next in when one has ended", async () => {
  // The one that polls has two connections.
  const { url, engine, metrics } = start({ connectionsMax: 3 });
  const polling = await openPolling(url);
  const socket = openSocket(url, "");
  expect(await socket.opened).toBe(true);
  const refused = await handshake(url);
  expect(refused.status).toBe(503);
  expect(refused.headers.get("retry-after")).toBe("10");
  // Or who is refused would take a connection as well, until it is idle for too long.
  expect(refused.headers.get("connection")).toBe("close");
  expect(await refused.json()).toMatchObject({ code: "overloaded", retryable: true, retry_after_ms: 10_000 });
  expect(await openSocket(url, "").opened).toBe(false);
  expect(metrics.snapshot()).toMatchObject({ handshakes_overloaded_total: 2, handshakes_refused_total: 2 });

  // Those that are in go on, the one that polls onto a WebSocket too.
  await polling.post("40");
  expect(await (await polling.poll()).text()).toStartWith("40{");
  const taking = openSocket(url, `&sid=${polling.sid}`);
  expect(await taking.opened).toBe(true);
  taking.socket.close();

  const gone = new Promise<void>((resolve) => {
    for (const conn of engine.connections())
      if (conn.transport.name === "websocket") conn.once("close", () => resolve());
  });
  socket.socket.close();
  await gone;
  const next = openSocket(url, "");
  expect(await next.opened).toBe(true);
  next.socket.close();
});

test("createEngine refuses an address that comes too often with 429 and when to come again", async () => {
  let now = 0;
  const metrics = createMetrics();
  const admission = createAdmission({
    rate: { perSecond: 1, burst: 2 },
    inFlightMax: 1,
    monotonicNow: () => now,
    metrics,
  });
  const { url } = start({ metrics, admitHandshake: admission.admitHandshake });
  // Ten a second, fifty seconds' worth at once; what breaks the protocol costs nothing.
  for (let come = 0; come < 499; come++) admission.admitHandshake("127.0.0.1");
  expect((await handshake(url, "&EIO=3")).status).toBe(200);
  expect((await fetch(`${url}/socket.io/?EIO=3&transport=polling`)).status).toBe(400);
  const refused = await handshake(url);
  expect(refused.status).toBe(429);
  expect(refused.headers.get("retry-after")).toBe("1");
  expect(await refused.json()).toMatchObject({ code: "rate_limited", retryable: true, retry_after_ms: 100 });
  expect(await openSocket(url, "").opened).toBe(false);
  expect(metrics.snapshot()).toMatchObject({ handshakes_rate_limited_total: 2 });
  now = 100;
  const socket = openSocket(url, "");
  expect(await socket.opened).toBe(true);
  socket.socket.close();
});

test("createEngine counts a session twice for as long as it polls", async () => {
  const { promise: upgraded, resolve } = Promise.withResolvers<void>();
  const { url, engine } = start({ connectionsMax: 4, onUpgrade: () => resolve() });
  const [first] = [await openPolling(url), await openPolling(url)];
  expect(await openSocket(url, "").opened).toBe(false);
  // Upgraded, it has one connection: there is room for a WebSocket, and not for one that polls.
  await first.post("40");
  const taking = openSocket(url, `&sid=${first.sid}`);
  await taking.opened;
  taking.socket.send("2probe");
  taking.socket.send("5");
  await upgraded;
  expect((await handshake(url)).status).toBe(503);
  const second = openSocket(url, "");
  expect(await second.opened).toBe(true);
  expect(await openSocket(url, "").opened).toBe(false);
  // And both are free again when it has ended.
  for (const { socket } of [taking, second]) socket.close();
  while ([...engine.connections()].length > 1) await new Promise(setImmediate);
  expect((await handshake(url)).status).toBe(200);
  expect((await handshake(url)).status).toBe(503);
});
