/** Paths and queries of the routes of messages: names, what each parameter may be, and cursors beside the first request's parameters. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";
import type { WireMessage } from "../../src/protocol/wire.ts";
import { post, rawRequest, refusalOf, startHttpApp, type TestHttpApp } from "../fixture/http-app.ts";

let app: TestHttpApp;
beforeAll(async () => {
  app = await startHttpApp();
});
afterAll(() => app.dispose());

interface Page {
  messages: WireMessage[];
  next_cursor: string | null;
  epoch: string;
}

const get = (path: string) => fetch(`${app.url}${path}`);
const page = async (path: string) => {
  const answer = await get(path);
  expect(answer.status).toBe(200);
  return (await answer.json()) as Page;
};
const say = async (room: string, user: string, ...texts: string[]) => {
  const said: WireMessage[] = [];
  for (const message of texts)
    said.push((await (await post(app, room, { user_id: user, message })).json()) as WireMessage);
  return said;
};
const texts = (messages: readonly WireMessage[]) => messages.map(({ message }) => message);

describe("names in a path", () => {
  test.each(["a/b", "100%", "?#&=+ ", "日本語 👩‍👩‍👧", "..a", "$gt", "__proto__"])(
    "%j works as a room and as a user",
    async (name) => {
      const [said] = await say(name, name, "hi");
      expect(said).toMatchObject({ room: name, user_id: name, seq: 1 });
      const path = encodeURIComponent(name);
      expect((await page(`/rooms/${path}/messages`)).messages).toEqual([said as WireMessage]);
      expect((await page(`/messages/${path}?room=${path}`)).messages).toEqual([said as WireMessage]);
    },
  );

  test.each(["\xff", "a\xc3", "\xed\xa0\x80", "\xe9"])(
    "raw bytes %j that are not UTF-8 are refused, and stand for no other name",
    async (bytes) => {
      for (const [target, path] of [
        [`/rooms/a${bytes}/messages`, "room"],
        [`/messages/${bytes}`, "user_id"],
        [`/messages/a?room=${bytes}`, "room"],
      ]) {
        const answer = await rawRequest(
          app.port,
          `GET ${target} HTTP/1.1\r\nHost: chat\r\nConnection: close\r\n\r\n`,
        );
        expect(answer).toStartWith("HTTP/1.1 400 ");
        expect(answer).toContain(`"path":"${path}"`);
      }
    },
  );

  test("U+FFFD itself is a name's character, written in small letters", async () => {
    const sent = await fetch(`${app.url}/rooms/%ef%bf%bd/messages`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user_id: "hu", message: "here" }),
    });
    expect(await sent.json()).toMatchObject({ room: "\ufffd" });
    expect(texts((await page("/rooms/%ef%bf%bd/messages")).messages)).toEqual(["here"]);
  });

  test.each([
    "%",
    "%zz",
    "%00",
    "%ff",
    "%ed%a0%80",
    "%0a",
    "%20",
    "a".repeat(129),
    "%f0%9f%91%8b".repeat(129),
  ])("%.30s is refused, with where it is", async (name) => {
    const refused = { status: 400, code: "invalid_request" };
    expect(await refusalOf(await get(`/rooms/${name}/messages`))).toMatchObject({
      ...refused,
      issues: [{ path: "room" }],
    });
    expect(await refusalOf(await get(`/messages/${name}`))).toMatchObject({
      ...refused,
      issues: [{ path: "user_id" }],
    });
    expect(await refusalOf(await get(`/messages/a?room=${name}`))).toMatchObject({
      ...refused,
      issues: [{ path: "room" }],
    });
  });

  test("128 characters of four bytes work", async () => {
    const name = "👋".repeat(128);
    const [said] = await say(name, name, "hi");
    const path = encodeURIComponent(name);
    expect((await page(`/messages/${path}?room=${path}`)).messages).toEqual([said as WireMessage]);
  });
});

describe("the query of a list", () => {
  test.each([
    ["limit=0", "limit"],
    ["limit=201", "limit"],
    ["limit=1e9", "limit"],
    ["limit=-1", "limit"],
    ["limit=1.5", "limit"],
    ["limit=", "limit"],
    ["limit", "limit"],
    ["limit=1&limit=1", "limit"],
    ["limit=1&%6cimit=1", "limit"],
    ["cursor=", "cursor"],
    ["cursor=x", "cursor"],
    ["cursor=e30", "cursor"],
    ["cursor=null", "cursor"],
    [`cursor=${"A".repeat(LIMITS.cursorCharsMax + 1)}`, "cursor"],
    ["from=yesterday", "from"],
    ["from=2026-01-31", "from"],
    ["to=2026-02-30T00:00:00Z", "to"],
    ["to=%00", "to"],
    ["from=%", "from"],
    ["anything=%zz", "query"],
    ["%ff=1", "query"],
  ])("?%.40s is 400 at %s", async (query, path) => {
    for (const list of ["/messages/anna", "/rooms/lobby/messages"]) {
      expect(await refusalOf(await get(`${list}?${query}`))).toEqual({
        status: 400,
        code: "invalid_request",
        message: "The request is not valid.",
        retryable: false,
        issues: [{ path, message: expect.any(String) }],
      });
    }
  });

  test.each([
    ["after=-1", "after"],
    ["after=x", "after"],
    ["after=9007199254740993", "after"],
    ["after=0&after=0", "after"],
    ["after=0&epoch=%20", "epoch"],
    ["epoch=abc", "epoch"],
    ["after=0&cursor=x", "cursor"],
  ])("?%s is 400 at %s for a room", async (query, path) => {
    expect(await refusalOf(await get(`/rooms/lobby/messages?${query}`))).toMatchObject({
      status: 400,
      code: "invalid_request",
      issues: [{ path }],
    });
  });

  test.each([
    "limit=200",
    "utm=1&utm=2",
    "&&",
    "limit=1&",
    "from=2026-01-31T09:05:00+02:00",
    "toString=1",
    "__proto__=1",
  ])("?%s is fine", async (query) => {
    await page(`/messages/anna?${query}`);
    await page(`/rooms/lobby/messages?${query}`);
  });

  test("takes a cursor only for the list that it was given for", async () => {
    await say("cursors", "gina", "1", "2", "3");
    await say("cursors2", "gina", "1", "2", "3");
    const cursorOf = async (path: string) => (await page(path)).next_cursor as string;
    const ofRoom = await cursorOf("/rooms/cursors/messages?limit=1");
    const ofUser = await cursorOf("/messages/gina?limit=1");
    const ofRooms = await cursorOf("/rooms?limit=1");
    for (const path of [
      `/rooms/cursors2/messages?cursor=${ofRoom}`,
      `/rooms/cursors/messages?cursor=${ofUser}`,
      `/messages/gina?cursor=${ofRoom}`,
      `/messages/anna?cursor=${ofUser}`,
      `/messages/gina?cursor=${ofRooms}`,
      `/rooms?cursor=${ofUser}`,
      `/rooms?cursor=${ofRoom.slice(1)}`,
      `/rooms?cursor=${ofRooms}=`,
    ]) {
      expect(await refusalOf(await get(path))).toMatchObject({
        status: 400,
        code: "invalid_request",
        issues: [{ path: "cursor" }],
      });
    }
    expect(texts((await page(`/rooms/cursors/messages?cursor=${ofRoom}&limit=7`)).messages)).toEqual([
      "2",
      "1",
    ]);
  });
});

describe("a cursor beside the parameters of the first request", () => {
  const first = {
    room: "/rooms/beside/messages?limit=2&from=2020-01-01T00:00:00Z&to=2099-01-01T00:00:00Z",
    after: "/rooms/beside/messages?limit=2&after=1",
    user: "/messages/hugo?limit=2&room=beside&from=2020-01-01T00:00:00Z",
  };
  const cursors: Record<string, string> = {};
  let epoch = "";
  beforeAll(async () => {
    await say("beside", "hugo", "1", "2", "3", "4", "5");
    await say("elsewhere", "hugo", "other");
    for (const [name, path] of Object.entries(first)) {
      const { next_cursor, epoch: known } = await page(path);
      cursors[name] = next_cursor as string;
      epoch = known ?? epoch;
    }
  });
  const at = (path: string, name: string) =>
    `${path}${path.includes("?") ? "&" : "?"}cursor=${cursors[name]}`;

  test.each([
    ["room", first.room, ["3", "2"]],
    ["room", "/rooms/beside/messages?limit=2", ["3", "2"]],
    // The same moment in other words.
    ["room", "/rooms/beside/messages?limit=2&from=2020-01-01T01:00:00%2B01:00", ["3", "2"]],
    ["after", first.after, ["4", "5"]],
    ["after", "/rooms/beside/messages", ["4", "5"]],
    ["user", first.user, ["3", "2"]],
    ["user", "/messages/hugo?limit=9", ["3", "2", "1"]],
  ])("of %s: %s goes on", async (name, path, expected) => {
    expect(texts((await page(at(path, name))).messages)).toEqual(expected);
  });

  test("fits a URL with all of them, however long the names are", async () => {
    const [user, room] = ["👋".repeat(128), "🌍".repeat(128)];
    await say(room, user, "1", "2");
    const times = "from=2020-01-01T00:00:00.000%2B00:00&to=2099-01-01T00:00:00.000%2B00:00";
    const path = `/messages/${encodeURIComponent(user)}?room=${encodeURIComponent(room)}&${times}&limit=1`;
    const { next_cursor } = await page(path);
    expect(texts((await page(`${path}&cursor=${next_cursor}`)).messages)).toEqual(["1"]);
  });

  test("may have its epoch beside it, and no other", async () => {
    expect(texts((await page(at(`${first.after}&epoch=${epoch}`, "after"))).messages)).toEqual(["4", "5"]);
    expect(await refusalOf(await get(at(`${first.after}&epoch=other`, "after")))).toMatchObject({
      status: 400,
      issues: [{ path: "epoch" }],
    });
  });

  test.each([
    ["room", "/rooms/beside/messages?from=2021-01-01T00:00:00Z", "from"],
    ["room", "/rooms/beside/messages?to=2098-01-01T00:00:00Z", "to"],
    ["room", "/rooms/beside/messages?after=1", "after"],
    ["room", "/rooms/beside/messages?epoch=any", "epoch"],
    ["after", "/rooms/beside/messages?after=2", "after"],
    ["after", "/rooms/beside/messages?after=1&from=2020-01-01T00:00:00Z", "from"],
    ["user", "/messages/hugo?room=elsewhere", "room"],
  ])("of %s: %s is 400 at %s", async (name, path, issue) => {
    expect(await refusalOf(await get(at(path, name)))).toMatchObject({
      status: 400,
      code: "invalid_request",
      issues: [{ path: issue }],
    });
  });
});
