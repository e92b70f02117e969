/** The rooms that one connection is in: nearly always one, which then costs no Set. */

import type { RoomName } from "../domain/ids.ts";

/** What the use cases need of a Set. */
export interface JoinedRooms extends Iterable<RoomName> {
  readonly size: number;
  has(room: RoomName): boolean;
  add(room: RoomName): void;
  delete(room: RoomName): void;
}

// A class for its prototype: there is one for each connection, and closures would cost each of them memory.
class FewRooms implements JoinedRooms {
  #only: RoomName | undefined = undefined;
  /** All of them, once there were two. */
  #all: Set<RoomName> | undefined = undefined;

  get size() {
    return this.#all?.size ?? (this.#only === undefined ? 0 : 1);
  }

  has(room: RoomName) {
    return this.#all?.has(room) ?? this.#only === room;
  }

  add(room: RoomName) {
    if (this.has(room)) return;
    if (this.size === 0 && this.#all === undefined) {
      this.#only = room;
      return;
    }
    this.#all ??= new Set(this);
    this.#only = undefined;
    this.#all.add(room);
  }

  delete(room: RoomName) {
    this.#all?.delete(room);
    if (this.#only === room) this.#only = undefined;
  }

  /** As they are now: whoever walks them may delete. */
  [Symbol.iterator]() {
    return [...(this.#all ?? (this.#only === undefined ? [] : [this.#only]))].values();
  }
}

export const createJoinedRooms = (): JoinedRooms => new FewRooms();
