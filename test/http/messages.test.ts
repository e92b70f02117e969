import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import type { WireMessage } from "../../src/protocol/wire.ts";
import { post, refusalOf, startHttpApp, type TestHttpApp } from "../fixture/http-app.ts";

let app: TestHttpApp;
beforeAll(async () => {
  app = await startHttpApp();
});
afterAll(() => app.dispose());

interface Page {
  messages: WireMessage[];
  next_cursor: string | null;
  epoch: string;
  first_seq: number;
  seq: number;
}

const get = (path: string) => fetch(`${app.url}${path}`);
const page = async (path: string) => {
  const answer = await get(path);
  expect(answer.status).toBe(200);
  return (await answer.json()) as Page;
};
const say = async (room: string, user: string, ...texts: string[]) => {
  const said: WireMessage[] = [];
  for (const message of texts) {
    said.push((await (await post(app, room, { user_id: user, message })).json()) as WireMessage);
  }
  return said;
};
const texts = (messages: readonly WireMessage[]) => messages.map(({ message }) => message);

/** Follows the cursors to the end. */
async function walk(path: string, between: () => Promise<unknown> = async () => undefined) {
  const seen: WireMessage[] = [];
  const join = path.includes("?") ? "&" : "?";
  for (let cursor: string | null = ""; cursor !== null;) {
    const answer: Page = await page(cursor === "" ? path : `${path}${join}cursor=${cursor}`);
    seen.push(...answer.messages);
    cursor = answer.next_cursor;
    await between();
  }
  return seen;
}

describe("POST /rooms/{room}/messages", () => {
  test("answers 201 with the message, which the room's history then holds", async () => {
    const answer = await post(app, "post", {
      user_id: "anna",
      message: "héllo\n👋",
      timestamp: "2026-01-31T09:05:00.1239+02:00",
    });
    expect(answer.status).toBe(201);
    const message = (await answer.json()) as WireMessage;
    expect(message).toEqual({
      id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      room: "post",
      seq: 1,
      user_id: "anna",
      message: "héllo\n👋",
      timestamp: "2026-01-31T07:05:00.123Z",
      received_at: expect.stringMatching(/^20.*Z$/),
    });
    expect((await page("/rooms/post/messages")).messages).toEqual([message]);
  });

  test("answers a replay with 200 and the first message, and another text under the same key with 409", async () => {
    const send = (message: string, key: string) =>
      post(app, "keys", { user_id: "anna", message }, { "idempotency-key": key });
    const first = await send("one", "k 1");
    const again = await send("one", "k 1");
    expect([first.status, again.status]).toEqual([201, 200]);
    expect(await again.json()).toEqual(await first.json());
    expect(await refusalOf(await send("two", "k 1"))).toMatchObject({ status: 409, code: "conflict" });
    for (const key of ["k".repeat(129), "\u00e9", " "]) {
      expect(await refusalOf(await send("one", key))).toMatchObject({
        status: 400,
        code: "invalid_request",
        issues: [{ path: "Idempotency-Key" }],
      });
    }
    expect((await page("/rooms/keys/messages")).seq).toBe(1);
  });

  test.each([
    ["null", ""],
    ["7", ""],
    ['"text"', ""],
    ["[]", "message"],
    ["{}", "message"],
    ['{"user_id":"a","message":{"$gt":""}}', "message"],
    ['{"user_id":"a","message":" \\n"}', "message"],
    ['{"user_id":"a","message":"\\ud800"}', "message"],
    ['{"user_id":"a\\u0000","message":"x"}', "user_id"],
    ['{"user_id":["a"],"message":"x"}', "user_id"],
    ['{"message":"x"}', "user_id"],
    ['{"user_id":"a","message":"x","timestamp":"2026-01-31"}', "timestamp"],
    ['{"user_id":"a","message":"x","timestamp":"+99999-01-31T00:00:00Z"}', "timestamp"],
    ["{", ""],
    ["", ""],
    ['{"user_id":"a","message":"x"} x', ""],
    ["[".repeat(5_000) + "]".repeat(5_000), ""],
    [`${'{"a":'.repeat(1_500)}1${"}".repeat(1_500)}`, ""],
    [`{"user_id":"a","message":"x","more":${"[".repeat(4_000)}${"]".repeat(4_000)}}`, ""],
  ])("refuses the body %.60s at %j", async (body, path) => {
    const answer = await post(app, "refused", body);
    expect(await refusalOf(answer)).toMatchObject({
      status: 400,
      code: "invalid_request",
      issues: expect.arrayContaining([{ path, message: expect.any(String) }]),
    });
    expect((await page("/rooms/refused/messages")).seq).toBe(0);
  });

  test("never shows the input in a refusal", async () => {
    const answer = await post(app, "refused", {
      user_id: "secret\u0000",
      message: ["secret"],
      timestamp: "secret",
    });
    expect(answer.status).toBe(400);
    expect(await answer.text()).not.toContain("secret");
  });

  test("refuses a text over the ceiling in bytes with 413, and takes one that just fits", async () => {
    const send = (message: string) => post(app, "long", { user_id: "a", message });
    expect((await send("é".repeat(500))).status).toBe(201);
    for (const text of [`${"é".repeat(500)}a`, "a".repeat(1_001)]) {
      expect(await refusalOf(await send(text))).toMatchObject({ status: 413, code: "payload_too_large" });
    }
    expect((await page("/rooms/long/messages")).seq).toBe(1);
  });

  test("is refused while the server drains, and reading is not", async () => {
    const draining = await startHttpApp({ readiness: () => ({ ready: false, reason: "draining" }) });
    try {
      const answer = await post(draining, "late", { user_id: "a", message: "x" });
      expect(await refusalOf(answer)).toMatchObject({ status: 503, code: "draining", retryable: true });
      expect(await (await fetch(`${draining.url}/rooms/late/messages`)).json()).toMatchObject({ seq: 0 });
    } finally {
      await draining.dispose();
    }
  });
});

