/** Those who come beside the steady members: passers-by, writers and readers over HTTP, the wrong, the slow, the vanished. */

import { io } from "socket.io-client";
import type { WireError, WireMessage } from "../../../src/protocol/wire.ts";
import type { Chance } from "../../fixture/chance.ts";
import { openRawSocket } from "../../fixture/engine.ts";
import type { JoinAnswer, SendAnswer } from "../../fixture/member.ts";
import { type Book, numbered } from "./book.ts";

export interface VisitorOptions {
  readonly url: string;
  readonly port: number;
  /** The rooms that are always talked in. */
  readonly rooms: readonly string[];
  readonly book: Book;
  readonly chance: Chance;
  readonly onRefused: (code: string) => void;
  /** Refusals that a client may get that does nothing wrong, but for `rate_limited`. */
  readonly busyCodes: ReadonlySet<string>;
}

interface Refused {
  readonly ok: false;
  readonly error: WireError;
}

/** Each is one visit; resolves when it is over. */
export type Visit = () => Promise<void>;

const JSON_TYPE = { "content-type": "application/json" };
const WALK_PAGES_MAX = 8;
/** Replays that a slow reader asks for and does not read: far more than the kernel keeps for it. */
const UNREAD_REPLAYS = 120;
/** Sends at once, well above the burst of the default rate limit. */
const OVERDONE = 120;

