/** The guard around bun-engine, each hole through real sockets. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { join } from "node:path";
import { io as connectClient } from "socket.io-client";
import { LIMITS } from "../../src/limits.ts";
import {
  clientFrame,
  type GuestServer,
  type GuestServerOptions,
  type GuestPeer,
  openPolling,
  openRawSocket,
  openSocket,
  rawExchange,
  startGuestServer,
} from "../fixture/engine.ts";

const hosts: GuestServer[] = [];
const start = (options?: GuestServerOptions) => {
  const host = startGuestServer(options);
  hosts.push(host);
  return host;
};
afterEach(async () => {
  for (const host of hosts.splice(0)) await host.stop();
});

const handshake = "/socket.io/?EIO=4&transport=polling";
const upgradeHead = (query: string, more = "") =>
  `GET /socket.io/?${query} HTTP/1.1\r\nHost: chat\r\nConnection: Upgrade\r\n${more}\r\n`;
const websocketHead =
  "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
const headersCame = (got: string) => got.includes("\r\n\r\n");
const statusOf = (answer: string) => Number(answer.split(" ", 2)[1]);

const faultOf = async (response: Response) => ({
  status: response.status,
  code: ((await response.json()) as { code: unknown }).code,
});

/** Resolves when the session is gone: what it closed for. */
const closeOf = (host: GuestServer) =>
  new Promise<string>((resolve) => {
    for (const connection of host.engine.connections()) connection.once("close", resolve);
  });

