/**
 * Socket.IO's face of the chat: the table of events, their order on one connection, and the acknowledgements.
 * A new event is one schema (protocol/events.ts), one entry of EVENTS, one use case (chat/).
 */

import type { Server as SocketServer, Socket } from "socket.io";
import { ANONYMOUS } from "../auth/viewer.ts";
import type { Chat } from "../chat/chat.ts";
import type { Deliver, Dismiss } from "../chat/feeds.ts";
import type { Announce } from "../chat/rooms.ts";
import type { Session } from "../chat/session.ts";
import type { RoomName } from "../domain/ids.ts";
import { asChatError, ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/metrics.ts";
import {
  errorToWire,
  joinedToWire,
  leftToWire,
  parseJoinRoom,
  parseLeaveRoom,
  parseSendMessage,
  presenceToWire,
  type ServerEvents,
  sentToWire,
} from "../protocol/events.ts";
import { messageToWire } from "../protocol/wire.ts";

type Nothing = Record<never, never>;
export type ChatServer = SocketServer<Nothing, ServerEvents, Nothing, Connection>;
type ChatSocket = Socket<Nothing, ServerEvents, Nothing, Connection>;

/** Socket.IO's name of a room of ours; the prefix keeps rooms apart from the room that every socket has for itself. */
const topicOf = (room: RoomName) => `room:${room}`;

/** How members are reached: each message is encoded once for the whole room, in the tick of the call. */
export function createBroadcast(io: ChatServer): { deliver: Deliver; announce: Announce; dismiss: Dismiss } {
  return {
    deliver(room, messages) {
      const members = io.to(topicOf(room));
      for (const message of messages) members.emit("receive_message", messageToWire(message));
    },
    announce({ kind, room, userId }, at, exceptConnection) {
      io.to(topicOf(room))
        .except(exceptConnection)
        .emit(kind === "joined" ? "user_joined" : "user_left", presenceToWire(room, userId, at));
    },
    dismiss(room) {
      for (const id of [...(io.of("/").adapter.rooms.get(topicOf(room)) ?? [])]) {
        // The transport, not the socket: a client comes back from that by itself.
        io.of("/").sockets.get(id)?.conn.close();
      }
    },
  };
}

type Ack = (answer: unknown) => void;

/** What an event does once its payload is parsed. Throwing refuses. */
type Act = (connection: Connection, ack: Ack | undefined) => Promise<void> | void;

interface Connection {
  readonly socket: ChatSocket;
  readonly session: Session;
  /** What came after a join that is still under way, oldest first; null when none is. */
  waiting: Incoming[] | null;
}

interface Incoming {
  readonly event: string;
  readonly act: Act;
  readonly ack: Ack | undefined;
}

interface GatewayOptions {
  readonly io: ChatServer;
  readonly chat: Chat;
  readonly messageBytesMax: number;
  readonly log: Log;
  readonly metrics: Metrics;
}

interface House extends GatewayOptions {
  /** Connections, in the engine's sense, that are being let go. */
  readonly leaving: WeakSet<object>;
}

export interface Gateway {
  /** From now on this connection's events are answered `draining`; those that were taken go on to their answers. */
  letGo(connection: object): void;
}

/** Every event that a client may send: parses at once, so that what has to wait is bounded, and says what to do. */
const EVENTS = {
  send_message({ chat, messageBytesMax }, payload) {
    const command = parseSendMessage(payload, messageBytesMax);
    return async ({ session }, ack) => {
      const { message, duplicate } = await chat.send.fromSession(session, command);
      ack?.(sentToWire(message, duplicate));
    };
  },

  join_room({ chat }, payload) {
    const command = parseJoinRoom(payload);
    return (connection, ack) => {
      const { socket, session } = connection;
      connection.waiting = [];
      // The ack goes out and the subscription begins in one tick, so no live message comes before the ack.
      return chat.rooms.join(session, command, ({ room, head, replay }) => {
        ack?.(joinedToWire(room, head, replay));
        socket.join(topicOf(room));
      });
    };
  },

  leave_room({ chat }, payload) {
    const command = parseLeaveRoom(payload);
    return ({ socket, session }, ack) => {
      chat.rooms.leave(session, command);
      socket.leave(topicOf(command.room));
      ack?.(leftToWire(command.room));
    };
  },
} satisfies Record<string, (gateway: GatewayOptions, payload: unknown) => Act>;

export type ClientEvent = keyof typeof EVENTS;

function actOf(gateway: GatewayOptions, event: string, payload: unknown): Act {
  if (!Object.hasOwn(EVENTS, event)) throw new ChatError("unknown_event");
  return EVENTS[event as ClientEvent](gateway, payload);
}

/** Lets connections in. Handlers are there before the first await, or a client's first events would vanish. */
export function attachGateway(options: GatewayOptions): Gateway {
  const gateway: House = { ...options, leaving: new WeakSet() };
  // Made once for all connections, which are found by their socket: closures for each would cost each memory.

  function onAny(this: ChatSocket, name: unknown, ...args: unknown[]) {
    const connection = this.data;
    const last = args.at(-1);
    const ack = typeof last === "function" ? (last as Ack) : undefined;
    const payload = ack !== undefined && args.length === 1 ? undefined : args[0];
    const event = String(name).slice(0, LIMITS.eventNameCharsMax).toWellFormed();
    try {
      receive(gateway, connection, { event, act: actOf(gateway, event, payload), ack });
    } catch (thrown) {
      refuse(gateway, connection, { event, ack }, thrown);
    }
  }

  function onDisconnect(this: ChatSocket) {
    this.data.waiting = null;
    gateway.chat.rooms.end(this.data.session);
  }

  gateway.io.on("connection", (socket) => {
    socket.data = { socket, session: gateway.chat.connect(socket.id, ANONYMOUS), waiting: null };
    forgetHandshake(socket);
    socket.onAny(onAny);
    socket.on("disconnect", onDisconnect);
  });
  return {
    letGo: (connection) => void gateway.leaving.add(connection),
  };
}

const NO_HANDSHAKE = Object.freeze({ auth: Object.freeze({}), headers: Object.freeze({}) });
const NO_REQUEST = Object.freeze({
  url: "",
  headers: Object.freeze({}),
  _query: Object.freeze({}),
  connection: Object.freeze({ encrypted: false }),
});

/** Nobody reads how a connection came once it is let in: a browser's headers would be kept as long as it stays. */
function forgetHandshake(socket: ChatSocket): void {
  Object.assign(socket, { handshake: NO_HANDSHAKE });
  Object.assign(socket.conn, { request: NO_REQUEST });
}

/** One connection's events take effect in the order in which it emitted them: what follows a join waits for it. */
function receive(gateway: House, connection: Connection, incoming: Incoming): void {
  if (gateway.leaving.has(connection.socket.conn)) throw new ChatError("draining");
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
  { socket }: Connection,
  { event, ack }: Pick<Incoming, "event" | "ack">,
  thrown: unknown,
): void {
  const error = asChatError(thrown);
  if (error.code === "internal") log.error("event_failed", { event, error: error.details.cause });
  const wire = errorToWire(error);
  if (ack !== undefined) ack({ ok: false, error: wire });
  else socket.emit("error", { ...wire, event });
}