describe("GET /rooms/{room}/messages", () => {
  test("gives the newest first, and with after the oldest first", async () => {
    await say("order", "anna", "1", "2", "3", "4", "5");
    const newest = await page("/rooms/order/messages?limit=2");
    expect(texts(newest.messages)).toEqual(["5", "4"]);
    expect(newest).toMatchObject({ seq: 5, first_seq: 1 });
    const after = await page(`/rooms/order/messages?after=1&limit=3&epoch=${newest.epoch}`);
    expect(texts(after.messages)).toEqual(["2", "3", "4"]);
    const rest = await page(`/rooms/order/messages?cursor=${after.next_cursor}`);
    expect(texts(rest.messages)).toEqual(["5"]);
    expect(rest.next_cursor).toBeNull();
    expect(await page("/rooms/order/messages?after=5")).toMatchObject({ messages: [], next_cursor: null });
  });

  test("is an empty page for a room that nobody knows", async () => {
    expect(await page("/rooms/unknown/messages")).toMatchObject({
      messages: [],
      next_cursor: null,
      seq: 0,
      first_seq: 1,
    });
  });

  test("says when it cannot go on from where the reader was", async () => {
    await say("lost", "anna", "1");
    expect(await refusalOf(await get("/rooms/lost/messages?after=1&epoch=another"))).toMatchObject({
      status: 409,
      code: "epoch_changed",
    });
    expect(await refusalOf(await get("/rooms/lost/messages?after=2"))).toMatchObject({
      status: 400,
      code: "invalid_request",
      issues: [{ path: "after", message: "is ahead of the room" }],
    });
  });

  test("says 410 with the oldest number kept, for a place and for a cursor below it", async () => {
    let firstSeq = 1;
    const cut = await startHttpApp({
      // The store keeps everything as yet: its bounds are told as retention will leave them.
      between: (repository) => {
        const told = async (read: ReturnType<typeof repository.readAfter>) => {
          const found = await read;
          return { ...found, head: { ...found.head, firstSeq: firstSeq as typeof found.head.firstSeq } };
        };
        return {
          ...repository,
          readAfter: (...query) => told(repository.readAfter(...query)),
          readBefore: (...query) => told(repository.readBefore(...query)),
        };
      },
    });
    try {
      for (const message of ["1", "2", "3", "4"]) await post(cut, "old", { user_id: "anna", message });
      const read = (query: string) => fetch(`${cut.url}/rooms/old/messages?${query}`);
      const { next_cursor } = (await (await read("limit=2")).json()) as Page;
      firstSeq = 4;
      const truncated = { status: 410, code: "history_truncated", first_seq: 4 };
      expect(await refusalOf(await read("after=2"))).toMatchObject(truncated);
      expect(await refusalOf(await read(`cursor=${next_cursor}`))).toMatchObject(truncated);
      expect((await read("after=3")).status).toBe(200);
    } finally {
      await cut.dispose();
    }
  });

  test("walks every message once while others write", async () => {
    await say("walked", "anna", ...Array.from({ length: 25 }, (_, index) => String(index)));
    const write = () => say("walked", "bert", "more");
    const down = await walk("/rooms/walked/messages?limit=4", write);
    expect(down.map(({ seq }) => seq)).toEqual(Array.from({ length: 25 }, (_, index) => 25 - index));
  });

  test("walks upwards to a head that moves", async () => {
    await say("rising", "anna", "1", "2", "3", "4", "5");
    const seen: (number | null)[] = [];
    let path = "/rooms/rising/messages?after=0&limit=2";
    for (let step = 0; ; step += 1) {
      const { messages, next_cursor } = await page(path);
      seen.push(...messages.map(({ seq }) => seq));
      if (step < 3) await say("rising", "bert", "more");
      if (next_cursor === null) break;
      path = `/rooms/rising/messages?cursor=${next_cursor}&limit=2`;
    }
    expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });
});

