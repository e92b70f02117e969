/** A steady member of a few rooms: talks, comes and goes, and checks that live plus replay has no hole and no repeat. */

import { io, type Socket } from "socket.io-client";
import type { joinedToWire } from "../../../src/protocol/events.ts";
import type { WireError, WireMessage } from "../../../src/protocol/wire.ts";
import type { Chance } from "../../fixture/chance.ts";
import type { SendAnswer } from "../../fixture/member.ts";
import { type Book, numbered } from "./book.ts";

export type Transport = "websocket" | "polling" | "upgrade";

export interface SoakMember {
  readonly name: string;
  /** Connects and joins its rooms, from where it was when it has been there before. */
  connect(): Promise<void>;
  /** Says something in one of its rooms, if it is connected. */
  talk(): void;
  /** Leaves a room and comes back to it from where it was. */
  stepOut(): Promise<void>;
  disconnect(): void;
  readonly connected: boolean;
  /** Resolves once it was shown all of its rooms up to the given numbers. */
  caughtUp(heads: ReadonlyMap<string, number>): Promise<void>;
  /** Sends that wait for their answer. */
  readonly waiting: number;
}

export interface SoakMemberOptions {
  readonly url: string;
  readonly name: string;
  readonly transport: Transport;
  readonly rooms: readonly string[];
  readonly book: Book;
  readonly chance: Chance;
  /** How long an ack took. */
  readonly onAck: (ms: number) => void;
  readonly onJoin: (kind: "fresh" | "resumed" | "resumed_in_parts") => void;
  readonly onRefused: (code: string) => void;
  /** Refusals that a right send may get beside `rate_limited`: what a store may say that is slower than the load. */
  readonly busyCodes: ReadonlySet<string>;
}

type JoinAnswer = ReturnType<typeof joinedToWire> | { readonly ok: false; readonly error: WireError };

/** An answer that takes longer than this will not come. */
const ANSWER_MS = 20_000;
/** How long to wait before what a busy store refused is tried again. */
const BUSY_MS = 1_000;
const CLIENT_ID_SHARE = 0.3;
const RETRY_SHARE = 0.3;
const WORDS = "the ferry leaves at nine so bring coffee and some bread for everyone on board today".split(
  " ",
);

interface Draft {
  readonly room: string;
  readonly user_id: string;
  readonly message: string;
  readonly client_id?: string;
}

