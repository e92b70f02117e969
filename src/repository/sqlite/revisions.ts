/** Counts what changed in the embedded store, by room and by user, so that a page that was read once can be known to be good still. */

import type { Database, Statement } from "bun:sqlite";
import type { Message } from "../../domain/message.ts";
import { LIMITS } from "../../limits.ts";
import type { PageSubject } from "../repository.ts";

export interface Revisions {
  /** A number that differs once anything changed that reads show of this room or user. */
  of(subject: PageSubject): number;
  /** These messages are to be seen from now on. */
  stored(messages: readonly Message[]): void;
  /** What is to be seen from now on may differ everywhere. */
  allChanged(): void;
  /**
   * Watches what others write (an operator's shell), which this connection sees as new versions of the data
   * (https://sqlite.org/pragma.html#pragma_data_version). What it showed before may have changed everywhere.
   * @param writer the connection that commits our own writes
   */
  watch(writer: Database): void;
  /** Lets go of the connection. */
  finalize(): void;
}

export function createRevisions(): Revisions {
  let dataVersion: Statement | undefined;
  let seenVersion: unknown;
  let clock = 0;
  /** What has no number of its own has not changed since this one. */
  let floor = 0;
  const changed = { room: new Map<string, number>(), user: new Map<string, number>() };
  /** Others' writes are looked for once a tick. */
  let hasLooked = false;
  /** A reader may have had a view of before when the writes of others were noticed: they count once more when it ends. */
  let isLate = false;

  function allChanged() {
    clock += 1;
    floor = clock;
    changed.room.clear();
    changed.user.clear();
  }

  function look() {
    if (hasLooked) return;
    const version = dataVersion?.values()[0]?.[0];
    hasLooked = true;
    setImmediate(() => {
      hasLooked = false;
    });
    if (version === seenVersion) return;
    seenVersion = version;
    isLate = true;
    allChanged();
  }

  return {
    allChanged,
    of({ kind, name }) {
      look();
      return changed[kind].get(name) ?? floor;
    },
    stored(messages) {
      if (isLate || changed.room.size + changed.user.size > LIMITS.revisionsMax) {
        isLate = false;
        allChanged();
      }
      clock += 1;
      for (const { room, userId } of messages) {
        changed.room.set(room, clock);
        changed.user.set(userId, clock);
      }
    },
    watch(writer) {
      dataVersion = writer.prepare("PRAGMA data_version");
      seenVersion = dataVersion.values()[0]?.[0];
      allChanged();
    },
    finalize: () => dataVersion?.finalize(),
  };
}