describe("createEngine refuses what breaks the protocol", () => {
  test.each([
    ["an unknown transport", "GET", "/socket.io/?EIO=4&transport=pigeon", 0],
    ["no transport", "GET", "/socket.io/?EIO=4", 0],
    ["an unknown sid", "GET", `${handshake}&sid=nobody`, 1],
    ["a prototype's name as sid", "GET", `${handshake}&sid=__proto__`, 1],
    ["a POST as handshake", "POST", handshake, 2],
    ["a PUT as handshake", "PUT", handshake, 2],
    ["a DELETE as handshake", "DELETE", handshake, 2],
    ["the older protocol", "GET", "/socket.io/?EIO=3&transport=polling", 5],
    ["no protocol", "GET", "/socket.io/?transport=polling", 5],
    ["no protocol, with an empty sid", "GET", "/socket.io/?transport=polling&sid=", 5],
    ["a WebSocket's transport without an upgrade", "GET", "/socket.io/?EIO=4&transport=websocket", 3],
  ])("%s gets 400", async (_, method, path, code) => {
    const { url, metrics } = start();
    expect(await faultOf(await fetch(url + path, { method }))).toEqual({ status: 400, code });
    expect(metrics.snapshot().handshakes_refused_total).toBe(/sid=./.test(path) ? 0 : 1);
  });

  test("HEAD gets 400, with a session and without", async () => {
    const { url } = start();
    const session = await openPolling(url);
    expect((await fetch(url + handshake, { method: "HEAD" })).status).toBe(400);
    expect((await fetch(session.url, { method: "HEAD" })).status).toBe(400);
    expect(await faultOf(await fetch(session.url, { method: "PUT" }))).toEqual({ status: 400, code: 3 });
  });

  test.each([
    ["an upgrade of transport polling", "EIO=4&transport=polling", websocketHead],
    ["an upgrade to another protocol", "EIO=4&transport=websocket", "Upgrade: h2c\r\n"],
    ["an upgrade without a key", "EIO=4&transport=websocket", "Upgrade: websocket\r\n"],
    ["an upgrade with an unknown sid", "EIO=4&transport=websocket&sid=nobody", websocketHead],
  ])("%s gets 400 and opens nothing", async (_, query, head) => {
    const { port, engine } = start();
    expect(statusOf(await rawExchange(port, upgradeHead(query, head), headersCame))).toBe(400);
    expect([...engine.connections()]).toHaveLength(0);
  });

  test.each(["h2c", "TLS/1.0", "h2c, websocket"])(
    "an Upgrade to %s is ignored: a client that offers it polls",
    async (protocol) => {
      const { url, port } = start();
      const upgrade = `Upgrade: ${protocol}\r\n`;
      const opened = await rawExchange(port, upgradeHead("EIO=4&transport=polling", upgrade), headersCame);
      expect(statusOf(opened)).toBe(200);
      const session = await openPolling(url, { upgrade: protocol, connection: "Upgrade" });
      expect(await (await session.post("40")).text()).toBe("ok");
      expect(await (await session.poll()).text()).toStartWith('40{"sid":');
    },
  );

  test("a path beneath gets 404", async () => {
    const { engine, url, server } = start();
    expect((await engine.handle(new Request(`${url}/socket.io/x`), server)).status).toBe(404);
    expect(engine.serves(new Request(`${url}/socket.io/x`))).toBe(false);
  });

  test.each(["", "abc", "5", "2", "6", "0", "4\u0000", "451-[", "49", "4{", '42["x"]', "b!!!!"])(
    "the frame %j from a client that has joined nothing leaves the others unharmed",
    async (frame) => {
      const { url, peers } = start();
      const other = openSocket(url, "");
      await other.frame();
      const { socket, closed, ...garbage } = openSocket(url, "");
      await garbage.frame();
      socket.send(frame);
      if (frame !== "b!!!!") await closed;
      const session = await openPolling(url);
      await session.post(frame);
      other.socket.send("40");
      expect(await other.frame()).toStartWith("40{");
      expect(peers.size).toBe(1);
      socket.close();
      other.socket.close();
    },
  );

  test("a payload that does not parse gets 400", async () => {
    const session = await openPolling(start().url);
    expect((await session.post("abc")).status).toBe(400);
    expect(await faultOf(await session.poll())).toEqual({ status: 400, code: 1 });
  });

  test("a WebSocket for a session that has one is opened and closed", async () => {
    const { url } = start();
    const session = await openPolling(url);
    const first = openSocket(url, `&sid=${session.sid}`);
    await first.opened;
    first.socket.send("2probe");
    expect(await first.frame()).toBe("3probe");
    const early = openSocket(url, `&sid=${session.sid}`);
    expect(await early.opened).toBe(true);
    await early.closed;
    first.socket.send("5");
    first.socket.send("40");
    expect(await first.frame()).toStartWith("40{");
    const late = openSocket(url, `&sid=${session.sid}`);
    expect(await late.opened).toBe(true);
    await late.closed;
    expect(await faultOf(await session.poll())).toEqual({ status: 400, code: 3 });
    first.socket.send('42["x"]');
    expect(first.socket.readyState).toBe(WebSocket.OPEN);
    first.socket.close();
  });

  test("a request that asks to close is told that it will be", async () => {
    const { port } = start();
    const answer = await rawExchange(
      port,
      `GET ${handshake} HTTP/1.1\r\nHost: chat\r\nConnection: close\r\n\r\n`,
    );
    expect(answer.toLowerCase()).toContain("\r\nconnection: close\r\n");
  });
});