export function createVisitors(options: VisitorOptions) {
  const { url, port, rooms, book, chance, onRefused, busyCodes } = options;
  let visits = 0;

  /** Whether it was refused for a reason that is not the client's fault; counts it. */
  async function isBusy(response: Response): Promise<boolean> {
    const { error } = (await response.json()) as { error: WireError };
    onRefused(error.code);
    return error.code === "rate_limited" || busyCodes.has(error.code);
  }

  function refusedFor({ error }: Refused, what: string): void {
    onRefused(error.code);
    if (!busyCodes.has(error.code)) book.fault(`${what} was refused with ${error.code}`);
  }

  async function getJson<T>(path: string, what: string): Promise<T | undefined> {
    const response = await fetch(`${url}${path}`);
    if (response.ok) return (await response.json()) as T;
    if (!(await isBusy(response))) book.fault(`${what} answered ${response.status}`);
    return undefined;
  }

  /** Posts, and now and then posts the same again. */
  async function post(): Promise<void> {
    visits += 1;
    const room = chance.pick(rooms);
    const key = `post-${visits}`;
    const body = JSON.stringify({ user_id: "poster", message: `posted ${visits}` });
    const once = () =>
      fetch(`${url}/rooms/${room}/messages`, {
        method: "POST",
        headers: { ...JSON_TYPE, "Idempotency-Key": key },
        body,
      });
    const first = await once();
    if (first.status !== 201) {
      if (!(await isBusy(first))) book.fault(`POST answered ${first.status}`);
      return;
    }
    const message = (await first.json()) as WireMessage & { seq: number };
    book.acked(message);
    if (!chance.often(0.2)) return;
    const second = await once();
    if (!second.ok) {
      if (!(await isBusy(second))) book.fault(`a repeated POST answered ${second.status}`);
      return;
    }
    const again = (await second.json()) as WireMessage;
    if (second.status !== 200 || again.id !== message.id || again.seq !== message.seq)
      book.fault(`a repeated POST answered ${second.status} with ${again.seq} for ${message.seq}`);
  }

  /** Reads a few pages of a room, newest first. */
  async function walkRoom(): Promise<void> {
    const room = chance.pick(rooms);
    const limit = chance.pick([1, 50, 200]);
    let cursor: string | null = null;
    let last: number | undefined;
    for (let page = 0; page < WALK_PAGES_MAX; page += 1) {
      const query = new URLSearchParams({ limit: String(limit), ...(cursor !== null && { cursor }) });
      const got: { messages: WireMessage[]; next_cursor: string | null } | undefined = await getJson(
        `/rooms/${room}/messages?${query}`,
        "a walk of a room",
      );
      if (got === undefined) return;
      for (const message of got.messages) {
        book.seen(message, "a walk");
        if (last !== undefined && message.seq !== last - 1)
          book.fault(`${room}: a walk shows ${message.seq} after ${last}`);
        last = message.seq ?? undefined;
      }
      cursor = got.next_cursor;
      if (cursor === null) return;
    }
  }

  /** Reads a few pages of what one user sent: every message once, newest first. */
  async function walkUser(): Promise<void> {
    const user = chance.pick(["member-0", "member-5", "poster", "nobody"]);
    const ids = new Set<string>();
    let cursor: string | null = null;
    let last = "\uffff";
    for (let page = 0; page < WALK_PAGES_MAX; page += 1) {
      const query = new URLSearchParams({ limit: "100", ...(cursor !== null && { cursor }) });
      const got: { messages: WireMessage[]; next_cursor: string | null } | undefined = await getJson(
        `/messages/${user}?${query}`,
        "a walk of a user",
      );
      if (got === undefined) return;
      for (const message of got.messages) {
        book.seen(message, "a user's history");
        if (message.user_id !== user) book.fault(`${user}'s history shows ${message.user_id}`);
        if (ids.has(message.id)) book.fault(`${user}'s history shows ${message.id} twice`);
        if (message.received_at > last) book.fault(`${user}'s history is out of order at ${message.id}`);
        ids.add(message.id);
        last = message.received_at;
      }
      cursor = got.next_cursor;
      if (cursor === null) return;
    }
  }

  async function listRooms(): Promise<void> {
    await getJson("/rooms?limit=200", "the list of rooms");
  }

  /** Comes once, over any transport, founds a room, says a word, and goes. */
  async function passBy(): Promise<void> {
    visits += 1;
    const transports = chance.pick([["websocket"], ["polling"], ["polling", "websocket"]]);
    const room = `passing-${visits}`;
    const socket = io(url, { transports, forceNew: true, reconnection: false });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("connect", resolve);
        socket.once("connect_error", reject);
      });
      const heard = new Promise<WireMessage>((resolve) => socket.once("receive_message", resolve));
      const joined: JoinAnswer | Refused = await socket
        .timeout(20_000)
        .emitWithAck("join_room", { room, user_id: "passer" });
      if (!joined.ok) return refusedFor(joined, "a passer-by's join");
      if (joined.seq !== 0) book.fault(`${room}: a new room begins at ${joined.seq}`);
      const said = { room, user_id: "passer", message: `passing ${visits}` };
      const answer: SendAnswer = await socket.timeout(20_000).emitWithAck("send_message", said);
      if (!answer.ok) return refusedFor(answer, "a passer-by's word");
      book.acked(answer);
      book.seen(await heard, "live");
    } finally {
      socket.disconnect();
    }
  }

  const WRONG_EVENTS: readonly (readonly [string, unknown, string])[] = [
    ["send_message", null, "invalid_payload"],
    ["send_message", { room: rooms[0], user_id: "wrong", message: { $gt: "" } }, "invalid_payload"],
    ["send_message", { room: "never-joined", user_id: "wrong", message: "x" }, "not_in_room"],
    ["send_message", { room: rooms[0], user_id: "wrong", message: "x".repeat(20_000) }, "payload_too_large"],
    ["join_room", { room: "\u0000" }, "invalid_payload"],
    ["leave_room", "never-joined", "not_in_room"],
    ["drop_tables", {}, "unknown_event"],
  ];
  const WRONG_REQUESTS: readonly (readonly [string, RequestInit, number])[] = [
    ["/messages/%00", {}, 400],
    ["/rooms?limit=1e9", {}, 400],
    ["/rooms?cursor=nonsense", {}, 400],
    ["/nowhere", {}, 404],
    ["/rooms", { method: "DELETE" }, 405],
    ["/rooms/a/messages", { method: "POST", headers: JSON_TYPE, body: "{" }, 400],
    ["/rooms/a/messages", { method: "POST", body: "{}" }, 415],
    ["/socket.io/?EIO=3&transport=polling", {}, 400],
    ["/socket.io/?EIO=4&transport=polling&sid=nobody", {}, 400],
  ];

  /** Does what is refused, and checks with what. */
  async function misbehave(): Promise<void> {
    const socket = io(url, { transports: ["websocket"], forceNew: true, reconnection: false });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("connect", resolve);
        socket.once("connect_error", reject);
      });
      await socket.timeout(20_000).emitWithAck("join_room", { room: rooms[0] });
      for (const [event, payload, code] of WRONG_EVENTS) {
        const answer: { ok: boolean; error?: WireError } = await socket
          .timeout(20_000)
          .emitWithAck(event, payload);
        onRefused(answer.error?.code ?? "none");
        if (answer.error?.code !== code)
          book.fault(`a wrong ${event} was answered ${answer.error?.code}, not ${code}`);
      }
      for (const [path, init, status] of WRONG_REQUESTS) {
        const response = await fetch(`${url}${path}`, init);
        await response.arrayBuffer();
        if (response.status !== status)
          book.fault(`a wrong ${path} was answered ${response.status}, not ${status}`);
      }
    } finally {
      socket.disconnect();
    }
  }

  /** Says more at once than one connection may: some of it is stored, the rest is refused and nowhere to be found. */
  async function overdo(): Promise<void> {
    visits += 1;
    const room = `passing-${visits}`;
    const socket = io(url, { transports: ["websocket"], forceNew: true, reconnection: false });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("connect", resolve);
        socket.once("connect_error", reject);
      });
      await socket.timeout(20_000).emitWithAck("join_room", { room });
      const drafts = Array.from({ length: OVERDONE }, (_, n) => ({
        room,
        user_id: "loud",
        message: numbered(`loud-${visits}`, 0, n, "again"),
      }));
      const answers: SendAnswer[] = await Promise.all(
        drafts.map((draft) => socket.timeout(20_000).emitWithAck("send_message", draft)),
      );
      let refused = 0;
      for (const [n, answer] of answers.entries()) {
        if (answer.ok) book.acked(answer);
        else {
          refused += 1;
          onRefused(answer.error.code);
          if (busyCodes.has(answer.error.code)) continue;
          book.refused(drafts[n]?.message ?? "");
          if (answer.error.code !== "rate_limited" || !(Number(answer.error.retry_after_ms) > 0))
            book.fault(`too much at once was refused with ${answer.error.code}`);
        }
      }
      if (refused === 0) book.fault(`${OVERDONE} sends at once were all let through`);
    } finally {
      socket.disconnect();
    }
  }

  async function openRawMember(room: string) {
    const raw = await openRawSocket(port);
    raw.send("40");
    await raw.heardAtLeast(2);
    raw.send(`42["join_room",${JSON.stringify({ room })}]`);
    return raw;
  }

  /** Stays open and says nothing more, not even a pong, as when a machine loses its network: the ping timeout ends it. */
  async function vanish(): Promise<void> {
    const { tcp, closed } = await openRawMember(chance.pick(rooms));
    tcp.pause();
    // Its end must be seen although it reads nothing of what came before it.
    setTimeout(() => tcp.resume(), 20_000);
    await closed;
  }

  /** Asks for replays that it never reads, until the server lets it go. */
  async function readSlowly(): Promise<void> {
    const room = chance.pick(rooms);
    const { tcp, closed, send } = await openRawMember(room);
    tcp.pause();
    for (let n = 0; n < UNREAD_REPLAYS && !tcp.destroyed; n += 1) {
      send(`42${n}["join_room",${JSON.stringify({ room, since: 0 })}]`);
      await Bun.sleep(25);
    }
    tcp.resume();
    tcp.end();
    await closed;
  }

  return {
    post,
    walkRoom,
    walkUser,
    listRooms,
    passBy,
    misbehave,
    overdo,
    vanish,
    readSlowly,
  } satisfies Record<string, Visit>;
}

export type Visitors = ReturnType<typeof createVisitors>;
