/**
 * Socket.IO's face of the chat: the table of events, their order on one connection, and the acknowledgements.
 * A new event is one schema (protocol/events.ts), one entry of EVENTS, one use case (chat/).
 */

import { ANONYMOUS } from "../auth/viewer.ts";
import type { Allowance } from "../chat/admission.ts";
import type { Chat } from "../chat/chat.ts";
import type { Deliver, Dismiss } from "../chat/feeds.ts";
import type { Announce } from "../chat/rooms.ts";
import type { Session } from "../chat/session.ts";
import { asChatError, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import {
  encodeSent,
  errorToWire,
  joinedToWire,
  leftToWire,
  parseJoinRoom,
  parseLeaveRoom,
  parseSendMessage,
  presenceToWire,
  SERVER_EVENTS,
} from "../protocol/events.ts";
import { encodeMessage } from "../protocol/wire.ts";
import type { Fanout } from "./fanout.ts";
import { eventFrame, type Namespace, type Peer } from "../engine/socket-io.ts";

/** A connection in Socket.IO's sense, with what we know of it. */
export type ChatPeer = Peer<Connection>;

/** How members are reached: each message is encoded once for the whole room, in the tick of the call. */
export function createBroadcast(fanout: Fanout<ChatPeer>): {
  deliver: Deliver;
  announce: Announce;
  dismiss: Dismiss;
} {
  return {
    deliver(room, messages) {
      for (const message of messages)
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
  };
}

/** Answers an event with JSON text; undefined where the client waits for no answer. */
type Ack = ((json: string) => void) | undefined;

/** What an event does once its payload is parsed. Throwing refuses. */
type Act = (connection: Connection, ack: Ack) => Promise<void> | void;

interface Connection {
  readonly peer: ChatPeer;
  readonly session: Session;
  /** What came after a join that is still under way, oldest first; null when none is. */
  waiting: Incoming[] | null;
}

interface Incoming {
  readonly event: string;
  readonly act: Act;
  readonly ack: Ack;
}

interface GatewayOptions {
  readonly chat: Chat;
  readonly fanout: Fanout<ChatPeer>;
  readonly messageBytesMax: number;
  readonly log: Log;
  readonly metrics: Metrics;
}

interface House extends GatewayOptions {
  /** Connections, in the engine's sense, that are being let go. */
  readonly leaving: WeakSet<object>;
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
    return async ({ session }, ack) => {
      const { message, duplicate } = await chat.send.fromSession(session, command);
      ack?.(encodeSent(message, duplicate));
    };
  },

  join_room({ chat, fanout }, payload) {
    const command = parseJoinRoom(payload);
    return (connection, ack) => {
      const { peer, session } = connection;
      connection.waiting = [];
      // The ack goes out and the subscription begins in one tick, so no live message comes before the ack.
      return chat.rooms.join(session, command, ({ room, head, replay }) => {
        ack?.(JSON.stringify(joinedToWire(room, head, replay)));
        fanout.join(peer, room);
      });
    };
  },

  leave_room({ chat, fanout }, payload) {
    const command = parseLeaveRoom(payload);
    return ({ peer, session }, ack) => {
      chat.rooms.leave(session, command);
      fanout.leave(peer, command.room);
      ack?.(JSON.stringify(leftToWire(command.room)));
    };
  },
} satisfies Record<string, (gateway: GatewayOptions, payload: unknown) => Act>;

export type ClientEvent = keyof typeof EVENTS;

function actOf(gateway: GatewayOptions, event: string, payload: unknown): Act {
  if (!Object.hasOwn(EVENTS, event)) throw new ChatError("unknown_event");
  return EVENTS[event as ClientEvent](gateway, payload);
}

/** What happens to whoever connects to the default namespace. */
export function createGateway(options: GatewayOptions): Gateway {
  const gateway: House = { ...options, leaving: new WeakSet() };
  const { chat, fanout } = options;
  /** Of connections, in the engine's sense, that have left the namespace and go on: who comes back has not rested. */
  const allowances = new WeakMap<object, Allowance>();
  return {
    events: new Set(Object.keys(EVENTS)),

    admit(peer) {
      const session = chat.connect(peer.id, ANONYMOUS, allowances.get(peer.session.conn));
      return { peer, session, waiting: null };
    },

    onEvent(peer, name, [payload], ackId) {
      const event = String(name).slice(0, LIMITS.eventNameCharsMax).toWellFormed();
      const ack = ackId === undefined ? undefined : (json: string) => peer.ackJson(ackId, json);
      try {
        receive(gateway, peer.data, { event, act: actOf(gateway, event, payload), ack });
      } catch (thrown) {
        refuse(gateway, peer.data, { event, ack }, thrown);
      }
    },

    onUpgrade: (peer) => fanout.upgraded(peer, peer.data.session.rooms),

    onDisconnect(peer) {
      const { session } = peer.data;
      peer.data.waiting = null;
      for (const room of session.rooms) fanout.leave(peer, room);
      chat.rooms.end(session);
      const { conn } = peer.session;
      if (conn.readyState === "open") allowances.set(conn, session.allowance);
    },

    letGo: (connection) => void gateway.leaving.add(connection),
  };
}

/** One connection's events take effect in the order in which it emitted them: what follows a join waits for it. */
function receive(gateway: House, connection: Connection, incoming: Incoming): void {
  if (gateway.leaving.has(connection.peer.session.conn)) throw new ChatError("draining");
  if (connection.waiting === null) {
    void take(gateway, connection, incoming);
  } else if (connection.waiting.length < LIMITS.eventsBehindJoinMax) {
    connection.waiting.push(incoming);
  } else {
    gateway.metrics.count("events_overloaded_total");
    throw new ChatError("overloaded", { retryAfterMs: LIMITS.storeTimeoutMs });
  }
}

async function take(gateway: House, connection: Connection, incoming: Incoming): Promise<void> {
  try {
    await incoming.act(connection, incoming.ack);
  } catch (thrown) {
    refuse(gateway, connection, incoming, thrown);
  }
  if (incoming.event === ("join_room" satisfies ClientEvent)) resume(gateway, connection);
}

function resume(gateway: House, connection: Connection): void {
  const waiting = connection.waiting ?? [];
  connection.waiting = null;
  for (const incoming of waiting) {
    try {
      // Another join among them makes the rest wait again.
      receive(gateway, connection, incoming);
    } catch (thrown) {
      refuse(gateway, connection, incoming, thrown);
    }
  }
}

function refuse(
  { log }: GatewayOptions,
  { peer }: Connection,
  { event, ack }: Pick<Incoming, "event" | "ack">,
  thrown: unknown,
): void {
  const error = asChatError(thrown);
  if (error.code === "internal") log.error("event_failed", { event, error: error.details.cause });
  const wire = errorToWire(error);
  if (ack !== undefined) ack(JSON.stringify({ ok: false, error: wire }));
  else peer.emit(SERVER_EVENTS.error, { ...wire, event });
}
