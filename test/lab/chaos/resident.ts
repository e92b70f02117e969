/** A member that resets in its rooms through every fault: a stock client that resumes after each break, and may speak. */

import { io, type Socket } from "socket.io-client";
import type { JoinAnswer, SendAnswer, WireMessage } from "../../fixture/member.ts";
import type { WireError } from "../../../src/protocol/wire.ts";
import type { Answer, Ledger, Said } from "./ledger.ts";
import { readRefusal, type Refusal } from "./refusals.ts";
import { crowding, type Watch } from "./watch.ts";

/** How a client connects: `upgrade` begins with polling and goes over to a WebSocket by itself. */
export type Transport = "websocket" | "polling" | "upgrade";

const TRANSPORTS = {
  websocket: ["websocket"],
  polling: ["polling"],
  upgrade: ["polling", "websocket"],
} as const satisfies Record<Transport, readonly string[]>;

/** The service answers every event within its ceilings on the store; this is well above them. */
export const answerMs = () => 15_000 * crowding();
/** Between two tries to join, twice as long after each refusal: a crowd that asks at once again is a fault of its own. */
const REJOIN_MIN_MS = 50;
const REJOIN_MAX_MS = 2_000;

const rejoinMs = (refused: number) =>
  Math.min(REJOIN_MAX_MS, REJOIN_MIN_MS * 2 ** (refused - 1)) * (0.5 + Math.random() / 2);

export interface ResidentOptions {
  readonly name: string;
  readonly url: string;
  readonly transport: Transport;
  readonly rooms: readonly string[];
  /** Whether its first join asks for all there was, or only for what comes. */
  readonly from: "beginning" | "now";
  readonly ledger: Ledger;
  readonly watch: Watch;
}

export interface Resident {
  readonly name: string;
  /** Whether it may speak in the room: connected, and let in on this very connection. */
  isIn(room: string): boolean;
  /** The last number it was shown of the room. */
  last(room: string): number;
  /** One try. Must be called only while it is in the room. */
  say(entry: Said, payload: object): Promise<Answer>;
  /** Breaks its connection; it comes back by itself. */
  drop(): void;
  /** How often it was let in, over all rooms. */
  joins(): number;
  /** Whether it speaks over a WebSocket now. */
  isOnWebSocket(): boolean;
  leave(): void;
}

interface Place {
  readonly room: string;
  sighting: ReturnType<Ledger["sight"]> | null;
  epoch: string | undefined;
  /** How often the store had been reset when it was let in last. */
  resets: number;
  /** Tries to join that were refused since it was let in. */
  refused: number;
  /** Let in on the present connection. */
  isIn: boolean;
  /** What comes live while the rest of a long replay is read over HTTP. */
  waiting: WireMessage[] | null;
}

