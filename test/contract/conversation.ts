/**
 * The wire contract as conversations: what is promised about joining, sending, leaving and resuming, in the words of
 * CONTRACT and PROTOCOL. Every stock client holds them over every transport on every store.
 */

import { expect } from "bun:test";
import type { Answer, Heard, Link } from "./links.ts";

/** Where a conversation takes place. */
export interface Place {
  readonly url: string;
  /** A new connection by the client and the transport under test. */
  connect(): Promise<Link>;
  /** The name of a room that nobody has used. */
  room(): string;
  /** A room with LONG_ROOM messages, and one whose first 10 of 20 messages are gone. Shared: nobody writes there. */
  readonly longRoom: string;
  readonly truncatedRoom: string;
}

export type Conversation = (place: Place) => Promise<void>;

export const LONG_ROOM = { messages: 520, textBytes: 700 };

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

export const range = (from: number, to: number) =>
  Array.from({ length: Math.max(0, to - from + 1) }, (_, index) => from + index);
export const seqsOf = (messages: readonly Answer[]) => messages.map(({ seq }) => seq);
export const refused = (code: string, retryable = false) => ({
  ok: false,
  error: { code, message: expect.any(String), retryable },
});
export const live = (link: Link) => link.heard.filter(({ name }) => name === "receive_message");

/** A connection that is in the room. */
async function member(place: Place, room: string, more: Answer = {}): Promise<Link> {
  const link = await place.connect();
  expect(await link.call("join_room", { room, ...more })).toMatchObject({ ok: true, room });
  return link;
}

const closeAll = (...links: readonly Link[]) => Promise.all(links.map((link) => link.close()));

