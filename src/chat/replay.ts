/** What a member that comes back has missed: from what its room's feed remembers, or else from the store. */

import type { Seq } from "../domain/ids.ts";
import { lostReason, type RoomHead } from "../domain/sequence.ts";
import { LIMITS } from "../limits.ts";
import type { JoinRoom, Replay } from "../protocol/events.ts";
import { encodeEntry, type EncodedEntry } from "../protocol/wire.ts";
import type { MessageRepository, RoomPage } from "../repository/repository.ts";
import type { Feed, Hold } from "./feeds.ts";

/** What was found out for a join before it enters its room. */
export interface Found {
  readonly head: RoomHead;
  /** Whether the store was asked for the head, and not the feed. */
  readonly isAsked: boolean;
  /** What follows on `since`; null where it was not read. */
  readonly page: RoomPage | null;
}

const REPLAY = { messagesMax: LIMITS.replayMessagesMax, textBytesMax: LIMITS.replayBytesMax };

/** @param isCut the replay stays empty: its connection takes no more */
export async function findOut(
  repository: Pick<MessageRepository, "head" | "readAfter">,
  { room, since, epoch }: JoinRoom,
  hold: Hold,
  isCut: boolean,
): Promise<Found> {
  if (since !== undefined) {
    const needsPage = !isCut && !hold.remembers(since);
    const known = needsPage ? null : hold.known();
    // Only the store may say that something is lost: it may know more than the feed.
    if (known !== null && lostReason(known, since, epoch) === undefined)
      return { head: known, isAsked: false, page: null };
    if (needsPage) {
      const page = await repository.readAfter(room, since, REPLAY);
      return { head: page.head, isAsked: true, page };
    }
  }
  return { head: await repository.head(room), isAsked: true, page: null };
}

/**
 * The replay up to `seq`, or the beginning of it that fits one answer. Nothing must happen between this and the tick's end but
 * that the member enters.
 * @param seq the last number that the feed has delivered
 */
export function replayOf(
  { since, epoch }: JoinRoom,
  { head, page }: Found,
  feed: Feed,
  seq: Seq,
  isCut: boolean,
): Replay<EncodedEntry> {
  if (since === undefined) return { kind: "none" };
  const reason = lostReason(head, since, epoch);
  if (reason !== undefined) return { kind: "lost", reason };
  if (isCut) return { kind: "recovered", messages: [], through: since };
  // It may remember more by now than when it was asked: one who joined meanwhile has read the same.
  const recalled = feed.recall(since);
  if (recalled !== null) return { kind: "recovered", messages: recalled, through: seq };
  // What it remembered was pushed out meanwhile.
  if (page === null) return { kind: "recovered", messages: [], through: since };
  const { messages, through } = joined(page, feed);
  if (messages.length > 0 && through === seq) feed.remember(messages);
  return { kind: "recovered", messages, through };
}

/** The page, and behind it what was delivered while it was read; each message is encoded once. */
function joined(page: RoomPage, feed: Feed): { messages: readonly EncodedEntry[]; through: Seq } {
  const messages: EncodedEntry[] = [];
  let bytes = 0;
  let through = page.head.seq;
  const fits = (entry: EncodedEntry) => {
    bytes += entry.bytes;
    // One message always fits: config.ts keeps the longest one below the outbound ceiling.
    if (
      messages.length === LIMITS.replayMessagesMax ||
      (messages.length > 0 && bytes > LIMITS.replayBytesMax)
    )
      return false;
    messages.push(entry);
    through = entry.seq;
    return true;
  };
  const isWhole = page.messages.every((message) => fits(encodeEntry(message))) && !page.more;
  // A page from just before the feed began may lack what no member was told. The replay then ends early, and says so.
  if (isWhole) feed.recall(through)?.every(fits);
  return { messages, through };
}
