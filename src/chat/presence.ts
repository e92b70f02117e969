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

/** A room with one connection: most of many rooms are so, and the Maps would cost each of them half a kilobyte. */
interface Lone {
  readonly connection: string;
  userId: UserId | undefined;
}

interface Crowd {
  readonly members: Map<string, UserId | undefined>;
  readonly connectionsOf: Map<UserId, number>;
}

const isCrowd = (occupied: Lone | Crowd): occupied is Crowd => "members" in occupied;

const crowdOf = ({ connection, userId }: Lone): Crowd => ({
  members: new Map([[connection, userId]]),
  connectionsOf: new Map(userId === undefined ? [] : [[userId, 1]]),
});

export function createOccupancy(): Occupancy {
  const rooms = new Map<RoomName, Lone | Crowd>();

  const presence = (kind: Presence["kind"], room: RoomName, userId: UserId | undefined): Presence[] =>
    userId === undefined ? [] : [{ kind, room, userId }];

  function count(
    room: RoomName,
    { connectionsOf }: Crowd,
    userId: UserId | undefined,
    by: 1 | -1,
  ): Presence[] {
    if (userId === undefined) return [];
    const now = (connectionsOf.get(userId) ?? 0) + by;
    if (now === 0) connectionsOf.delete(userId);
    else connectionsOf.set(userId, now);
    if (by === 1) return now === 1 ? presence("joined", room, userId) : [];
    return now === 0 ? presence("left", room, userId) : [];
  }

  const announced = ({ members }: Crowd, presences: Presence[]) =>
    members.size > LIMITS.presenceConnectionsMax ? [] : presences;

  function enterAlone(room: RoomName, lone: Lone, userId: UserId | undefined): Presence[] {
    const former = lone.userId;
    const present = userId ?? former;
    if (present === former) return [];
    lone.userId = present;
    return [...presence("left", room, former), ...presence("joined", room, present)];
  }

  function enterCrowd(room: RoomName, crowd: Crowd, connection: string, userId: UserId | undefined) {
    const former = crowd.members.get(connection);
    const present = userId ?? former;
    crowd.members.set(connection, present);
    if (present === former) return [];
    const left = count(room, crowd, former, -1);
    return announced(crowd, [...left, ...count(room, crowd, present, 1)]);
  }

  function exitCrowd(room: RoomName, crowd: Crowd, connection: string): Presence[] {
    const { members } = crowd;
    if (!members.has(connection)) return [];
    const left = announced(crowd, count(room, crowd, members.get(connection), -1));
    members.delete(connection);
    if (members.size === 1)
      for (const [last, userId] of members) rooms.set(room, { connection: last, userId });
    return left;
  }

  return {
    connections(room) {
      const occupied = rooms.get(room);
      if (occupied === undefined) return 0;
      return isCrowd(occupied) ? occupied.members.size : 1;
    },
    enter(room, connection, userId) {
      const occupied = rooms.get(room);
      if (occupied === undefined) {
        rooms.set(room, { connection, userId });
        return presence("joined", room, userId);
      }
      if (!isCrowd(occupied) && occupied.connection === connection) return enterAlone(room, occupied, userId);
      const crowd = isCrowd(occupied) ? occupied : crowdOf(occupied);
      rooms.set(room, crowd);
      return enterCrowd(room, crowd, connection, userId);
    },
    exit(room, connection) {
      const occupied = rooms.get(room);
      if (occupied === undefined) return [];
      if (isCrowd(occupied)) return exitCrowd(room, occupied, connection);
      if (occupied.connection !== connection) return [];
      rooms.delete(room);
      return presence("left", room, occupied.userId);
    },
  };
}