describe("createEngine keeps foreign origins out", () => {
  const foreign = { Origin: "http://foe.test" };
  const friend = { Origin: "http://friend.test" };

  test("a foreign handshake, upgrade and POST get 403 in JSON", async () => {
    const { url, port, engine } = start();
    const refused = await fetch(url + handshake, { headers: foreign });
    expect([refused.status, await refused.json()]).toEqual([
      403,
      { code: "forbidden", message: "Origin http://foe.test is not in CORS_ORIGINS.", retryable: false },
    ]);
    const head = `${websocketHead}Origin: http://foe.test\r\n`;
    const answer = await rawExchange(port, upgradeHead("EIO=4&transport=websocket", head), headersCame);
    expect(statusOf(answer)).toBe(403);
    expect([...engine.connections()]).toHaveLength(0);
    const session = await openPolling(url);
    expect((await session.post("40", { headers: foreign })).status).toBe(403);
    const taking = upgradeHead(`EIO=4&transport=websocket&sid=${session.sid}`, head);
    expect(statusOf(await rawExchange(port, taking, headersCame))).toBe(403);
    expect((await session.post("40")).status).toBe(200);
  });

  test("a foreign poll is answered without a grant", async () => {
    const session = await openPolling(start().url);
    await session.post("40");
    const answer = await session.poll({ headers: foreign });
    expect(answer.status).toBe(200);
    expect(answer.headers.get("access-control-allow-origin")).toBeNull();
  });

  test("a friend is granted on every answer, faults too", async () => {
    const { url } = start();
    const session = await openPolling(url, friend);
    for (const answer of [
      await session.post("40"),
      await session.poll(),
      await fetch(`${url}${handshake}&sid=nobody`, { headers: friend }),
    ]) {
      expect(answer.headers.get("access-control-allow-origin")).toBe("http://friend.test");
      expect(answer.headers.get("vary")).toContain("Origin");
      expect(answer.headers.get("cache-control")).toBe("no-store");
    }
  });

  test("a preflight grants a friend what it asks for, and a foe nothing", async () => {
    const { url } = start();
    const ask = (origin: Record<string, string>) =>
      fetch(url + handshake, {
        method: "OPTIONS",
        headers: {
          ...origin,
          "Access-Control-Request-Method": "POST",
          "Access-Control-Request-Headers": "x-y",
        },
      });
    const granted = await ask(friend);
    expect(granted.status).toBe(204);
    expect(granted.headers.get("access-control-allow-methods")).toBe("GET, POST");
    expect(granted.headers.get("access-control-allow-headers")).toBe("x-y");
    const refused = await ask(foreign);
    expect(refused.status).toBe(204);
    expect(refused.headers.get("access-control-allow-origin")).toBeNull();
    expect(refused.headers.get("access-control-allow-methods")).toBeNull();
  });
});

describe("createEngine lets go", () => {
  test("a draining engine refuses new sessions and keeps those it has", async () => {
    const { url, port, engine } = start();
    const session = await openPolling(url);
    engine.refuseHandshakes();
    expect(await faultOf(await fetch(url + handshake))).toEqual({ status: 503, code: "draining" });
    const answer = await rawExchange(
      port,
      upgradeHead("EIO=4&transport=websocket", websocketHead),
      headersCame,
    );
    expect(statusOf(answer)).toBe(503);
    await session.post("40");
    expect(await (await session.poll()).text()).toStartWith("40{");
    const taking = openSocket(url, `&sid=${session.sid}`);
    expect(await taking.opened).toBe(true);
    taking.socket.close();
  });

  test("after close() nobody comes in", async () => {
    const { url, engine } = start();
    engine.close();
    expect((await fetch(url + handshake)).status).toBe(503);
  });

  test("a connection that is closed alone brings its client back", async () => {
    const { url, engine, nextPeer } = start();
    const client = connectClient(url, { transports: ["websocket"], reconnectionDelay: 1 });
    await new Promise((resolve) => client.once("connect", () => resolve(null)));
    const again = nextPeer();
    for (const connection of engine.connections()) connection.close();
    await again;
    client.close();
  });

  test("a poll that its client gives up ends the session", async () => {
    const host = start();
    const session = await openPolling(host.url);
    await session.post("40");
    await session.poll();
    const closed = closeOf(host);
    const giveUp = new AbortController();
    const poll = session.poll({ signal: giveUp.signal }).catch((error) => error.name);
    while (host.server.pendingRequests === 0) await new Promise(setImmediate);
    giveUp.abort();
    expect(await poll).toBe("AbortError");
    expect(await closed).toBe("transport error");
  });

  // The session ends so many microtasks after its request came in: at each step of the engine once.
  test.each(Array.from({ length: 16 }, (_, steps) => steps))(
    "a request whose session ends %d steps later gets 200 or 400, and leaves no socket behind",
    async (steps) => {
      const host = start();
      const crossing = Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        websocket: host.engine.websocket,
        async fetch(request, server) {
          const answered = host.engine.handle(request, server);
          for (let step = 0; step < steps; step++) await null;
          for (const { transport } of host.engine.connections()) transport.close();
          return answered;
        },
      });
      const url = crossing.url.origin;
      for (const method of ["GET", "POST"]) {
        const { sid } = await openPolling(host.url);
        const init = method === "GET" ? {} : { method, body: "40" };
        expect([200, 400]).toContain((await fetch(`${url}${handshake}&sid=${sid}`, init)).status);
      }
      const { sid } = await openPolling(host.url);
      for (const connection of host.engine.connections()) connection["opts"].upgradeTimeout = 50;
      await openSocket(url, `&sid=${sid}`).closed;
      expect([...host.engine.connections()]).toHaveLength(0);
      await crossing.stop(true);
    },
  );

  test("frames for a socket that has closed are dropped", async () => {
    const host = start();
    const arrived = host.nextPeer();
    const client = openSocket(host.url, "");
    await client.frame();
    client.socket.send("40");
    const { socket } = (await arrived).session;
    const closed = closeOf(host);
    client.socket.close();
    await closed;
    for (const frame of ["3", "2", "40", "1", ""]) {
      host.engine.websocket.message?.(socket as never, frame);
    }
    expect([...host.engine.connections()]).toHaveLength(0);
  });
});