export function createSoakMember(options: SoakMemberOptions): SoakMember {
  const { url, name, transport, rooms, book, chance, onAck, onJoin, onRefused, busyCodes } = options;
  let socket: Socket | undefined;
  let connections = 0;
  let said = 0;
  let waiting = 0;
  let epoch: string | undefined;
  /** The newest number seen, by room; live goes on behind it. */
  const reached = new Map<string, number>();
  /** Rooms whose missed part is still being read, with what came live meanwhile. */
  const behind = new Map<string, WireMessage[]>();
  /** Sends whose outcome is unknown: their connection ended first. They are said again with their client_id. */
  let unknown: Draft[] = [];

  const phrase = () =>
    Array.from({ length: 2 + chance.below(chance.often(0.02) ? 400 : 12) }, () => chance.pick(WORDS)).join(
      " ",
    );

  function hear(message: WireMessage, how: string) {
    book.seen(message, how);
    const last = reached.get(message.room) ?? 0;
    if (message.seq !== last + 1) {
      book.fault(`${name} in ${message.room} (${transport}): ${how} shows ${message.seq} after ${last}`);
    }
    reached.set(message.room, message.seq ?? last);
  }

  function onLive(message: WireMessage) {
    const kept = behind.get(message.room);
    if (kept === undefined) hear(message, "live");
    else kept.push(message);
  }

  /** Emits, and calls back in the very turn in which the answer came; null when the connection ended first. */
  function ask<T>(on: Socket, event: string, payload: unknown, answered: (answer: T | null) => void) {
    let open = true;
    const finish = (answer: T | null) => {
      if (!open) return;
      open = false;
      clearTimeout(late);
      on.off("disconnect", parted);
      answered(answer);
    };
    const parted = () => finish(null);
    const late = setTimeout(() => {
      book.fault(`${name}: ${event} was not answered within ${ANSWER_MS} ms`);
      finish(null);
    }, ANSWER_MS);
    on.on("disconnect", parted);
    on.emit(event, payload, finish);
  }

  function send(draft: Draft, isRetry: boolean) {
    if (socket === undefined) return;
    const began = performance.now();
    waiting += 1;
    ask<SendAnswer>(socket, "send_message", draft, (answer) => {
      waiting -= 1;
      if (answer === null) {
        if (draft.client_id !== undefined) unknown.push(draft);
        return;
      }
      onAck(performance.now() - began);
      if (answer.ok) {
        book.acked(answer);
        if (!isRetry && answer.duplicate) book.fault(`${name}: a first send was called a duplicate`);
        if (!isRetry && draft.client_id !== undefined && chance.often(RETRY_SHARE)) again(draft, answer.seq);
        return;
      }
      const { code } = answer.error;
      onRefused(code);
      if (code !== "rate_limited" && !busyCodes.has(code)) {
        book.fault(`${name}: a valid send was refused with ${code}`);
      } else if (code === "storage_unavailable" || isRetry) {
        // Whether it is stored is unknown, and what was said after it may be.
        book.saidAgain(draft.message);
        if (draft.client_id !== undefined) unknown.push(draft);
      } else book.refused(draft.message);
    });
  }

  function again(draft: Draft, seq: number) {
    if (socket === undefined || !reached.has(draft.room)) return;
    ask<SendAnswer>(socket, "send_message", draft, (answer) => {
      if (answer === null) return;
      if (!answer.ok) onRefused(answer.error.code);
      else if (!answer.duplicate || answer.seq !== seq) {
        book.fault(
          `${name}: a retry of ${seq} was answered with ${answer.seq}, duplicate ${answer.duplicate}`,
        );
      }
    });
  }

  async function readMissed(room: string, upTo: number) {
    while ((reached.get(room) ?? 0) < upTo) {
      const from = reached.get(room) ?? 0;
      const query = new URLSearchParams({ after: String(from), limit: "200", ...(epoch && { epoch }) });
      const response = await fetch(`${url}/rooms/${room}/messages?${query}`);
      if (!response.ok) {
        const { error } = (await response.json()) as { error: WireError };
        if (!busyCodes.has(error.code)) throw new Error(`history answered ${response.status}: ${error.code}`);
        await Bun.sleep(BUSY_MS);
        continue;
      }
      const { messages } = (await response.json()) as { messages: WireMessage[] };
      for (const message of messages) if ((message.seq ?? 0) <= upTo) hear(message, "history");
      if ((reached.get(room) ?? 0) === from)
        return book.fault(`${room}: nothing after ${from}, head ${upTo}`);
    }
    return undefined;
  }

  function join(on: Socket, room: string): Promise<void> {
    const since = reached.get(room);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const payload = { room, user_id: name, ...(since !== undefined && { since, epoch }) };
    ask<JoinAnswer>(on, "join_room", payload, (answer) => {
      if (answer === null) return resolve();
      if (!answer.ok && busyCodes.has(answer.error.code)) {
        onRefused(answer.error.code);
        return void Bun.sleep(BUSY_MS)
          .then(() => (on.connected ? join(on, room) : undefined))
          .then(resolve, reject);
      }
      if (!answer.ok) return reject(new Error(`${name} was not let into ${room}: ${answer.error.code}`));
      epoch = answer.epoch;
      if (since === undefined) {
        onJoin("fresh");
        reached.set(room, answer.seq);
        return resolve();
      }
      if (!answer.recovered) book.fault(`${name} was not resumed in ${room}: ${answer.reason}`);
      for (const message of answer.messages ?? []) hear(message, "replay");
      onJoin(answer.complete ? "resumed" : "resumed_in_parts");
      if (answer.complete) {
        if (reached.get(room) !== answer.seq)
          book.fault(
            `${name}: a complete replay of ${room} ends at ${reached.get(room)}, head ${answer.seq}`,
          );
        return resolve();
      }
      const live: WireMessage[] = [];
      behind.set(room, live);
      return readMissed(room, answer.seq).then(() => {
        behind.delete(room);
        for (const message of live) hear(message, "live");
        resolve();
      }, reject);
    });
    return promise;
  }

  return {
    name,
    async connect() {
      const transports = transport === "upgrade" ? ["polling", "websocket"] : [transport];
      const opened = io(url, { transports, forceNew: true, reconnection: false });
      opened.on("receive_message", onLive);
      opened.on("error", (error: WireError & { event: string }) => {
        book.fault(`${name}: an error event for ${error.event}: ${error.code}`);
      });
      await new Promise<void>((resolve, reject) => {
        opened.once("connect", resolve);
        opened.once("connect_error", reject);
      });
      connections += 1;
      opened.on("disconnect", (reason) => {
        if (reason !== "io client disconnect") book.fault(`${name} (${transport}) was cut off: ${reason}`);
      });
      await Promise.all(rooms.map((room) => join(opened, room)));
      socket = opened;
      const retries = unknown;
      unknown = [];
      for (const draft of retries) send(draft, true);
    },
    talk() {
      if (socket === undefined) return;
      const room = chance.pick(rooms);
      if (!reached.has(room)) return;
      said += 1;
      const client_id = chance.often(CLIENT_ID_SHARE) ? `${name}-${said}` : undefined;
      const message = numbered(name, connections, said, phrase());
      send({ room, user_id: name, message, ...(client_id !== undefined && { client_id }) }, false);
    },
    async stepOut() {
      const on = socket;
      if (on === undefined) return;
      // It says nothing meanwhile: what it sends to a room that it has left is refused.
      socket = undefined;
      const room = chance.pick(rooms);
      const left = await new Promise<{ ok: boolean } | null>((resolve) =>
        ask(on, "leave_room", { room }, resolve),
      );
      if (left === null) return;
      if (!left.ok) book.fault(`${name}: leaving ${room} was refused`);
      await join(on, room);
      if (on.connected) socket = on;
    },
    disconnect() {
      const on = socket;
      socket = undefined;
      on?.disconnect();
    },
    get connected() {
      return socket !== undefined;
    },
    async caughtUp(heads) {
      const deadline = performance.now() + ANSWER_MS;
      const lacks = () => rooms.find((room) => (reached.get(room) ?? 0) < (heads.get(room) ?? 0));
      for (let room = lacks(); room !== undefined; room = lacks()) {
        if (performance.now() > deadline) {
          book.fault(`${name} was shown ${room} up to ${reached.get(room)} of ${heads.get(room)}`);
          return;
        }
        await Bun.sleep(20);
      }
    },
    get waiting() {
      return waiting;
    },
  };
}
