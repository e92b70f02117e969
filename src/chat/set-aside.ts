/**
 * Entries that rooms have heard of and cannot deliver yet, because what stands before them is missing: for each room one run
 * without a hole. What does not fit is forgotten, and read from the store later.
 */

import type { Epoch } from "../domain/ids.ts";
import { LIMITS } from "../limits.ts";
import type { EncodedEntry } from "../protocol/wire.ts";

/** Of one room. */
export interface Aside {
  readonly entries: readonly EncodedEntry[];
  /** Of the entries; null before the first. */
  readonly epoch: Epoch | null;
  /** Adds an entry of this epoch. Those of another epoch, and those before a hole, are forgotten. */
  add(epoch: Epoch, entry: EncodedEntry): void;
  clear(): void;
}

/** @param bytesMax of all rooms together */
export function createSetAside({ bytesMax }: { readonly bytesMax: number }): () => Aside {
  let allBytes = 0;

  // A class for its prototype: there is one for each room with members.
  class OfRoom implements Aside {
    entries: EncodedEntry[] = [];
    epoch: Epoch | null = null;
    #bytes = 0;

    add(epoch: Epoch, entry: EncodedEntry) {
      const last = this.entries.at(-1)?.seq;
      const isSame = this.epoch === epoch;
      if (isSame && last !== undefined && entry.seq <= last) return;
      const isFull =
        this.entries.length >= LIMITS.feedPendingMax ||
        this.#bytes + entry.bytes > LIMITS.feedPendingBytesMax;
      if (!isSame || isFull || entry.seq - 1 !== last) this.clear();
      this.epoch = epoch;
      if (allBytes + entry.bytes > bytesMax) return this.clear();
      this.entries.push(entry);
      this.#bytes += entry.bytes;
      allBytes += entry.bytes;
    }

    clear() {
      if (this.entries.length === 0) return;
      this.entries = [];
      allBytes -= this.#bytes;
      this.#bytes = 0;
    }
  }

  return () => new OfRoom();
}
