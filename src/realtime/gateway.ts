/**
 * Socket.IO's face of the chat: the table of events, their order on one connection, and the acknowledgements.
 * A new event is one schema (protocol/events.ts), one entry of EVENTS, one use case (chat/).
 */

import { ANONYMOUS } from "../auth/viewer.ts";
import type { Allowance } from "../chat/admission.ts";
import type { Chat } from "../chat/chat.ts";
import type { Deliver, Dismiss, Relief } from "../chat/feeds.ts";
import type { Announce } from "../chat/rooms.ts";
import type { Session } from "../chat/session.ts";
import type { RoomName } from "../domain/ids.ts";
import { asChatError, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import {
  encodeJoined,
  encodeSent,
  errorToWire,
  leftToWire,
  parseJoinRoom,
  parseLeaveRoom,
  parseSendMessage,
  presenceToWire,
  SERVER_EVENTS,
} from "../protocol/events.ts";
import { encodeMessage } from "../protocol/wire.ts";
import { nextTick } from "../runtime/ticks.ts";
import type { Fanout } from "./fanout.ts";
import { createHeldSends, type HeldSends } from "./held-sends.ts";
import { eventFrame, type Namespace, type Peer } from "../engine/socket-io.ts";

/** A connection in Socket.IO's sense, with what we know of it. */
export type ChatPeer = Peer<Connection>;

/** How members are reached. */
export function createBroadcast(fanout: Fanout<ChatPeer>): {
  deliver: Deliver;
  announce: Announce;
  dismiss: Dismiss;
  relief: Relief;
} {
  return {
    deliver(room, entries) {
      for (const { message } of entries)
        fanout.publish(room, eventFrame(SERVER_EVENTS.receiveMessage, encodeMessage(message)));
    },
    announce({ kind, room, userId }, at, exceptConnection) {
      const name = kind === "joined" ? SERVER_EVENTS.userJoined : SERVER_EVENTS.userLeft;
      const json = JSON.stringify(presenceToWire(room, userId, at));
      // Only small rooms are told.
      const except = [...fanout.members(room)].find(({ id }) => id === exceptConnection);
      fanout.publish(room, eventFrame(name, json), except);
    },
    dismiss(room) {
      // The transport, not the socket: a client comes back from that by itself.
      for (const { session } of [...fanout.members(room)]) session.close();
    },
    async relief(room) {
      // What was published is handed to the sockets at the end of a tick; an immediate of this one may run before that.
      await nextTick();
      await nextTick();
      await Promise.all(
        [...fanout.members(room)].map(({ session }) => session.takesMore(LIMITS.catchUpReliefMs)),
      );
    },
  };
}

/** Answers an event with JSON text; undefined where the client waits for no answer. */
type Ack = ((json: string) => void) | undefined;

/** What an event does once its payload is parsed. Throwing refuses. */
interface Doing {
  act(connection: Connection, ack: Ack): Promise<void> | void;
  /** For an event that is refused where its connection is not in the room: which one, and how long it is. */
  readonly into?: { readonly room: RoomName; readonly textBytes: number };
  /** For a join: which room. */
  readonly joins?: RoomName;
}

interface Connection {
  readonly peer: ChatPeer;
  readonly session: Session;
  /** Milliseconds of the clock that never goes back. */
  readonly beganMs: number;
  /** What came after a join that is still under way, oldest first; null when none is. */
  waiting: Incoming[] | null;
  /** It has left a room: its application acts, and what was emitted offline has come. */
  hasLeft: boolean;
}

interface Incoming {
  readonly connection: Connection;
  readonly event: string;
  readonly doing: Doing;
  readonly ack: Ack;
}

interface GatewayOptions {
  readonly chat: Chat;
  readonly fanout: Fanout<ChatPeer>;
  readonly messageBytesMax: number;
  readonly inFlightMax: number;
  /** Milliseconds of a clock that never goes back. */
  readonly monotonicNow: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
}

interface Deps extends GatewayOptions {
  /** Connections, in the engine's sense, that are being let go. */
  readonly leaving: WeakSet<object>;
  /** By connection in the engine's sense. */
  readonly held: HeldSends<Incoming>;
}

export interface Gateway extends Namespace<Connection> {
  /**
   * From now on this connection's events are answered `draining`, those too that wait behind a join; what is under way goes
   * on to its answer.
   */
  letGo(connection: object): void;
}

/** Every event that a client may send: parses at once, so that what has to wait is bounded, and says what to do. */
const EVENTS = {
  send_message({ chat, messageBytesMax }, payload) {
    const command = parseSendMessage(payload, messageBytesMax);
    return {
      into: command,
      async act({ session }, ack) {
        const { message, duplicate } = await chat.send.fromSession(session, command);
        ack?.(encodeSent(message, duplicate));
      },
    };
  },

  join_room({ chat, fanout }, payload) {
    const command = parseJoinRoom(payload);
    return {
      joins: command.room,
      act(connection, ack) {
        const { peer, session } = connection;
        connection.waiting = [];
        // The ack goes out and the subscription begins in one tick, so no live message comes before the ack.
        return chat.rooms.join(session, command, {
          takesMore: () => peer.session.takesMore(LIMITS.replayReliefMs),
          enter({ room, head, replay }) {
            ack?.(encodeJoined(room, head, replay));
            fanout.join(peer, room);
          },
        });
      },
    };
  },

  leave_room(deps, payload) {
    const command = parseLeaveRoom(payload);
    return {
      act(connection, ack) {
        const { peer, session } = connection;
        refuseHeld(deps, peer.session.conn, new ChatError("not_in_room"), command.room);
        // Throws where it is not in the room; then its application may still be about to join others.
        deps.chat.rooms.leave(session, command);
        connection.hasLeft = true;
        deps.fanout.leave(peer, command.room);
        ack?.(JSON.stringify(leftToWire(command.room)));
      },
    };
  },
} satisfies Record<string, (deps: Deps, payload: unknown) => Doing>;

export type ClientEvent = keyof typeof EVENTS;

function doingOf(deps: Deps, event: string, payload: unknown): Doing {
  if (!Object.hasOwn(EVENTS, event)) throw new ChatError("unknown_event");
  return EVENTS[event as ClientEvent](deps, payload);
}

/** Takes the clients that connect to the default namespace, and what they say. */
export function createGateway(options: GatewayOptions): Gateway {
  const { chat, fanout, monotonicNow, metrics } = options;
  const held = createHeldSends<Incoming>({
    waitMs: LIMITS.joinAwaitedMs,
    sendsMax: options.inFlightMax,
    textBytesMax: LIMITS.heldSendsOfConnectionTextBytesMax,
    bytesMax: LIMITS.heldSendsBytesMax,
    monotonicNow,
    waitsOn: ({ connection }) => connection.waiting !== null,
    onLate: (send) => refuse(deps, send, new ChatError("not_in_room")),
    metrics,
  });
  const deps: Deps = { ...options, leaving: new WeakSet(), held };
  /** Of connections, in the engine's sense, that have left the namespace and live: a client that comes back has not rested. */
  const allowances = new WeakMap<object, Allowance>();
  return {
    events: new Set(Object.keys(EVENTS)),

    admit(peer) {
      const { conn } = peer.session;
      const session = chat.connect(peer.id, ANONYMOUS, allowances.get(conn));
      return { peer, session, beganMs: monotonicNow(), waiting: null, hasLeft: false };
    },

    onEvent(peer, name, [payload], ackId) {
      const event = String(name).slice(0, LIMITS.eventNameCharsMax).toWellFormed();
      const ack = ackId === undefined ? undefined : (json: string) => peer.ackJson(ackId, json);
      const connection = peer.data;
      try {
        receive(deps, { connection, event, doing: doingOf(deps, event, payload), ack });
      } catch (thrown) {
        refuse(deps, { connection, event, ack }, thrown);
      }
    },

    onUpgrade: (peer) => fanout.upgraded(peer, peer.data.session.rooms),

    onDisconnect(peer) {
      const { session } = peer.data;
      peer.data.waiting = null;
      const { conn } = peer.session;
      held.take(conn);
      for (const room of session.rooms) fanout.leave(peer, room);
      chat.rooms.end(session);
      if (conn.readyState === "open") allowances.set(conn, session.allowance);
    },

    letGo(connection) {
      deps.leaving.add(connection);
      refuseHeld(deps, connection, new ChatError("draining"));
    },
  };
}

/**
 * One connection's events take effect in the order in which it emitted them: what follows a join waits for it. Only sends
 * to a room that is not joined yet let the others pass.
 */
function receive(deps: Deps, incoming: Incoming): void {
  const { connection, doing } = incoming;
  const { conn } = connection.peer.session;
  if (deps.leaving.has(conn)) throw new ChatError("draining");
  if (connection.waiting !== null) {
    if (connection.waiting.length >= LIMITS.eventsBehindJoinMax) {
      deps.metrics.count("events_overloaded_total");
      throw new ChatError("overloaded", { retryAfterMs: LIMITS.storeTimeoutMs });
    }
    connection.waiting.push(incoming);
  } else if (doing.into !== undefined && mayBeJoinedYet(deps, connection, doing.into.room)) {
    deps.held.hold(conn, doing.into.room, incoming, doing.into.textBytes);
  } else {
    void take(deps, incoming);
  }
}

/** Whether the connection is not in the room, and so young that its application may not have come to join it. */
const mayBeJoinedYet = (
  { monotonicNow }: Deps,
  { session, beganMs, hasLeft }: Connection,
  room: RoomName,
): boolean => !session.rooms.has(room) && !hasLeft && monotonicNow() - beganMs < LIMITS.connectionYoungMs;

async function take(deps: Deps, incoming: Incoming): Promise<void> {
  const { connection, doing, ack } = incoming;
  try {
    await doing.act(connection, ack);
  } catch (thrown) {
    refuse(deps, incoming, thrown);
  }
  if (doing.joins !== undefined) resume(deps, connection, doing.joins);
}

/** A join has ended. Where it failed, the sends that wait for it have their whole time again: the application may try again. */
function resume(deps: Deps, connection: Connection, room: RoomName): void {
  const waiting = connection.waiting ?? [];
  connection.waiting = null;
  const { session, peer } = connection;
  const { conn } = peer.session;
  const held = session.rooms.has(room) ? deps.held.take(conn, room) : [];
  deps.held.restart(conn);
  for (const incoming of [...held, ...waiting]) {
    try {
      // Another join among them makes the rest wait again.
      receive(deps, incoming);
    } catch (thrown) {
      refuse(deps, incoming, thrown);
    }
  }
}

/** @param conn a connection in the engine's sense */
function refuseHeld(deps: Deps, conn: object, error: ChatError, room?: RoomName): void {
  for (const incoming of deps.held.take(conn, room)) refuse(deps, incoming, error);
}

function refuse(
  { log }: Pick<Deps, "log">,
  { connection, event, ack }: Pick<Incoming, "connection" | "event" | "ack">,
  thrown: unknown,
): void {
  const error = asChatError(thrown);
  if (error.code === "internal") log.error("event_failed", { event, error: error.details.cause });
  const wire = errorToWire(error);
  if (ack !== undefined) ack(JSON.stringify({ ok: false, error: wire }));
  else connection.peer.emit(SERVER_EVENTS.error, { ...wire, event });
}