export function createResident(options: ResidentOptions): Resident {
  const { name, url, transport, rooms, from, ledger, watch } = options;
  const { violated } = ledger;
  const socket: Socket = io(url, {
    transports: [...TRANSPORTS[transport]],
    forceNew: true,
    reconnectionDelay: 20,
    reconnectionDelayMax: 200,
  });
  const places = new Map<string, Place>(
    rooms.map((room) => [
      room,
      {
        room,
        sighting: null,
        epoch: undefined,
        resets: 0,
        refused: 0,
        isIn: false,
        waiting: null,
      } satisfies Place,
    ]),
  );
  let emitted = 0;
  let joins = 0;

  const drop = () => void socket.io.engine?.close();
  const isSame = (connection: string | undefined) => socket.connected && socket.id === connection;

  function join(place: Place): void {
    const connection = socket.id;
    const since = place.sighting === null ? (from === "beginning" ? 0 : undefined) : place.sighting.seen.last;
    const payload = { room: place.room, user_id: name, since, epoch: place.epoch };
    const resets = ledger.resets();
    ledger.note(name, `asks for ${place.room} after ${since} on ${connection}`);
    socket
      .timeout(answerMs())
      .emit(
        "join_room",
        payload,
        (error: Error | null, answer: JoinAnswer | { ok: false; error: WireError }) => {
          ledger.note(name, `${place.room} answered on ${socket.id}: ${error ?? summaryOf(answer)}`);
          if (!isSame(connection)) return;
          if (error !== null) violated("unanswered", `${name} got no answer to its join of ${place.room}`);
          // The store was reset while it asked: the answer may be from before or from after.
          else if (ledger.resets() !== resets) drop();
          else if (answer.ok) enter(place, since, answer);
          else {
            ledger.refused(`${name} at the door of ${place.room}`, refusalOf(answer.error));
            if (!answer.error.retryable)
              violated("wrong answer", `${name} was not let in: ${answer.error.code}`);
            place.refused += 1;
            setTimeout(() => isSame(connection) && join(place), rejoinMs(place.refused));
          }
        },
      );
  }

  function enter(place: Place, since: number | undefined, joined: JoinAnswer): void {
    joins += 1;
    place.epoch = joined.epoch;
    place.refused = 0;
    const former = place.sighting;
    if (former !== null && place.resets < ledger.resets()) {
      if (ledger.joinedAgain(former.seen, joined))
        place.sighting = ledger.sight(name, place.room, joined.seq);
    } else if (since !== undefined && joined.recovered !== true) {
      // What another program has removed is gone, and the room goes on behind it.
      const isTruncated =
        ledger.wasEmptied() && joined.reason === "truncated" && since + 1 < joined.first_seq;
      if (isTruncated) place.sighting = ledger.sight(name, place.room, joined.seq);
      else violated("missed", `${name} could not resume ${place.room} after ${since}: ${joined.reason}`);
    }
    place.resets = ledger.resets();
    place.sighting ??= ledger.sight(name, place.room, since ?? joined.seq);
    const { sighting } = place;
    for (const message of joined.messages ?? []) sighting.show(message, "replayed");
    place.isIn = true;
    if (sighting.seen.last < joined.seq) {
      if (joined.complete !== false)
        violated("missed", `${name} resumed ${place.room} to ${sighting.seen.last} of ${joined.seq}`);
      void readOn(place, joined.seq);
    }
    watch.changed();
  }

  /** Reads over HTTP what the replay had no room for; what comes live meanwhile waits. */
  async function readOn(place: Place, target: number): Promise<void> {
    const connection = socket.id;
    const { sighting, room } = place;
    if (sighting === null) return;
    place.waiting = [];
    while (isSame(connection) && sighting.seen.last < target) {
      const messages = await readPage(room, sighting.seen.last);
      if (!isSame(connection)) return;
      for (const message of messages) if ((message.seq ?? 0) <= target) sighting.show(message, "read on");
      if (messages.length === 0) await Bun.sleep(REJOIN_MIN_MS);
    }
    if (!isSame(connection)) return; // what waits now is of the next connection
    const waiting = place.waiting ?? [];
    place.waiting = null;
    for (const message of waiting) sighting.show(message, "live");
  }

  /** Empty when the service does not answer now. */
  async function readPage(room: string, after: number): Promise<readonly WireMessage[]> {
    try {
      const path = `${url}/rooms/${encodeURIComponent(room)}/messages?after=${after}&limit=200`;
      const response = await fetch(path, { signal: AbortSignal.timeout(answerMs()) });
      if (response.ok) return ((await response.json()) as { messages: WireMessage[] }).messages;
      ledger.refused(`${name}, who read on,`, await readRefusal(response));
      if (response.status < 500) violated("wrong answer", `${name} read on and got ${response.status}`);
    } catch {
      // Cut off, as the connection is or will be.
    }
    return [];
  }

  socket.on("connect", () => {
    for (const place of places.values()) join(place);
  });
  socket.on("disconnect", (reason) => {
    ledger.note(name, `disconnected: ${reason}`);
    if (reason !== "io client disconnect") ledger.broke(name, reason);
    for (const place of places.values()) {
      place.isIn = false;
      place.waiting = null;
    }
    watch.changed();
  });
  socket.on("receive_message", (message: WireMessage) => {
    const place = places.get(message.room);
    if (place === undefined || place.sighting === null || !place.isIn)
      violated("wrong answer", `${name} was shown ${message.seq} of ${message.room} before it was let in`);
    else if (place.waiting !== null) place.waiting.push(message);
    else place.sighting.show(message, "live");
  });
  socket.on("error", ({ code }: WireError) =>
    violated("wrong answer", `${name} got an error event: ${code}`),
  );

  return {
    name,
    isIn: (room) => socket.connected && places.get(room)?.isIn === true,
    last: (room) => places.get(room)?.sighting?.seen.last ?? -1,
    joins: () => joins,
    isOnWebSocket: () => socket.connected && socket.io.engine?.transport.name === "websocket",
    say(entry, payload) {
      const connection = socket.id ?? "";
      const order = emitted++;
      return new Promise((resolve) => {
        socket.timeout(answerMs()).emit("send_message", payload, (error: Error | null, told: SendAnswer) => {
          const isHere = socket.id === connection;
          const answer = toAnswer(error, told, isHere);
          if (error !== null && isSame(connection))
            violated("unanswered", `${name} got no answer to "${entry.text.slice(0, 40)}"`);
          ledger.answered(entry, answer, isHere ? { connection, order } : undefined);
          resolve(answer);
        });
      });
    },
    drop,
    leave: () => void socket.disconnect(),
  };
}

const summaryOf = (answer: JoinAnswer | { ok: false; error: WireError }): string =>
  answer.ok
    ? `in at ${answer.seq}, replay of ${answer.messages?.length ?? 0}, recovered ${answer.recovered}, complete ${answer.complete}`
    : answer.error.code;

const refusalOf = ({ code, retryable, retry_after_ms }: WireError): Refusal => ({
  ...{ code, retryable, status: null },
  retryAfterMs: retry_after_ms ?? null,
});

/** @param isHere whether the connection is still the one that it was given to */
function toAnswer(error: Error | null, told: SendAnswer, isHere: boolean): Answer {
  if (error !== null) return { kind: "broken" };
  if (told.ok) {
    const { id, seq, timestamp, duplicate } = told;
    return { kind: "acked", id, seq, timestamp, duplicate };
  }
  // The stock client holds back what it is given when its ping is overdue (this process was busy), and sends it first
  // thing on its next connection: before any join.
  if (!isHere && told.error.code === "not_in_room") return { kind: "ahead" };
  return { kind: "refused", ...refusalOf(told.error) };
}
