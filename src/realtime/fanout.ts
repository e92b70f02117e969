/** Fan-out through Bun's topics: a frame for a room is encoded once and published, not written to each member. */

import { createFew, type Few } from "../domain/few.ts";
import type { EngineSession } from "../engine/session.ts";
import type { EngineHost } from "../engine/engine.ts";

/** What is reached in a room: a session, by whatever speaks for it. */
export interface Member {
  readonly session: Pick<EngineSession, "socket" | "sendText">;
}

export interface Fanout<M extends Member> {
  /** From now on the member gets what is published to the room. Twice is fine. */
  join(member: M, room: string): void;
  leave(member: M, room: string): void;
  /** The member that polled has a WebSocket from now on. */
  upgraded(member: M, rooms: Iterable<string>): void;
  /** Writes a message, as Engine.IO frames it, to all members of the room but one. */
  publish(room: string, frame: string, except?: M): void;
  members(room: string): Iterable<M>;
}

export interface FanoutDeps {
  readonly server: () => EngineHost;
  /** Whether so many bytes may go to a topic now; counts them when so. */
  readonly mayPublish: (bytes: number) => boolean;
}

interface Audience<M> {
  /** Many rooms have one, and a Set for each of them would cost as much as all the rest. */
  readonly members: Few<M>;
  /** Those that are in no topic: they poll. Undefined where there are none. */
  polling: Set<M> | undefined;
}

/**
 * Order: Bun flushes a socket's pending publishes before it sends anything to it directly, and what is gathered for a
 * socket is handed over before a publish, so neither kind of delivery overtakes the other. Members that poll are in no
 * topic: they are written to one by one, until they upgrade, just before the engine flushes what it has queued.
 */
export function createFanout<M extends Member>({ server, mayPublish }: FanoutDeps): Fanout<M> {
  const audiences = new Map<string, Audience<M>>();

  function listen(member: M, room: string, audience: Audience<M>) {
    const { socket } = member.session;
    if (socket === undefined) {
      audience.polling ??= new Set();
      audience.polling.add(member);
    } else {
      unpoll(audience, member);
      if (isOpen(socket)) socket.subscribe(room);
    }
  }

  function unpoll(audience: Audience<M>, member: M) {
    if (audience.polling?.delete(member) && audience.polling.size === 0) audience.polling = undefined;
  }

  return {
    join(member, room) {
      const audience = audiences.get(room) ?? { members: createFew(), polling: undefined };
      audiences.set(room, audience);
      audience.members.add(member);
      listen(member, room, audience);
    },

    leave(member, room) {
      const audience = audiences.get(room);
      if (!audience?.members.delete(member)) return;
      unpoll(audience, member);
      if (audience.members.size === 0) audiences.delete(room);
      const { socket } = member.session;
      if (socket !== undefined && isOpen(socket)) socket.unsubscribe(room);
    },

    upgraded(member, rooms) {
      for (const room of rooms) {
        const audience = audiences.get(room);
        if (audience?.members.has(member)) listen(member, room, audience);
      }
    },

    publish(room, frame, except) {
      const audience = audiences.get(room);
      if (audience === undefined) return;
      if (!mayPublish(Buffer.byteLength(frame))) {
        for (const member of audience.members) if (member !== except) member.session.sendText(frame);
        return;
      }
      // A socket publishes to the others of a topic.
      const socket = except?.session.socket;
      (socket !== undefined && isOpen(socket) ? socket : server()).publish(room, frame);
      for (const member of audience.polling ?? []) if (member !== except) member.session.sendText(frame);
    },

    members: (room) => audiences.get(room)?.members ?? [],
  };
}

const isOpen = (socket: { readonly readyState: number }) => socket.readyState === WebSocket.OPEN;