describe("GET /messages/{user_id}", () => {
  test("gives what the user sent in all rooms, newest first, or in one", async () => {
    await say("one", "cara", "a");
    await say("two", "cara", "b");
    await say("one", "dora", "not hers");
    await say("one", "cara", "c");
    expect(texts((await page("/messages/cara")).messages)).toEqual(["c", "b", "a"]);
    expect(texts((await page("/messages/cara?room=one")).messages)).toEqual(["c", "a"]);
    expect(await page("/messages/nobody")).toEqual({ messages: [], next_cursor: null } as never);
  });

  test("keeps to from, inclusive, and to, exclusive", async () => {
    const said = await say("range", "emil", "a", "b", "c");
    const at = (said[1] as WireMessage).received_at;
    const expected = (keep: (time: string) => boolean) =>
      texts(said.filter(({ received_at }) => keep(received_at))).toReversed();
    for (const list of ["/messages/emil", "/rooms/range/messages"]) {
      expect(texts((await page(`${list}?from=${at}`)).messages)).toEqual(expected((time) => time >= at));
      expect(texts((await page(`${list}?to=${at}`)).messages)).toEqual(expected((time) => time < at));
    }
  });

  test("walks every message once while others write", async () => {
    await say("hall", "finn", ...Array.from({ length: 21 }, (_, index) => String(index)));
    const seen = await walk("/messages/finn?limit=4", () => say("hall", "finn", "more"));
    expect(texts(seen)).toEqual(Array.from({ length: 21 }, (_, index) => String(20 - index)));
  });
});

