/** The HTTP part of the contract on every store: health, lists that are walked, names and texts of every kind. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { parseRoomName, parseUserId } from "../../src/domain/ids.ts";
import { textFault } from "../../src/domain/message.ts";
import { startTestService, type TestService } from "../fixture/service.ts";
import { STORES, type TestStore } from "../fixture/stores.ts";
import { range, seqsOf } from "./conversation.ts";
import { type Answer, bunClient, type Link } from "./links.ts";

setDefaultTimeout(30_000);

const seed = Number(process.env.NAMES_SEED ?? Math.floor(Math.random() * 2 ** 31));
const unicode = (maxLength: number) => fc.string({ unit: "binary", minLength: 1, maxLength });
const odd = fc.constantFrom(
  ...[
    "__proto__",
    "constructor",
    "$where",
    "a.b",
    "%2e%2e",
    "a/../b",
    "//",
    "?#&=+",
    "'; DROP TABLE rooms --",
  ],
  ...[
    "\ufeffbom",
    "ﬁ",
    "e\u0301",
    "é",
    "\u202eabc",
    "\uffff",
    "null",
    "0",
    " spaces ",
    "\u2028",
    "ſ",
    "S",
    "s",
  ],
);
const names = fc.oneof(odd, unicode(40)).filter((name) => parseRoomName(name) !== undefined);

for (const { kind, open } of STORES) {
  describe(`on ${kind}`, () => {
    let store: TestStore;
    let started: TestService;
    let link: Link;
    beforeAll(async () => {
      store = await open();
      started = await startTestService(store.env);
      link = await bunClient().connect(started.url, "websocket");
      // A store is known to be up once it has answered.
      expect(await link.call("join_room", "anywhere")).toMatchObject({ ok: true });
    });
    afterAll(async () => {
      await link.close();
      await started.dispose();
      await store.remove();
    });

    async function get(path: string): Promise<{ status: number; body: Answer }> {
      const answer = await fetch(started.url + path);
      return { status: answer.status, body: (await answer.json()) as Answer };
    }

    /** All pages of a list, by the field that it is in. */
    async function walk(
      path: string,
      field: "messages" | "rooms",
      between = async () => {},
    ): Promise<Answer[]> {
      const all: Answer[] = [];
      let cursor = "";
      for (;;) {
        const { status, body } = await get(path + cursor);
        expect(status).toBe(200);
        all.push(...(body[field] as Answer[]));
        if (body.next_cursor === null) return all;
        cursor = `&cursor=${body.next_cursor}`;
        await between();
      }
    }

    const say = (room: string, user_id: string, message: string) =>
      link.call("send_message", { room, user_id, message });

    test("health says which store it is, and HEAD works where GET does", async () => {
      expect(await get("/")).toEqual({
        status: 200,
        body: {
          status: "ok",
          service: expect.any(String),
          version: expect.any(String),
          uptime_s: expect.any(Number),
          storage: { kind, status: "up" },
        },
      });
      expect((await get("/livez")).status).toBe(200);
      expect((await get("/readyz")).status).toBe(200);
      for (const path of ["/", "/readyz", "/rooms", "/messages/ada", "/rooms/x/messages", "/chat"]) {
        const head = await fetch(started.url + path, { method: "HEAD" });
        expect([path, head.status, await head.text()]).toEqual([path, 200, ""]);
      }
    });

    test("walking a cursor sees every message once, whatever is written meanwhile", async () => {
      const room = Bun.randomUUIDv7();
      const user = `user ${room}`;
      await link.call("join_room", room);
      await Promise.all(range(1, 23).map((index) => say(room, user, `${index}`)));
      const more = async () => {
        expect(await say(room, user, "meanwhile")).toMatchObject({ ok: true });
      };
      const down = range(1, 23).reverse();
      expect(seqsOf(await walk(`/rooms/${room}/messages?limit=5`, "messages", more))).toEqual(down);
      const sofar = 23 + 4;
      const byUser = await walk(`/messages/${encodeURIComponent(user)}?limit=10`, "messages", more);
      expect(byUser.map(({ id }) => id)).toEqual(
        (await walk(`/rooms/${room}/messages?limit=200`, "messages"))
          .filter(({ seq }) => (seq as number) <= sofar)
          .map(({ id }) => id),
      );
      const [newest] = byUser as [Answer];
      const from = encodeURIComponent(newest.received_at as string);
      const since = await walk(
        `/messages/${encodeURIComponent(user)}?limit=10&from=${from}&room=${room}`,
        "messages",
      );
      expect(since.length).toBeGreaterThan(0);
      const until = await walk(`/rooms/${room}/messages?limit=50&to=${from}`, "messages");
      const all = (await walk(`/rooms/${room}/messages?limit=200`, "messages")).map(({ seq }) => seq);
      expect([...seqsOf(since), ...seqsOf(until)]).toEqual(all);
    });

    test("rooms are listed by their last message, each once", async () => {
      const rooms = range(1, 7).map((index) => `listed ${index} ${Bun.randomUUIDv7()}`);
      for (const room of rooms) {
        await link.call("join_room", room);
        await say(room, "ada", "hello");
      }
      await say(rooms[2] as string, "ada", "again");
      const listed = await walk("/rooms?limit=3", "rooms");
      const mine = listed.filter(({ room }) => rooms.includes(room as string));
      expect(mine).toHaveLength(7);
      const times = mine.map(({ last_message_at }) => last_message_at as string);
      expect([...times].sort().reverse()).toEqual(times);
      expect(mine.find(({ room }) => room === rooms[2])).toMatchObject({
        seq: 2,
        last_message_at: times[0] as string,
      });
    });

    test("what cannot be answered is refused, and never an empty page", async () => {
      const cursor = (await get("/rooms?limit=1")).body.next_cursor as string;
      const bad = [
        ...["limit=0", "limit=201", "limit=1e9", "limit=-1", "limit=", "limit=1&limit=2", "after=-1"],
        ...[
          "after=x",
          "cursor=",
          "cursor=AAAA",
          `cursor=${cursor}`,
          "from=yesterday",
          "to=2026-13-01T00:00:00Z",
        ],
        ...["epoch=x", "after=1&cursor=x", "%ZZ=1", "limit=%00", "after=99999999999999999"],
      ];
      for (const query of bad) {
        const { status, body } = await get(`/rooms/x/messages?${query}`);
        expect([query, status, body]).toMatchObject([query, 400, { error: { code: "invalid_request" } }]);
      }
      for (const path of [
        "/messages/%00",
        "/rooms/%ff/messages",
        `/messages/${"x".repeat(8_000)}`,
        "/messages/%20",
      ])
        expect([path, await get(path)]).toMatchObject([path, { status: 400 }]);
      expect(await get("/nowhere")).toMatchObject({ status: 404, body: { error: { code: "not_found" } } });
      expect(await get("/messages/nobody-at-all")).toEqual({
        status: 200,
        body: { messages: [], next_cursor: null },
      });
    });

    test(`any name and any text comes back as it was said (NAMES_SEED=${seed})`, async () => {
      const texts = fc.oneof(odd, unicode(60)).filter((text) => textFault(text) === undefined);
      await fc.assert(
        fc.asyncProperty(names, names, texts, async (name, user_id, message) => {
          // Two names that only look alike are two rooms.
          const room = name;
          const joined = await link.call("join_room", { room, user_id });
          expect(joined).toMatchObject({ ok: true, room });
          const sent = await say(room, user_id, message);
          expect(sent).toMatchObject({ ok: true, room, seq: (joined.seq as number) + 1 });
          const page = await get(`/rooms/${encodeURIComponent(room)}/messages?limit=1`);
          expect(page.body.messages).toMatchObject([{ id: sent.id as string, room, user_id, message }]);
          expect(parseUserId(user_id)).toBeDefined();
          const own = await get(
            `/messages/${encodeURIComponent(user_id)}?limit=1&room=${encodeURIComponent(room)}`,
          );
          expect(own.body.messages).toMatchObject([{ id: sent.id as string, room, user_id, message }]);
        }),
        { seed, numRuns: kind === "sqlite" ? 150 : 60 },
      );
    });
  });
}

test("a sender that is too quick is told when to come back, over a connection and over HTTP", async () => {
  const started = await startTestService({ RATE_LIMIT: "5/s" });
  const link = await bunClient().connect(started.url, "websocket");
  await link.call("join_room", "lobby");
  const answers = await Promise.all(
    range(1, 12).map((index) =>
      link.call("send_message", { room: "lobby", user_id: "ada", message: `${index}` }),
    ),
  );
  expect(answers.slice(0, 10).every(({ ok }) => ok === true)).toBe(true);
  expect(answers[11]).toMatchObject({
    ok: false,
    error: { code: "rate_limited", retryable: true, retry_after_ms: expect.any(Number) },
  });
  const post = () =>
    fetch(`${started.url}/rooms/lobby/messages`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user_id: "bob", message: "hi" }),
    });
  const posts = await Promise.all(range(1, 14).map(post));
  const limited = posts.filter(({ status }) => status === 429);
  expect(limited.length).toBeGreaterThan(0);
  expect(Number(limited[0]?.headers.get("retry-after"))).toBeGreaterThan(0);
  expect(posts.filter(({ status }) => status === 201)).toHaveLength(posts.length - limited.length);
  await link.close();
  await started.dispose();
});