export const CONVERSATIONS: Readonly<Record<string, Conversation>> = {
  async "join_room says where an empty room stands, by object and by plain name, once and twice"(place) {
    const room = place.room();
    const link = await place.connect();
    const first = await link.call("join_room", { room, user_id: "ada" });
    expect(first).toEqual({ ok: true, room, epoch: expect.any(String), seq: 0, first_seq: 1 });
    expect(await link.call("join_room", room)).toEqual(first);
    expect(await link.call("leave_room", room)).toEqual({ ok: true, room });
    expect(await link.call("join_room", { room, unknown: 1 }, "more", 2)).toEqual(first);
    expect(await link.call("leave_room", { room, user_id: "ada" })).toEqual({ ok: true, room });
    await link.close();
  },

  async "send_message reaches every member, the sender included, and then is acked"(place) {
    const room = place.room();
    const [ada, bob] = [await member(place, room), await member(place, room)];
    const text = "  zwei\nZeilen, 𝒰nicode 🌱\ttab\r\n";
    const ack = await ada.call("send_message", {
      room,
      user_id: "ada",
      message: text,
      client_id: "secret",
      x: 1,
    });
    expect(ack).toEqual({
      ok: true,
      id: expect.stringMatching(UUID_V7),
      room,
      seq: 1,
      timestamp: expect.stringMatching(ISO),
      received_at: expect.stringMatching(ISO),
      duplicate: false,
    });
    expect(ack.timestamp).toBe(ack.received_at);
    const { ok: _, duplicate: __, ...facts } = ack;
    const message = { ...facts, user_id: "ada", message: text };
    expect(await bob.next("receive_message")).toEqual(message);
    expect(await ada.next("receive_message")).toEqual(message);
    expect(ada.heard.map(({ name }) => name)).toEqual(["join_room", "receive_message", "send_message"]);
    await closeAll(ada, bob);
  },

  async "timestamp is the sender's, in UTC with milliseconds, and decides nothing"(place) {
    const room = place.room();
    const link = await member(place, room);
    const given = {
      "2026-01-31T09:05:00.1239+02:00": "2026-01-31T07:05:00.123Z",
      "2026-01-31T09:05": "2026-01-31T09:05:00.000Z",
      "1999-12-31T23:59:59-0030": "2000-01-01T00:29:59.000Z",
      "9999-12-31T23:59:59Z": "9999-12-31T23:59:59.000Z",
      "2024-02-29T00:00:00,5Z": "2024-02-29T00:00:00.500Z",
      "2016-12-31T23:59:60Z": "2016-12-31T23:59:59.000Z",
      "0001-01-01T00:00:00Z": "0001-01-01T00:00:00.000Z",
    };
    const count = Object.keys(given).length;
    for (const [timestamp, utc] of Object.entries(given)) {
      const ack = await link.call("send_message", { room, user_id: "ada", message: timestamp, timestamp });
      expect(ack).toMatchObject({ ok: true, timestamp: utc });
    }
    const heard = await link.take("receive_message", count);
    expect(seqsOf(heard)).toEqual(range(1, count));
    expect(heard.map(({ timestamp }) => timestamp)).toEqual(Object.values(given));
    const receipts = heard.map(({ received_at }) => received_at as string);
    expect([...receipts].sort()).toEqual(receipts);
    await link.close();
  },

  async "client_id makes a retry harmless, and another text a conflict"(place) {
    const room = place.room();
    const [ada, bob] = [await member(place, room), await member(place, room)];
    const said = { room, user_id: "ada", message: "once", client_id: "c-1" };
    const first = await ada.call("send_message", said);
    expect(first).toMatchObject({ ok: true, seq: 1, duplicate: false });
    const again = { ...first, duplicate: true };
    expect(await ada.call("send_message", said)).toEqual(again);
    const late = { ...said, timestamp: "2020-01-01T00:00:00Z" };
    expect(await bob.call("send_message", late)).toEqual(again);
    expect(await ada.call("send_message", { ...said, message: "twice" })).toEqual(refused("conflict"));
    expect(await ada.call("send_message", { ...said, user_id: "bob" })).toMatchObject({
      seq: 2,
      duplicate: false,
    });
    const other = place.room();
    await ada.call("join_room", other);
    expect(await ada.call("send_message", { ...said, room: other })).toMatchObject({
      seq: 1,
      duplicate: false,
    });
    // Retries that are all under way at once are one message too.
    const race = await Promise.all(
      range(1, 8).map((turn) =>
        (turn % 2 ? ada : bob).call("send_message", { ...said, client_id: "c-2", message: "race" }),
      ),
    );
    expect(race.filter(({ duplicate }) => duplicate === false)).toHaveLength(1);
    expect(new Set(race.map(({ seq, id }) => `${seq} ${id}`)).size).toBe(1);
    await bob.fence();
    expect(live(bob).map(({ body }) => body.seq)).toEqual([1, 2, 3]);
    await closeAll(ada, bob);
  },

  async "one connection's events take effect in the order in which it emitted them"(place) {
    const room = place.room();
    const [link, watcher] = [await place.connect(), await member(place, room)];
    const say = (index: number) =>
      link.call("send_message", { room, user_id: "ada", message: String(index) });
    const answers = await Promise.all([
      link.call("send_message", { room, user_id: "ada", message: "too early" }),
      link.call("join_room", { room }),
      ...range(1, 40).map(say),
      link.call("leave_room", { room }),
      link.call("send_message", { room, user_id: "ada", message: "too late" }),
      link.call("join_room", { room, since: 0 }),
      say(41),
    ]);
    // The first waits for the join, as a stock client's does that was emitted offline.
    expect(seqsOf([...answers.slice(0, 1), ...answers.slice(2, 42)])).toEqual(range(1, 41));
    expect(answers[42]).toEqual({ ok: true, room });
    expect(answers[43]).toEqual(refused("not_in_room"));
    expect(answers[44]).toMatchObject({ ok: true, recovered: true });
    expect(answers[45]).toMatchObject({ ok: true, seq: 42 });
    const heard = await watcher.take("receive_message", 42);
    expect(seqsOf(heard)).toEqual(range(1, 42));
    expect(heard.map(({ message }) => message)).toEqual(["too early", ...range(1, 41).map(String)]);
    await closeAll(link, watcher);
  },

  async "who is not in a room neither sends, leaves nor hears there, and lives on"(place) {
    const room = place.room();
    const [outside, inside] = [await place.connect(), await member(place, room)];
    expect(await outside.call("send_message", { room, user_id: "eve", message: "?" })).toEqual(
      refused("not_in_room"),
    );
    expect(await outside.call("leave_room", { room })).toEqual(refused("not_in_room"));
    await inside.call("leave_room", room);
    expect(await inside.call("leave_room", room)).toEqual(refused("not_in_room"));
    await outside.call("join_room", room);
    expect(await outside.call("send_message", { room, user_id: "eve", message: "!" })).toMatchObject({
      ok: true,
      seq: 1,
    });
    await inside.fence();
    expect(live(inside)).toEqual([]);
    await closeAll(outside, inside);
  },

  async "a refusal without a callback arrives as an error event that names the event"(place) {
    const room = place.room();
    const link = await place.connect();
    link.tell("send_message", { room, user_id: "ada", message: "?" });
    expect(await link.next("error")).toEqual({ ...refused("not_in_room").error, event: "send_message" });
    link.tell("join_room", {});
    expect(await link.next("error")).toEqual({
      ...refused("invalid_payload").error,
      issues: [{ path: "room", message: expect.any(String) }],
      event: "join_room",
    });
    link.tell("dance", 1);
    expect(await link.next("error")).toEqual({ ...refused("unknown_event").error, event: "dance" });
    for (const event of ["error", "receive_message", "toString", "__proto__", "message", ""]) {
      expect(await link.call(event, {})).toEqual(refused("unknown_event"));
    }
    link.tell("join_room", room);
    link.tell("send_message", { room, user_id: "ada", message: "still here" });
    expect(await link.next("receive_message")).toMatchObject({ seq: 1 });
    await link.close();
  },

  async "presence tells the others of a user's first connection and of its last, never oneself"(place) {
    const room = place.room();
    const watcher = await member(place, room);
    const presence = (user_id: string) => ({ room, user_id, timestamp: expect.stringMatching(ISO) });
    const first = await member(place, room, { user_id: "ada" });
    expect(await watcher.next("user_joined")).toEqual(presence("ada"));
    const second = await member(place, room, { user_id: "ada" });
    await first.call("join_room", { room, user_id: "ada" });
    await first.call("join_room", room);
    await first.call("leave_room", room);
    // Only now, with the last of ada's connections, which goes without a word.
    await second.close();
    expect(await watcher.next("user_left")).toEqual(presence("ada"));
    await first.call("join_room", { room, user_id: "bob" });
    expect(await watcher.next("user_joined")).toEqual(presence("bob"));
    await first.call("join_room", { room, user_id: "eva" });
    expect(await watcher.next("user_left")).toEqual(presence("bob"));
    expect(await watcher.next("user_joined")).toEqual(presence("eva"));
    await first.call("leave_room", { room, user_id: "anyone" });
    expect(await watcher.next("user_left")).toEqual(presence("eva"));
    await watcher.fence();
    expect(watcher.heard.filter(({ kind }) => kind === "event")).toHaveLength(6);
    await first.fence();
    expect(first.heard.filter(({ kind }) => kind === "event")).toEqual([]);
    await closeAll(first, watcher);
  },

  async "join_room with since gives what was missed, and live goes on from there"(place) {
    const room = place.room();
    const sender = await member(place, room);
    const say = (message: string) => sender.call("send_message", { room, user_id: "ada", message });
    for (const text of ["one", "two", "three", "four"]) await say(text);
    const sent = live(sender).map(({ body }) => body);
    const link = await place.connect();
    const { epoch } = await link.call("join_room", room);
    const joined = await link.call("join_room", { room, since: 1, epoch });
    expect(joined).toEqual({
      ok: true,
      room,
      epoch,
      seq: 4,
      first_seq: 1,
      recovered: true,
      messages: sent.slice(1),
      through: 4,
      complete: true,
    });
    expect(await link.call("join_room", { room, since: 4, epoch })).toMatchObject({
      recovered: true,
      messages: [],
      through: 4,
      complete: true,
    });
    expect(await link.call("join_room", { room, since: 0 })).toMatchObject({ messages: sent });
    await say("five");
    expect(await link.next("receive_message")).toMatchObject({ seq: 5, message: "five" });
    expect(live(link)).toHaveLength(1);
    await closeAll(sender, link);
  },

  async "join_room says why it cannot recover, and lets the member in all the same"(place) {
    const room = place.room();
    const sender = await member(place, room);
    await sender.call("send_message", { room, user_id: "ada", message: "one" });
    const link = await place.connect();
    const lost = (reason: string) => ({
      ok: true,
      room,
      epoch: expect.any(String),
      seq: 1,
      first_seq: 1,
      recovered: false,
      reason,
    });
    expect(await link.call("join_room", { room, since: 2 })).toEqual(lost("ahead"));
    expect(await link.call("join_room", { room, since: 1, epoch: "an-earlier-epoch" })).toEqual(
      lost("epoch_changed"),
    );
    await sender.call("send_message", { room, user_id: "ada", message: "two" });
    expect(await link.next("receive_message")).toMatchObject({ seq: 2 });
    const { truncatedRoom } = place;
    const head = { room: truncatedRoom, seq: 20, first_seq: 11 };
    expect(await link.call("join_room", { room: truncatedRoom, since: 9 })).toMatchObject({
      ...head,
      recovered: false,
      reason: "truncated",
    });
    const kept = await link.call("join_room", { room: truncatedRoom, since: 10 });
    expect(kept).toMatchObject({ ...head, recovered: true, complete: true });
    expect(seqsOf(kept.messages as Answer[])).toEqual(range(11, 20));
    await closeAll(sender, link);
  },

  async "a replay that is too long says so, and is read on over HTTP"(place) {
    const { longRoom: room, url } = place;
    const link = await place.connect();
    const joined = await link.call("join_room", { room, since: 0 });
    expect(joined).toMatchObject({
      seq: LONG_ROOM.messages,
      first_seq: 1,
      recovered: true,
      complete: false,
    });
    const seen = [...(joined.messages as Answer[])];
    expect(JSON.stringify(seen).length).toBeLessThan(260_000);
    expect(seen.length).toBeGreaterThan(200);
    const path = `${url}/rooms/${encodeURIComponent(room)}/messages`;
    expect(joined.through).toBe(seen.length);
    let query = `?after=${joined.through}&epoch=${joined.epoch}&limit=200`;
    while (query !== "") {
      const page = (await (await fetch(path + query)).json()) as {
        messages: Answer[];
        next_cursor: string | null;
      };
      seen.push(...page.messages);
      query = page.next_cursor === null ? "" : `?limit=200&cursor=${page.next_cursor}`;
    }
    expect(seqsOf(seen)).toEqual(range(1, LONG_ROOM.messages));
    await link.close();
  },

  async "a message over HTTP and one over a connection are the same kind of thing"(place) {
    const room = `${place.room()} mit Leerzeichen/und ümläut?#%`;
    const link = await member(place, room);
    const path = `${place.url}/rooms/${encodeURIComponent(room)}/messages`;
    const post = (message: string, key?: string) =>
      fetch(path, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          ...(key !== undefined && { "idempotency-key": key }),
        },
        body: JSON.stringify({ user_id: "ada", message }),
      });
    const created = await post("by http", "k-1");
    expect(created.status).toBe(201);
    const message = (await created.json()) as Answer;
    expect(await link.next("receive_message")).toEqual(message);
    const repeated = await post("by http", "k-1");
    expect([repeated.status, await repeated.json()]).toEqual([200, message]);
    expect((await post("by http, changed", "k-1")).status).toBe(409);
    const said = { room, user_id: "ada", message: "by http", client_id: "k-1" };
    expect(await link.call("send_message", said)).toMatchObject({ id: message.id, seq: 1, duplicate: true });
    await link.call("send_message", { ...said, client_id: "k-2", message: "by socket" });
    expect((await post("by socket", "k-2")).status).toBe(200);
    expect((await post("by socket")).status).toBe(201);
    await link.fence();
    const heard: Heard[] = live(link);
    const history = (await (await fetch(`${path}?after=0`)).json()) as { messages: Answer[] };
    expect(history.messages).toEqual(heard.map(({ body }) => body));
    await link.close();
  },
};
