/**
 * What a user said, in MongoDB: messages of ours, those that `migrate` has numbered, and those that an older program wrote,
 * whose times may be text in any offset. One order over all of them, in which ids of different kinds compare as text.
 */

import type { Document, Filter } from "mongodb";
import type { PastMessage } from "../../domain/message.ts";
import { QUICK } from "./client.ts";
import type { MongoConnection } from "./connection.ts";
import { ANY_TIME, newestFirst, readPastMessage } from "./schema.ts";
import type { MessageRepository, TimeRange, UserPlace } from "../repository.ts";

type UserQuery = Parameters<MessageRepository["readByUser"]>[0];

/** The user's newest messages strictly before the place and in the range, at most `rowsMax`, newest first. */
export async function readUserRows(
  { documents }: Pick<MongoConnection, "documents">,
  { userId, room, before, range = {} }: Omit<UserQuery, "bounds">,
  rowsMax: number,
  ended: AbortSignal,
): Promise<readonly PastMessage[]> {
  const newest = collectNewest(rowsMax, before, range);
  const said: Filter<Document> = { user_id: userId, ...(room === undefined ? {} : { room }) };
  const options = { ...QUICK, batchSize: rowsMax + 1 };

  // Without a date in `received_at` a document has its place only once it was read: all of the user's are looked at, until
  // `migrate` has dated them. They come first, so that one that is dated meanwhile is seen at least once.
  for (const receipt of UNDATED) {
    for await (const row of documents.find({ ...said, received_at: receipt } as Filter<Document>, options)) {
      ended.throwIfAborted();
      newest.offer(row);
    }
  }

  const dated = documents
    .find({ ...said, received_at: receivedIn(before, range) }, options)
    .sort({ received_at: -1 });
  for await (const row of dated) {
    ended.throwIfAborted();
    if (newest.isBeyond(row)) break;
    newest.offer(row);
  }
  return newest.rows;
}

/** No receipt, or text: each a stretch of the index, which one question for both would not be. */
const UNDATED = [null, { $lt: "\u{10ffff}" }];

function receivedIn(before: UserPlace | null, { from, to }: TimeRange): Filter<Date> {
  return {
    $gte: from === undefined ? ANY_TIME.$gte : new Date(from),
    $lte: before === null ? ANY_TIME.$lte : new Date(before.receivedAt),
    ...(to === undefined ? {} : { $lt: new Date(to) }),
  };
}

/** Keeps the newest of what it is offered, each once, in order; never more than `rowsMax`. */
function collectNewest(rowsMax: number, before: UserPlace | null, { from, to }: TimeRange) {
  const rows: PastMessage[] = [];
  return {
    rows: rows as readonly PastMessage[],
    offer(row: Document): void {
      const message = readPastMessage(row);
      if (message === undefined) return;
      if (before !== null && newestFirst(message, before) <= 0) return;
      if (from !== undefined && message.receivedAt < from) return;
      if (to !== undefined && message.receivedAt >= to) return;
      const place = placeIn(rows, message);
      const there = rows[place];
      if (place === rowsMax || (there !== undefined && newestFirst(there, message) === 0)) return;
      rows.splice(place, 0, message);
      if (rows.length > rowsMax) rows.pop();
    },
    /** Whether this document, and all that were received earlier, come too late to be kept. */
    isBeyond(row: Document): boolean {
      const last = rows.length === rowsMax ? rows.at(-1) : undefined;
      return (
        last !== undefined && row.received_at instanceof Date && row.received_at.getTime() < last.receivedAt
      );
    },
  };
}

/** The index of the first row that does not come before the message. */
function placeIn(rows: readonly PastMessage[], message: PastMessage): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const row = rows[middle];
    if (row !== undefined && newestFirst(row, message) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