test.each(["polling", "websocket"])(
  "createEngine asks about a newcomer by its address, over %s",
  async (way) => {
    const asked: string[] = [];
    const host = start({ admitHandshake: (address) => asked.push(address) });
    const client = connectClient(host.url, { transports: [way] });
    await host.nextPeer();
    expect(asked).toEqual(["127.0.0.1"]);
    client.close();
  },
);

describe("createEngine bounds what a client sends", () => {
  const chunkedHead = (path: string) =>
    `POST ${path} HTTP/1.1\r\nHost: chat\r\nTransfer-Encoding: chunked\r\n\r\n`;
  const pathOf = ({ sid }: { sid: string }) => `${handshake}&sid=${sid}`;

  test("a POST while another is read closes the session", async () => {
    const host = start();
    const session = await openPolling(host.url);
    const closed = closeOf(host);
    const first = connect(host.port, "127.0.0.1");
    first.write(`${chunkedHead(pathOf(session))}3\r\n42[\r\n`);
    // The first is under way when the server has it pending.
    while (host.server.pendingRequests === 0) await new Promise(setImmediate);
    expect((await session.post("40")).status).toBe(400);
    await closed;
    first.destroy();
    expect(host.metrics.snapshot().engine_abuse_closed_total).toBe(1);
  });

  test("a body of octets closes the session", async () => {
    const host = start();
    const session = await openPolling(host.url);
    const closed = closeOf(host);
    const headers = { "Content-Type": "application/octet-stream" };
    expect((await session.post("40", { headers })).status).toBe(400);
    await closed;
  });

  test("a body that is not UTF-8 closes the session, and nothing of it is heard", async () => {
    const heard: unknown[] = [];
    const host = start({ onEvent: (_, name, args) => void heard.push([name, ...args]) });
    const session = await openPolling(host.url);
    await session.post("40");
    const closed = closeOf(host);
    const body = Buffer.from('42["say","a\xff"]', "latin1");
    const answer = await fetch(session.url, { method: "POST", body });
    expect(await faultOf(answer)).toEqual({ status: 400, code: 3 });
    await closed;
    expect(heard).toEqual([]);
  });

  test("a body that its client gives up closes the session", async () => {
    const host = start();
    const session = await openPolling(host.url);
    const closed = closeOf(host);
    const first = connect(host.port, "127.0.0.1");
    first.write(`${chunkedHead(pathOf(session))}3\r\n42[\r\n`);
    while (host.server.pendingRequests === 0) await new Promise(setImmediate);
    first.destroy();
    await closed;
  });

  test("a body that does not end in time closes the session", async () => {
    const host = start({ pingTimeoutMs: 200 });
    const session = await openPolling(host.url);
    const answer = await rawExchange(host.port, `${chunkedHead(pathOf(session))}3\r\n42[\r\n`, headersCame);
    expect(statusOf(answer)).toBe(400);
    expect([...host.engine.connections()]).toHaveLength(0);
  });

  test.each([
    [
      "with its length",
      (path: string) => `POST ${path} HTTP/1.1\r\nHost: chat\r\nContent-Length: 1000001\r\n\r\n`,
    ],
    [
      "in chunks",
      (path: string) => `${chunkedHead(path)}${"ffff\r\n".concat("x".repeat(65_535), "\r\n").repeat(40)}`,
    ],
  ])("a body over the ceiling, %s, gets 413 and leaves the others unharmed", async (_, text) => {
    const { url, port, metrics } = start();
    const other = await openPolling(url);
    const session = await openPolling(url);
    expect(statusOf(await rawExchange(port, text(pathOf(session)), headersCame))).toBe(413);
    expect(await faultOf(await session.poll())).toEqual({ status: 400, code: 1 });
    expect(metrics.snapshot().engine_abuse_closed_total).toBe(1);
    expect((await other.post("40")).status).toBe(200);
    expect(await (await other.poll()).text()).toStartWith("40{");
  });

  test("a body in more pieces than there may be gets 400 and ends its session, which is counted", async () => {
    const { url, port, metrics } = start();
    const session = await openPolling(url);
    const pieces = "1\r\n4\r\n".repeat(LIMITS.bodyPiecesMax + 1);
    const answer = await rawExchange(port, `${chunkedHead(pathOf(session))}${pieces}`, headersCame);
    expect(statusOf(answer)).toBe(400);
    expect(metrics.snapshot().engine_abuse_closed_total).toBe(1);
    expect(await faultOf(await session.poll())).toEqual({ status: 400, code: 1 });
  });

  test("a frame over the ceiling closes its own socket with 1009", async () => {
    const { url } = start();
    const other = openSocket(url, "");
    const client = openSocket(url, "");
    await client.frame();
    await other.frame();
    client.socket.send(`4${"x".repeat(1_000_000)}`);
    expect((await client.closed).code).toBe(1009);
    other.socket.send("40");
    expect(await other.frame()).toStartWith("40{");
    other.socket.close();
  });

  const packets = (count: number, packet: string) => Array.from({ length: count }, () => packet).join("\x1e");
  test.each([
    ["packets", packets(LIMITS.packetsPerTickMax + 1, "4")],
    ["pongs", packets(LIMITS.pongsPerPostMax + 1, "3")],
    ["empty packets", "\x1e".repeat(900_000)],
  ])("too many %s in one POST close the session before any is read", async (_, body) => {
    let joined = 0;
    const host = start({ onDisconnect: () => joined++ });
    const session = await openPolling(host.url);
    const closed = closeOf(host);
    expect((await session.post(`40\x1e${body}`)).status).toBe(400);
    await closed;
    expect(joined).toBe(0);
    expect(host.metrics.snapshot().engine_abuse_closed_total).toBe(1);
  });

  test("a client may join and leave as often as it likes", async () => {
    const { url } = start();
    const client = openSocket(url, "");
    await client.frame();
    for (let round = 0; round < 300; round++) {
      client.socket.send("40");
      expect(await client.frame()).toStartWith("40{");
      client.socket.send("41");
      client.socket.send("40/nowhere,");
      expect(await client.frame()).toStartWith("44/nowhere,");
    }
    client.socket.close();
  });

  test("as many packets as a stock client puts into one POST all arrive, in order", async () => {
    const { promise: got, resolve } = Promise.withResolvers<unknown[]>();
    const numbers: unknown[] = [];
    const n = (_: GuestPeer, number: unknown) => {
      numbers.push(number);
      if (number === 4_999) resolve(numbers);
    };
    const host = start({ events: { n } });
    const session = await openPolling(host.url);
    await session.post("40");
    const body = Array.from({ length: 5_000 }, (_, n) => `42["n",${n}]`).join("\x1e");
    expect((await session.post(body)).status).toBe(200);
    expect(await got).toEqual(Array.from({ length: 5_000 }, (_, n) => n));
  });

  test("as many frames as may come in one tick are all taken, however often, and one more ends the session", async () => {
    let taken = 0;
    const host = start({ events: { n: () => taken++ } });
    const arrived = host.nextPeer();
    const client = openSocket(host.url, "");
    await client.frame();
    client.socket.send("40");
    const { socket } = (await arrived).session;
    const take = (count: number) => {
      for (let n = 0; n < count; n++) host.engine.websocket.message?.(socket as never, '42["n"]');
    };
    for (let tick = 1; tick <= 3; tick++) {
      await new Promise(setImmediate);
      take(LIMITS.packetsPerTickMax);
      expect(taken).toBe(tick * LIMITS.packetsPerTickMax);
    }
    expect(host.metrics.snapshot().engine_abuse_closed_total).toBe(0);
    await new Promise(setImmediate);
    take(LIMITS.packetsPerTickMax + 1);
    expect(taken).toBe(4 * LIMITS.packetsPerTickMax);
    await client.closed;
    expect(host.metrics.snapshot().engine_abuse_closed_total).toBe(1);
  });

  test("a second probe ends the socket: each would arm a timer for ever", async () => {
    const { url } = start();
    const session = await openPolling(url);
    const client = openSocket(url, `&sid=${session.sid}`);
    await client.opened;
    client.socket.send("2probe");
    expect(await client.frame()).toBe("3probe");
    client.socket.send("2probe");
    await client.closed;
  });
});

