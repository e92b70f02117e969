import { afterEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { loadConfig } from "../src/config.ts";
import { LIMITS } from "../src/limits.ts";
import type { RoomName, Seq } from "../src/domain/ids.ts";
import { openRepository } from "../src/repository/open.ts";
import { startService } from "../src/service.ts";
import { openPolling, openSocket, rawExchange } from "./fixture/engine.ts";
import { type GatedRepository, gated } from "./fixture/gated.ts";
import { startTestService } from "./fixture/service.ts";
import { openSqlite, scratch, silentLog } from "./fixture/sqlite.ts";

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

test.each(["/livez", "/socket.io/?EIO=4&transport=polling&sid=nobody"])(
  "startService cuts off who asks for %s on and on without waiting for answers, and counts it",
  async (path) => {
    const { service, url, dispose } = await startTestService();
    undo.push(dispose);
    const count = 20 * LIMITS.requestsPerTickMax;
    let got = "";
    await new Promise<void>((resolve) => {
      const socket = connect(service.port, "127.0.0.1", () =>
        socket.write(`GET ${path} HTTP/1.1\r\nHost: chat\r\n\r\n`.repeat(count)),
      );
      socket.on("data", (data) => {
        got += data;
      });
      // What was sent in vain makes the end a reset.
      socket.on("error", () => {});
      socket.on("close", () => resolve());
    });
    expect(got.split("HTTP/1.1 ").length).toBeLessThan(count);
    expect(service.metrics.snapshot().requests_overloaded_total).toBe(1);
    expect((await fetch(`${url}/livez`)).status).toBe(200);
  },
);

describe("drain", () => {
  /** A service that is to be drained, on a store whose answers can be held. */
  async function start(drainMs: number) {
    const folder = await scratch();
    undo.push(() => folder[Symbol.asyncDispose]());
    let repository: GatedRepository | undefined;
    const service = await startService(
      loadConfig({ HOST: "127.0.0.1", PORT: "0", SQLITE_PATH: folder.path, DRAIN_MS: String(drainMs) }),
      silentLog,
      async (...how) => {
        repository = gated(await openRepository(...how));
        return repository;
      },
    );
    const open = async () => {
      const client = openSocket(`http://127.0.0.1:${service.port}`, "");
      await client.frame();
      client.socket.send("40");
      await client.frame();
      return client;
    };
    /** What a room holds, once the service has let go of the store. */
    const stored = async (room: string) => {
      const reopened = await openSqlite(folder.path);
      const bounds = { messagesMax: LIMITS.pageMax, textBytesMax: LIMITS.pageBytesMax };
      const { messages } = await reopened.readAfter(room as RoomName, 0 as Seq, bounds);
      await reopened.close();
      return messages.map(({ text }) => text);
    };
    return { service, repository: repository as unknown as GatedRepository, open, stored };
  }

  /** A POST whose body the server waits for: `finish` sends the rest of it. */
  async function startPost(port: number, path: string, type: string, body: string) {
    const half = body.length >> 1;
    let got = "";
    const socket = connect(port, "127.0.0.1");
    undo.push(() => socket.destroy());
    socket.on("error", () => {});
    socket.on("data", (data) => {
      got += data;
    });
    const ended = new Promise<void>((resolve) => socket.on("close", () => resolve()));
    const head = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${type}\r\nContent-Length: ${body.length}\r\n\r\n`;
    await new Promise<void>((resolve) => socket.write(head + body.slice(0, half), () => resolve()));
    return {
      finish: () => socket.write(body.slice(half)),
      /** The whole answer; empty when the connection was cut. */
      answer: ended.then(() => got),
    };
  }

  const postOf = (text: string) => JSON.stringify({ user_id: "ana", message: text });
  const turns = async (count: number) => {
    for (let turn = 0; turn < count; turn++) await new Promise(setImmediate);
  };

  test("refuses a POST whose body ends during it before it is stored, and answers it", async () => {
    const { service, stored } = await start(0);
    const texts = Array.from({ length: 12 }, (_, n) => `m${n}`);
    const posts = await Promise.all(
      texts.map((text) => startPost(service.port, "/rooms/lobby/messages", "application/json", postOf(text))),
    );
    // Asked after them on connections of its own: the server has their heads by then.
    for (let n = 0; n < 3; n++) await fetch(`http://127.0.0.1:${service.port}/livez`);
    const drained = service.drain();
    for (const [n, { finish }] of posts.entries()) {
      finish();
      await turns(n);
    }
    expect(await drained).toBe(true);
    for (const { answer } of posts) {
      expect(await answer).toStartWith("HTTP/1.1 503 ");
      expect(await answer).toContain('"code":"draining"');
    }
    expect(await stored("lobby")).toEqual([]);
  });

  test("answers a POST that was taken before it, and cuts off one whose body does not end", async () => {
    const { service, repository, stored } = await start(0);
    const asking = repository.hold("append", "answered");
    const [taken, endless] = [
      await startPost(service.port, "/rooms/lobby/messages", "application/json", postOf("taken")),
      await startPost(service.port, "/rooms/lobby/messages", "application/json", postOf("endless")),
    ];
    taken.finish();
    await asking.reached;
    const drained = service.drain();
    await turns(10);
    asking.release();
    expect(await drained).toBe(true);
    expect(await taken.answer).toStartWith("HTTP/1.1 201 ");
    expect(await endless.answer).toBe("");
    expect(await stored("lobby")).toEqual(["taken"]);
  });

  test("acks or does not store what comes in a polling POST whose body ends during it", async () => {
    const { service, stored } = await start(0);
    const url = `http://127.0.0.1:${service.port}`;
    const senders = await Promise.all(
      Array.from({ length: 12 }, async (_, n) => {
        const polling = await openPolling(url);
        for (const body of ["40", '420["join_room","hall"]']) {
          await polling.post(body);
          await (await polling.poll()).text();
        }
        let heard = "";
        const polled = (async () => {
          for (;;) {
            const answer = await polling.poll().catch(() => undefined);
            const text = await answer?.text().catch(() => "");
            heard += text ?? "";
            if (answer?.status !== 200) return heard;
          }
        })();
        const post = await startPost(
          service.port,
          polling.url.slice(url.length),
          "text/plain",
          `421["send_message",{"room":"hall","user_id":"ana","message":"p${n}"}]`,
        );
        return { polled, post, text: `p${n}` };
      }),
    );
    for (let n = 0; n < 3; n++) await fetch(`${url}/livez`);
    let drained: Promise<boolean> | undefined;
    for (const [n, { post }] of senders.entries()) {
      if (n === 4) drained = service.drain();
      post.finish();
      await turns(n % 4);
    }
    expect(await drained).toBe(true);
    const held = await stored("hall");
    for (const { polled, text } of senders) {
      const said = /431\[\{"ok":(true|false)/.exec(await polled)?.[1];
      expect([text, held.includes(text)]).toEqual([text, said === "true"]);
    }
  });

  test("answers a join that is under way, and all that waits behind it", async () => {
    const { service, repository, open } = await start(0);
    const client = await open();
    const asking = repository.hold("head", "before");
    client.socket.send('421["join_room","lobby"]');
    client.socket.send('422["send_message",{"room":"lobby","user_id":"ada","message":"behind it"}]');
    client.socket.send('423["join_room","hall"]');
    client.socket.send('424["leave_room","hall"]');
    await asking.reached;
    const drained = service.drain();
    // Long enough for a drain that waits for nobody to close the connection.
    for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate);
    asking.release();
    const answers: string[] = [];
    while (answers.length < 4) {
      const frame = await client.frame();
      if (frame.startsWith("43")) answers.push(frame);
    }
    expect(answers.map((answer) => answer.slice(0, 3)).toSorted()).toEqual(["431", "432", "433", "434"]);
    // The first and what it alone was waited for are done; what waits behind yet another join may be refused.
    expect(answers[0]).toStartWith('431[{"ok":true');
    expect(answers.find((answer) => answer.startsWith("432"))).toStartWith('432[{"ok":true');
    expect(await drained).toBe(true);
    await client.closed;
  });

  test("waits for no connection that has gone before its turn", async () => {
    const { service, open } = await start(400);
    const [, gone] = [await open(), await open()];
    const began = performance.now();
    const drained = service.drain();
    gone.socket.close();
    expect(await drained).toBe(true);
    expect(performance.now() - began).toBeLessThan(LIMITS.lastWordsMs);
  });
});
