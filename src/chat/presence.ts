/**
 * Who is in which room on this node, by connection, and when a user has come or gone: with the first connection that
 * joins as that user, and the last one that leaves. Pure state; who is told is the caller's business.
 */

import type { RoomName, UserId } from "../domain/ids.ts";
import { LIMITS } from "../limits.ts";

/** A user who came to, or went from, a room; nothing to announce is an empty list. */
export interface Presence {
  readonly kind: "joined" | "left";
  readonly room: RoomName;
  readonly userId: UserId;
}

export interface Occupancy {
  connections(room: RoomName): number;
  /** The connection is in the room, as this user if it says so. Twice is fine; another user replaces the former one. */
  enter(room: RoomName, connection: string, userId: UserId | undefined): readonly Presence[];
  exit(room: RoomName, connection: string): readonly Presence[];
}

interface Occupied {
  readonly members: Map<string, UserId | undefined>;
  readonly connectionsOf: Map<UserId, number>;
}

export function createOccupancy(): Occupancy {
  const rooms = new Map<RoomName, Occupied>();

  function count(
    room: RoomName,
    { connectionsOf }: Occupied,
    userId: UserId | undefined,
    by: 1 | -1,
  ): Presence[] {
    if (userId === undefined) return [];
    const now = (connectionsOf.get(userId) ?? 0) + by;
    if (now === 0) connectionsOf.delete(userId);
    else connectionsOf.set(userId, now);
    if (by === 1) return now === 1 ? [{ kind: "joined", room, userId }] : [];
    return now === 0 ? [{ kind: "left", room, userId }] : [];
  }

  const announced = ({ members }: Occupied, presences: Presence[]) =>
    members.size > LIMITS.presenceConnectionsMax ? [] : presences;

  return {
    connections: (room) => rooms.get(room)?.members.size ?? 0,
    enter(room, connection, userId) {
      const occupied = rooms.get(room) ?? { members: new Map(), connectionsOf: new Map() };
      rooms.set(room, occupied);
      const former = occupied.members.get(connection);
      const present = userId ?? former;
      occupied.members.set(connection, present);
      if (present === former) return [];
      const left = count(room, occupied, former, -1);
      return announced(occupied, [...left, ...count(room, occupied, present, 1)]);
    },
    exit(room, connection) {
      const occupied = rooms.get(room);
      if (occupied === undefined || !occupied.members.has(connection)) return [];
      const left = announced(occupied, count(room, occupied, occupied.members.get(connection), -1));
      occupied.members.delete(connection);
      if (occupied.members.size === 0) rooms.delete(room);
      return left;
    },
  };
}