describe("createEngine keeps time", () => {
  test("a quiet poll outlives the server's idle timeout, up to the ping", async () => {
    const { url } = start({ pingIntervalMs: 4_500, idleTimeout: 1 });
    const session = await openPolling(url);
    expect(await (await session.poll()).text()).toBe("2");
    expect((await session.post("3")).status).toBe(200);
  });

  test.each(["polling", "websocket"])("a stock client over %s lives through its pings", async (transport) => {
    const host = start({ pingIntervalMs: 40, pingTimeoutMs: 400 });
    const client = connectClient(host.url, { transports: [transport], reconnection: false });
    let ended = false;
    client.on("disconnect", () => {
      ended = true;
    });
    await new Promise((resolve) => client.once("connect", () => resolve(null)));
    for (let pings = 0; pings < 15; pings++) {
      await new Promise((resolve) => client.io.engine.once("ping", () => resolve(null)));
    }
    expect(ended).toBe(false);
    client.close();
  });

  test("pongs that no ping asked for do not keep a session alive", async () => {
    const host = start({ pingIntervalMs: 100, pingTimeoutMs: 300 });
    const session = await openPolling(host.url);
    await session.post("40");
    const closed = closeOf(host);
    let over = false;
    closed.then(() => {
      over = true;
    });
    // Never polls, so no ping reaches it, and pongs all the same.
    while (!over) await (await session.post("3")).text();
    expect(await closed).toBe("ping timeout");
  });
});

