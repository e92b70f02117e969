/** The rules of a room's order: what a reader who has seen N may be told. Pure. */

import type { Epoch, Seq } from "./ids.ts";

/** A room's bounds in the store. An empty room has `seq` 0 and `firstSeq` 1. */
export interface RoomHead {
  readonly epoch: Epoch;
  /** The newest number. */
  readonly seq: Seq;
  /** The oldest number still kept; `seq + 1` when nothing is kept. */
  readonly firstSeq: Seq;
}

/** Why a reader cannot go on from where it was. */
export type LostReason = "epoch_changed" | "ahead" | "truncated";

/**
 * Whether all that came after `since` can still be told, or why not. A reader that sends its epoch is never answered
 * from another epoch of the store; without it only `ahead` and `truncated` are seen.
 */
export function lostReason(head: RoomHead, since: Seq, epoch: Epoch | undefined): LostReason | undefined {
  if (epoch !== undefined && epoch !== head.epoch) return "epoch_changed";
  if (since > head.seq) return "ahead";
  if (since + 1 < head.firstSeq) return "truncated";
  return undefined;
}