describe("long texts", () => {
  const COUNT = 60;
  const lengths = Array.from({ length: COUNT }, (_, n) => 16_000 - n);
  let own: TestHttpApp;
  beforeAll(async () => {
    own = await startHttpApp({ messageBytesMax: 16_384, bodyBytesMax: 100_000 });
    for (const length of lengths) {
      // Every other one is six times as long in JSON.
      const message = (length % 2 === 0 ? "x" : "\u0001").repeat(length);
      expect((await post(own, "long", { user_id: "vera", message })).status).toBe(201);
    }
  });
  afterAll(() => own.dispose());

  test.each([
    ["/rooms/long/messages?limit=200", true],
    ["/rooms/long/messages", true],
    ["/rooms/long/messages?after=0&limit=200", false],
    ["/messages/vera?limit=200", true],
    ["/messages/vera?room=long&limit=200", true],
  ])("are walked by the cursors of %s in short pages, every one once", async (path, isNewestFirst) => {
    const seen: WireMessage[] = [];
    let pages = 0;
    for (let cursor: string | null = ""; cursor !== null;) {
      const at: string = cursor === "" ? path : `${path}${path.includes("?") ? "&" : "?"}cursor=${cursor}`;
      const answer = await fetch(`${own.url}${at}`);
      expect(answer.status).toBe(200);
      const text = await answer.text();
      expect(answer.headers.get("content-length")).toBe(String(Buffer.byteLength(text)));
      expect(text.length).toBeLessThan(LIMITS.pageBytesMax + 1_000);
      const page = JSON.parse(text) as Page;
      expect(page.messages.length).toBeGreaterThan(0);
      seen.push(...page.messages);
      cursor = page.next_cursor;
      pages += 1;
    }
    const expected = isNewestFirst ? lengths.toReversed() : lengths;
    expect(seen.map(({ message }) => message.length)).toEqual(expected);
    // 58 kB each as JSON, on average: as many as fit.
    expect(pages).toBeWithin(12, 30);
  });

  test("of which one is longer than a page are a page each", async () => {
    const giant = await startHttpApp({ messageBytesMax: 1_000_000, bodyBytesMax: 2_000_000 });
    try {
      for (const fill of ["a", "é", "c"]) {
        await post(giant, "giants", { user_id: "vera", message: fill.repeat(400_000) });
      }
      let path = "/rooms/giants/messages";
      for (const fill of ["c", "é", "a"]) {
        const page = (await (await fetch(`${giant.url}${path}`)).json()) as Page;
        expect(page.messages.map(({ message }) => message === fill.repeat(400_000))).toEqual([true]);
        expect(page.next_cursor === null).toBe(fill === "a");
        path = `/rooms/giants/messages?cursor=${page.next_cursor}`;
      }
    } finally {
      await giant.dispose();
    }
  });
});

describe("a page that is kept", () => {
  const headersOf = ({ headers }: Response) =>
    Object.fromEntries([...headers].filter(([name]) => name !== "date"));

  test.each([
    ["named origins", { any: false, named: new Set(["https://chat.example.org"]), hosts: new Set<string>() }],
    ["any origin", { any: true, named: new Set<string>(), hosts: new Set<string>() }],
  ])("is the same answer to the header as one that is read, with %s", async (_, origins) => {
    let reads = 0;
    const own = await startHttpApp({
      origins,
      between: (repository) => ({
        ...repository,
        readBefore: (...query) => {
          reads += 1;
          return repository.readBefore(...query);
        },
      }),
    });
    try {
      await post(own, "kept", { user_id: "anna", message: "one" });
      const ask = (headers: Record<string, string> = {}) =>
        fetch(`${own.url}/rooms/kept/messages?limit=3`, { headers });
      const [read, , kept] = [await ask(), await ask(), await ask()];
      expect(reads).toBe(2);
      expect(headersOf(kept)).toEqual(headersOf(read));
      expect(await kept.text()).toBe(await read.text());

      // What may act on the answer still gets its own headers.
      const browser = await ask({ origin: "https://chat.example.org" });
      expect(browser.headers.get("access-control-allow-origin")).toBe(
        origins.any ? "*" : "https://chat.example.org",
      );
      expect((await ask({ connection: "close" })).headers.get("connection")).toBe("close");
      const head = await fetch(`${own.url}/rooms/kept/messages?limit=3`, { method: "HEAD" });
      expect(await head.text()).toBe("");

      await post(own, "kept", { user_id: "anna", message: "two" });
      expect(texts(((await (await ask()).json()) as Page).messages)).toEqual(["two", "one"]);
      expect(reads).toBe(3);
      await ask();
      expect(reads).toBe(3);
    } finally {
      await own.dispose();
    }
  });

  test("is not given while the store is down", async () => {
    let isDown = false;
    const own = await startHttpApp({
      between: (repository) => ({
        ...repository,
        revision: (subject) => (isDown ? null : repository.revision(subject)),
        readBefore: (...query) =>
          isDown ? Promise.reject(new ChatError("storage_unavailable")) : repository.readBefore(...query),
      }),
    });
    try {
      await post(own, "down", { user_id: "anna", message: "one" });
      const ask = () => fetch(`${own.url}/rooms/down/messages`);
      for (let times = 0; times < 3; times += 1) expect((await ask()).status).toBe(200);
      isDown = true;
      expect((await ask()).status).toBe(503);
      isDown = false;
      expect((await ask()).status).toBe(200);
    } finally {
      await own.dispose();
    }
  });
});
