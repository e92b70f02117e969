/**
 * The newest entries that rooms were told, so that members who come back are answered without asking the store: for each
 * room as much as one replay may have, for all together as much as their common ceiling allows.
 */

import type { Seq } from "../domain/ids.ts";
import { LIMITS } from "../limits.ts";

/** What is to be known of an entry here. */
interface Kept {
  readonly seq: Seq;
  readonly roughBytes: number;
}

/** Each owner has one run of entries, without a hole but for numbers that the store does not have any more. */
export interface KeptEntries<E extends Kept> {
  /** Adds what follows directly on the owner's last entry. */
  add(owner: object, entries: readonly E[]): void;
  /** Keeps this run instead of the one that is kept, unless that one goes back as far. Both end with the same entry. */
  extend(owner: object, entries: readonly E[]): void;
  /** All that the owner was told after `since`; null where not all of it is here. */
  after(owner: object, since: Seq): readonly E[] | null;
  /** The owner's entry of this number, where it is here. */
  at(owner: object, seq: Seq): E | undefined;
  drop(owner: object): void;
}

interface Run<E> {
  /** Those before `start` are gone. */
  readonly entries: (E | undefined)[];
  start: number;
  bytes: number;
}

/** @param bytesMax of all runs together; the run that was added to least recently goes first */
export function createKeptEntries<E extends Kept>({
  bytesMax,
}: {
  readonly bytesMax: number;
}): KeptEntries<E> {
  /** A Map keeps the order of insertion: the first was added to least recently. */
  const runs = new Map<object, Run<E>>();
  let keptBytes = 0;

  function drop(owner: object) {
    keptBytes -= runs.get(owner)?.bytes ?? 0;
    runs.delete(owner);
  }

  function add(owner: object, added: readonly E[]) {
    const run = runs.get(owner) ?? ({ entries: [], start: 0, bytes: 0 } as Run<E>);
    const bytesBefore = run.bytes;
    for (const entry of added) {
      run.entries.push(entry);
      run.bytes += entry.roughBytes;
    }
    trim(run);
    keptBytes += run.bytes - bytesBefore;
    runs.delete(owner);
    runs.set(owner, run);
    for (const oldest of runs.keys()) {
      if (keptBytes <= bytesMax) break;
      drop(oldest);
    }
  }

  return {
    add,
    drop,
    extend(owner, entries) {
      const run = runs.get(owner);
      const [first, kept] = [entries[0], run?.entries[run.start]];
      if (first === undefined || (kept !== undefined && kept.seq <= first.seq)) return;
      drop(owner);
      add(owner, entries);
    },
    after(owner, since) {
      const { entries, start } = runs.get(owner) ?? NOTHING;
      const [first, last] = [entries[start], entries.at(-1)] as [E | undefined, E | undefined];
      if (first === undefined || last === undefined) return null;
      if (since + 1 < first.seq || since > last.seq) return null;
      // As many before it as numbers, or fewer where some are gone.
      let place = Math.min(start + since + 1 - first.seq, entries.length);
      while (place > start && (entries[place - 1] as E).seq > since) place -= 1;
      return entries.slice(place) as E[];
    },
    // Asked for the newest, if at all.
    at: (owner, seq) => runs.get(owner)?.entries.findLast((entry) => entry?.seq === seq),
  };
}

/** Cuts the oldest entries off that one replay would have no room for. */
function trim<E extends Kept>(run: Run<E>) {
  const { entries } = run;
  while (entries.length - run.start > LIMITS.replayMessagesMax || run.bytes > LIMITS.replayBytesMax) {
    run.bytes -= (entries[run.start] as E).roughBytes;
    entries[run.start] = undefined;
    run.start += 1;
  }
  // Not each time: a room that has much would move all of it for each message.
  if (run.start < MOVED_TOGETHER) return;
  entries.splice(0, run.start);
  run.start = 0;
}

/** Places of entries that are gone, which are given up together. */
const MOVED_TOGETHER = 256;
const NOTHING = { entries: [], start: 0, bytes: 0 };