describe("createEngine cuts off who does not read", () => {
  let child: Bun.Subprocess<"ignore", "pipe", "inherit">;
  let url: string;
  let port: number;
  beforeEach(async () => {
    child = Bun.spawn(["bun", join(import.meta.dir, "../fixture/engine-server.ts")], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    for await (const line of child.stdout) {
      port = Number(Buffer.from(line).toString());
      break;
    }
    url = `http://127.0.0.1:${port}`;
  });
  afterEach(async () => {
    child.kill();
    await child.exited;
  });

  interface Facts {
    readonly rss: number;
    readonly slow_clients_disconnected_total: number;
    readonly engine_abuse_closed_total: number;
  }
  const facts = async () => (await (await fetch(url)).json()) as Facts;
  /** The most memory and the slowest answer while `work` is under way. */
  async function watch(work: Promise<unknown>) {
    let done = false;
    work.finally(() => {
      done = true;
    });
    let [rss, slowestMs] = [0, 0];
    do {
      const began = performance.now();
      ({ rss } = await facts().then((now) => ({ rss: Math.max(rss, now.rss) })));
      slowestMs = Math.max(slowestMs, performance.now() - began);
    } while (!done);
    await work;
    return { rss, slowestMs };
  }
  /** Lets the process reach the memory it needs for ordinary work of the same kind. */
  async function warm() {
    for (let round = 0; round < 5; round++) {
      const session = await openPolling(url);
      await session.post(`4${"x".repeat(900_000)}`);
    }
    for (let round = 0; round < 20; round++) await facts();
  }
  const MEGABYTE = 1 << 20;

  test("three POSTs of 499,000 pongs move memory by less than 20 MB, and others are answered meanwhile", async () => {
    await warm();
    const before = (await facts()).rss;
    const flood = Array.from({ length: 499_000 }, () => "3").join("\x1e");
    const sessions = [await openPolling(url), await openPolling(url), await openPolling(url)];
    const { rss, slowestMs } = await watch(Promise.all(sessions.map((session) => session.post(flood))));
    console.info(
      `pong flood: ${((rss - before) / MEGABYTE).toFixed(1)} MB, slowest ${slowestMs.toFixed(1)} ms`,
    );
    expect(rss - before).toBeLessThan(20 * MEGABYTE);
    expect(slowestMs).toBeLessThan(100);
    expect((await facts()).engine_abuse_closed_total).toBe(3);
  });

  /** Sends the same frame on and on until it is cut off; ten million at most. */
  async function floodUntilClosed(frame: Buffer, query = "") {
    const client = await openRawSocket(port, query);
    if (query === "") client.send("40");
    const frames = Buffer.concat(Array.from({ length: 20_000 }, () => frame));
    for (let round = 0; round < 500 && !client.tcp.destroyed; round++) {
      if (!client.tcp.write(frames)) {
        await Promise.race([new Promise((resolve) => client.tcp.once("drain", resolve)), client.closed]);
      }
      await new Promise(setImmediate);
    }
    await client.closed;
  }

  test.each([
    ["pongs", clientFrame("3")],
    ["unknown events", clientFrame('421["nope"]')],
    ["WebSocket's own pings", Buffer.from([0x89, 0x80, 0, 0, 0, 0])],
    ["WebSocket's own pongs", Buffer.from([0x8a, 0x80, 0, 0, 0, 0])],
  ])(
    "a flood of %s over a WebSocket ends it, moves memory by less than 20 MB, and others are answered meanwhile",
    async (kind, frame) => {
      await warm();
      const before = (await facts()).rss;
      const { rss, slowestMs } = await watch(floodUntilClosed(frame));
      console.info(
        `${kind} by WebSocket: ${((rss - before) / MEGABYTE).toFixed(1)} MB, slowest ${slowestMs.toFixed(1)} ms`,
      );
      expect((await facts()).engine_abuse_closed_total).toBe(1);
      expect(rss - before).toBeLessThan(20 * MEGABYTE);
      expect(slowestMs).toBeLessThan(500);
    },
  );

  test("a flood over a WebSocket that carries no session yet ends it, and is counted", async () => {
    const session = await openPolling(url);
    await floodUntilClosed(Buffer.from([0x89, 0x80, 0, 0, 0, 0]), `&sid=${session.sid}`);
    expect((await facts()).engine_abuse_closed_total).toBe(1);
    expect((await session.post("40")).status).toBe(200);
  });

  async function flood(count: number, chars: number, way: "publish" | "direct") {
    const driver = await openPolling(url);
    await driver.post("40");
    await driver.poll();
    await driver.post(`42["flood",${count},${chars},"${way}"]`);
  }
  const numbersOf = (texts: readonly string[]) =>
    texts
      .filter((text) => text.startsWith('42["m"'))
      .map((text) => Number(text.slice(7, text.indexOf(",", 7))));

  test.each(["publish", "direct"] as const)(
    "a reader that stops is cut off, counted and costs less than 20 MB (%s)",
    async (way) => {
      await warm();
      const client = await openRawSocket(port);
      client.send("40");
      await client.heardAtLeast(2);
      client.send('42["enter"]');
      // The same kind of work while it still reads.
      await flood(1_000, 1_000, way);
      await client.heardAtLeast(1_002);
      client.texts.length = 0;
      client.tcp.pause();
      const before = (await facts()).rss;
      // 40 MB: more than what the kernel takes for a paused reader.
      await flood(4_000, 10_000, way);
      let most = 0;
      let now = await facts();
      while (now.slow_clients_disconnected_total < 1) {
        most = Math.max(most, now.rss);
        now = await facts();
      }
      console.info(`slow reader, ${way}: ${((most - before) / MEGABYTE).toFixed(1)} MB`);
      expect(most - before).toBeLessThan(20 * MEGABYTE);
      client.tcp.resume();
      await client.closed;
      // What it did get has no hole: nothing was skipped before it was cut off.
      const got = numbersOf(client.texts);
      expect(got).toEqual(Array.from(got, (_, n) => n));
      expect(got.length).toBeLessThan(4_000);
    },
  );
});

test("createEngine never skips a message for a slow reader that keeps sending", async () => {
  // Bun's own close at its limit lets such a reader stay and miss messages.
  const host = start({ outboundBytesMax: 65_536, events: { noise() {} } });
  const arrived = host.nextPeer();
  const client = await openRawSocket(host.port);
  client.send("40");
  host.join(await arrived, "room");
  let ended = false;
  client.closed.then(() => {
    ended = true;
  });
  const noise = clientFrame(`42["noise","${"n".repeat(500)}"]`);
  const pad = "x".repeat(10_000);
  for (let n = 0, tick = 0; !ended && tick < 5_000; tick++) {
    for (let i = 0; i < 50; i++) host.publish("room", "m", n++, pad);
    if (!client.tcp.destroyed) client.tcp.write(noise);
    if (tick % 20 === 0) client.tcp.isPaused() ? client.tcp.resume() : client.tcp.pause();
    await new Promise(setImmediate);
  }
  client.tcp.resume();
  await client.closed;
  const got = client.texts
    .filter((text) => text.startsWith('42["m"'))
    .map((text) => Number(text.slice(7, text.indexOf(",", 7))));
  expect(got).toEqual(Array.from(got, (_, n) => n));
  expect(host.metrics.snapshot().slow_clients_disconnected_total).toBe(1);
});

test("createEngine bounds what waits for a client that does not poll", async () => {
  const host = start({ outboundBytesMax: 100_000 });
  const arrived = host.nextPeer();
  const session = await openPolling(host.url);
  await session.post("40");
  const peer = await arrived;
  const closed = closeOf(host);
  // What waits already is the answer to CONNECT: 9 × 10 kB more stay below the ceiling, 10 do not.
  for (let n = 0; n < 9; n++) peer.emit("m", "x".repeat(10_000));
  expect(host.metrics.snapshot().slow_clients_disconnected_total).toBe(0);
  peer.emit("m", "x".repeat(10_000));
  expect(await closed).toBe("transport close");
  expect(host.metrics.snapshot().slow_clients_disconnected_total).toBe(1);
  expect(await faultOf(await session.poll())).toEqual({ status: 400, code: 1 });
});
