/** The port through which nodes tell each other what was committed. */

import type { Epoch } from "../domain/ids.ts";
import type { Message } from "../domain/message.ts";

/** Committed entries in the order of commit, all of one epoch of the store. */
export interface CommittedEntries {
  readonly epoch: Epoch;
  readonly entries: readonly Message[];
}

/**
 * At most once, never the truth: a bus MAY lose what it is told, so a listener reads a gap in `seq` from the store.
 * It MUST NOT reorder the messages of one room that one node published, and MUST tell the publishing node too: one node
 * is a cluster of one. A listener that throws MUST NOT keep the others from hearing, nor fail the publisher.
 */
export interface Bus {
  /** Tells every node, this one included, what was committed. */
  publish(committed: CommittedEntries): void;
  /** Hears every batch from now on. */
  subscribe(listener: (committed: CommittedEntries) => void): void;
  close(): Promise<void>;
}
