/**
 * Rooms in doubt: something may have been stored in them that nobody was told of. A room stays in doubt for some beats, as what a
 * store was too slow to confirm may still land after it was given up, once the disk or the network goes on. While the store is
 * down they are not counted: a disk may hang for longer, and reads be answered meanwhile without what it hangs on. What lands
 * later yet is found by the next message's number.
 */

import type { RoomName } from "../domain/ids.ts";
import { LIMITS } from "../limits.ts";

export interface Doubts {
  add(room: RoomName): void;
  has(room: RoomName): boolean;
  /** Counts a beat, and gives the rooms to ask about; those that nobody is in are forgotten. */
  beat(isStoreUp: boolean, isActive: (room: RoomName) => boolean): readonly RoomName[];
}

const BEATS = Math.ceil((2 * LIMITS.storeTimeoutMs) / LIMITS.headPollMs);

export function createDoubts(): Doubts {
  /** For how many more beats. */
  const rooms = new Map<RoomName, number>();
  return {
    add: (room) => void rooms.set(room, BEATS),
    has: (room) => rooms.has(room),
    beat(isStoreUp, isActive) {
      for (const [room, beats] of rooms) {
        if (!isActive(room) || (isStoreUp && beats === 0)) rooms.delete(room);
        else if (isStoreUp) rooms.set(room, beats - 1);
      }
      return [...rooms.keys()];
    },
  };
}
