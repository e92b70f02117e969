/**
 * Appending to rooms that other services may write too, without a counter. The unique index on `(room, seq)` decides which
 * service is first; the other reads the room's end again and goes on. Everything goes out as one ordered batch, which leaves
 * a prefix when it fails: so there is never a hole. After a failure nothing is assumed: the ids are asked for.
 */

import { type Document, type Filter, MongoBulkWriteError, MongoError } from "mongodb";
import { type Epoch, type RoomName, type Seq, seqAfter } from "../../domain/ids.ts";
import type { Draft, Message } from "../../domain/message.ts";
import type { Millis } from "../../domain/time.ts";
import { assert, ChatError } from "../../errors.ts";
import { MONGO_TIMES, QUICK } from "./client.ts";
import type { MongoConnection } from "./connection.ts";
import { DUPLICATE_KEY, EpochChanged, type StoreEpoch } from "./epoch.ts";
import type { RoomEnd } from "./room-numbers.ts";
import { readMessage, toDocument } from "./schema.ts";
import type { AppendResult } from "../repository.ts";

/** A number that another service's message has: committed by a majority, or not yet. */
interface TakenPlace {
  readonly room: RoomName;
  readonly seq: Seq;
}

/** The drafts of one append that have no result yet, and what is known of those that share a client id with them. */
interface Batch {
  readonly drafts: readonly Draft[];
  readonly results: (AppendResult | undefined)[];
  /** Which draft, by place, speaks for its `(room, user, client id)`; the later ones follow it. */
  readonly leaders: ReadonlyMap<string, number>;
  /** What is stored under a `(room, user, client id)`. */
  readonly named: Map<string, { readonly message: Message; readonly epoch: Epoch }>;
  /** Places whose draft went out in an insert that is under way, or whose outcome is unknown. */
  readonly sent: Set<number>;
  /** There was such an insert. */
  unsure: boolean;
  /** The highest numbers, by room, of what this batch stored or found, until it is confirmed: nothing of it may be told before. */
  readonly unconfirmed: Map<RoomName, RoomEnd>;
}

export function createMongoAppend(connection: MongoConnection) {
  /** A draft without a result when the time is over: unknown if it was sent, rejected if it was not. */
  return async (drafts: readonly Draft[]): Promise<readonly AppendResult[]> => {
    const batch = openBatch(drafts);
    let cause: unknown;
    try {
      await connection.run((epoch, ended) => appendAll(connection, batch, epoch, ended));
    } catch (error) {
      cause = error;
    }
    takeBackUnconfirmed(batch);
    settleFollowers(batch);
    return drafts.map((draft, place) => {
      const leader = batch.leaders.get(nameOf(draft) ?? "") ?? place;
      return batch.results[place] ?? (batch.sent.has(leader) ? unknown(cause) : rejected(cause));
    });
  };
}

function openBatch(drafts: readonly Draft[]): Batch {
  const leaders = new Map<string, number>();
  for (const [place, draft] of drafts.entries()) {
    const name = nameOf(draft);
    if (name !== undefined && !leaders.has(name)) leaders.set(name, place);
  }
  const results = drafts.map(() => undefined);
  return {
    ...{ drafts, results, leaders, named: new Map(), sent: new Set(), unsure: false },
    unconfirmed: new Map(),
  };
}

const nameOf = ({ room, userId, clientId }: Draft): string | undefined =>
  clientId === null ? undefined : JSON.stringify([room, userId, clientId]);

/** The places that the store must still be asked about, in the order of the drafts. */
const openPlaces = ({ drafts, results, leaders }: Batch): number[] =>
  [...drafts.keys()].filter((place) => {
    if (results[place] !== undefined) return false;
    const name = nameOf(draftAt(drafts, place));
    return name === undefined || leaders.get(name) === place;
  });

/** Goes on until every draft that leads has a result, or the caller has stopped waiting. May be called again after it threw. */
async function appendAll(
  connection: MongoConnection,
  batch: Batch,
  firstEpoch: StoreEpoch,
  ended: AbortSignal,
): Promise<void> {
  let epoch = firstEpoch;
  let verified = false;
  // The first try asks nothing: the unique indexes find what was there before.
  let asks = false;
  let taken: TakenPlace | undefined;
  for (let attempt = 0; !ended.aborted; attempt++) {
    try {
      if (asks) await settleKnown(connection, batch, epoch.name);
      await confirm(connection, batch, epoch);
      const places = openPlaces(batch);
      if (places.length === 0) return;
      const rooms = new Set(places.map((place) => draftAt(batch.drafts, place).room));
      // After losing the race ask only for the ends, so that the next try is a quicker one than another service's first:
      // of several services that never rest, each gets its turn.
      const [ends] = await Promise.all([
        connection.numbers.endsToGoOn(rooms, epoch),
        verified || connection.verify(epoch),
      ]);
      if (ended.aborted) return;
      verified = true;
      if (taken !== undefined && (ends.get(taken.room)?.seq ?? taken.seq) < taken.seq) {
        // Not by a majority yet, or never, when it is rolled back: after a rest its place is tried again.
        taken = undefined;
        await pause(batch, attempt);
        continue;
      }
      const outcome = await insert(connection, batch, places, ends, epoch.name);
      asks = outcome === "known";
      taken = typeof outcome === "string" ? undefined : outcome.outrunAt;
    } catch (error) {
      // An error that is not the driver's says that the epoch changed, or is a defect of ours.
      if (ended.aborted || !(error instanceof MongoError)) throw error;
      connection.failed(error);
      // What was sent may be stored: use the whole time to find out. Else tell the sender soon.
      const former = epoch.name;
      const isSent = batch.unsure || batch.unconfirmed.size > 0;
      epoch = await connection.up(isSent ? MONGO_TIMES.operationMs : MONGO_TIMES.comeUpMs);
      if (epoch.name !== former) takeBackUnconfirmed(batch);
      [verified, asks] = [false, true];
    }
    // A message that a majority does not have yet takes a moment. After losing a race retry at once.
    if (asks && attempt > 0) await pause(batch, attempt);
  }
}

/** Waits up to 8 ms, and not as long as another service does: ids end in chance. */
function pause({ drafts }: Batch, attempt: number): Promise<void> {
  const chance = Number.parseInt(draftAt(drafts, 0).id.slice(-3), 16) || 0;
  return Bun.sleep(((chance * attempt) % 257) / 32);
}

/** Gives results to the drafts that are stored for good already, by an earlier try or under the same client id. */
async function settleKnown(
  { messages, documents }: MongoConnection,
  batch: Batch,
  epoch: Epoch,
): Promise<void> {
  const places = openPlaces(batch);
  const open = places.map((place) => draftAt(batch.drafts, place));
  const byId = new Map(
    (
      await messages
        .find({ _id: { $in: open.map(({ id }) => id) }, room: { $in: open.map(({ room }) => room) } }, QUICK)
        .toArray()
    ).map((row) => [row._id, row]),
  );
  const alternatives = clientIdFilters(open);
  const byName = new Map(
    alternatives.length === 0
      ? []
      : (await documents.find({ $or: alternatives }, QUICK).toArray()).map((row) => [
          JSON.stringify([row.room, row.user_id, row.client_id]),
          row,
        ]),
  );
  for (const place of places) {
    const draft = draftAt(batch.drafts, place);
    const name = nameOf(draft);
    const own = byId.get(draft.id);
    const namesake = name === undefined ? undefined : byName.get(name);
    if (own !== undefined)
      settle(batch, place, batch.sent.has(place) ? "stored" : "duplicate", readMessage(own), epoch);
    else if (namesake !== undefined) settle(batch, place, "duplicate", readMessage(namesake), epoch);
  }
}

/** What finds the open client ids by the index: it takes part only where a query repeats its filter. */
function clientIdFilters(drafts: readonly Draft[]): Filter<Document>[] {
  const groups = new Map<string, { room: string; user_id: string; client_id: { $in: string[]; $gt: "" } }>();
  for (const { room, userId, clientId } of drafts) {
    if (clientId === null) continue;
    const key = JSON.stringify([room, userId]);
    const group = groups.get(key) ?? { room, user_id: userId, client_id: { $in: [], $gt: "" } };
    group.client_id.$in.push(clientId);
    groups.set(key, group);
  }
  return [...groups.values()];
}

/**
 * Numbers the open drafts after the ends of their rooms, raises `receivedAt` where it would fall, and stores them.
 * `outrunAt`: another service took this number first; "known": something is there already, or a document was refused. The
 * rest is to be numbered anew. Throws when it is unknown what was stored.
 */
async function insert(
  { messages }: MongoConnection,
  batch: Batch,
  places: readonly number[],
  ends: ReadonlyMap<RoomName, RoomEnd>,
  epoch: Epoch,
): Promise<"all" | "known" | { readonly outrunAt: TakenPlace }> {
  const rows = places.map((place) => {
    const draft = draftAt(batch.drafts, place);
    const end = ends.get(draft.room);
    assert(end !== undefined, "the end of every room was read");
    end.seq = seqAfter(end.seq);
    end.receivedAt = Math.max(end.receivedAt, draft.receivedAt) as Millis;
    return { place, draft, message: toMessage(draft, end) };
  });
  const settleFirst = (count: number) => {
    for (const { place, message } of rows.slice(0, count)) settle(batch, place, "stored", message, epoch);
  };
  const before = new Set(batch.sent);
  for (const place of places) batch.sent.add(place);
  const isCertain = () => {
    for (const place of places) if (!before.has(place)) batch.sent.delete(place);
  };
  try {
    await messages.insertMany(
      rows.map(({ draft, message }) => toDocument(draft, message.seq, message.receivedAt)),
      { ordered: true },
    );
    settleFirst(rows.length);
    isCertain();
    return "all";
  } catch (error) {
    const fault = firstFault(error);
    const failed = fault === undefined ? undefined : rows[fault.index];
    if (fault === undefined || failed === undefined) {
      batch.unsure = true;
      throw error;
    }
    settleFirst(fault.inserted);
    isCertain();
    // The server refuses this document for itself, and would again: the others go on without it.
    if (fault.code !== DUPLICATE_KEY) batch.results[failed.place] = rejected(error);
    // The keys of the index, in the server's words, only save a question: to ask without need is harmless.
    return fault.code === DUPLICATE_KEY && NUMBER_TAKEN.test(fault.words)
      ? { outrunAt: failed.message }
      : "known";
  }
}

/**
 * Where an ordered batch stopped, and how many before it are stored for good; undefined when that is not certain. What
 * speaks of the server and not of a document fails the whole batch without naming one.
 */
function firstFault(
  error: unknown,
):
  | { readonly index: number; readonly code: unknown; readonly words: string; readonly inserted: number }
  | undefined {
  if (!(error instanceof MongoBulkWriteError)) return undefined;
  const [fault] = [error.writeErrors].flat();
  if (fault === undefined || error.result.getWriteConcernError() !== undefined) return undefined;
  const { index, code, errmsg = "" } = fault;
  return { index, code, words: errmsg, inserted: error.result.insertedCount };
}

/** Whatever name the index on `(room, seq)` has. */
const NUMBER_TAKEN = /, seq: \d+ \}/;

const unknown = (cause: unknown): AppendResult => ({
  kind: "unknown",
  error: new ChatError("storage_unavailable", { cause }),
});

const rejected = (cause: unknown): AppendResult => ({
  kind: "rejected",
  error:
    cause instanceof ChatError && cause.code !== "storage_unavailable"
      ? cause
      : new ChatError("storage_unavailable", {
          cause,
          text: "The store cannot be reached; the message was not stored.",
        }),
});

/** The result of a draft for which this message is stored: its own, or the first one with its client id. */
function settle(
  { drafts, results, named, unconfirmed }: Batch,
  place: number,
  kind: "stored" | "duplicate",
  message: Message | undefined,
  epoch: Epoch,
): void {
  const draft = draftAt(drafts, place);
  const name = nameOf(draft);
  if (name !== undefined && message !== undefined) named.set(name, { message, epoch });
  // A duplicate too: the service that stored it may not have kept its number.
  if (message !== undefined && message.seq > (unconfirmed.get(message.room)?.seq ?? 0))
    unconfirmed.set(message.room, message);
  results[place] =
    message?.text === draft.text && message.room === draft.room
      ? { kind, message, epoch }
      : { kind: "rejected", error: new ChatError("conflict") };
}

/**
 * Keeps the numbers of what was stored or found, and looks whether the store still has the epoch: an insert that went out just
 * before the database was dropped makes its collection anew, or comes into the next one.
 */
async function confirm({ numbers, verify }: MongoConnection, batch: Batch, epoch: StoreEpoch): Promise<void> {
  if (batch.unconfirmed.size === 0) return;
  try {
    await Promise.all([numbers.keep(batch.unconfirmed, epoch), verify(epoch)]);
  } catch (error) {
    // The next try asks for the ids in the new epoch, and stores again what is not there.
    if (error instanceof EpochChanged) takeBackUnconfirmed(batch);
    throw error;
  }
  batch.unconfirmed.clear();
}

/** Takes back the results that must not be told: what is stored in these rooms counts as sent, its outcome as unknown. */
function takeBackUnconfirmed({ drafts, results, named, sent, unconfirmed }: Batch): void {
  for (const [place, draft] of drafts.entries()) {
    const kind = results[place]?.kind;
    if (!unconfirmed.has(draft.room) || (kind !== "stored" && kind !== "duplicate")) continue;
    results[place] = undefined;
    named.delete(nameOf(draft) ?? "");
    sent.add(place);
  }
  unconfirmed.clear();
}

/** Within a batch the later drafts with one client id are answered from what the first one found or stored. */
function settleFollowers(batch: Batch): void {
  for (const [place, draft] of batch.drafts.entries()) {
    const first = batch.named.get(nameOf(draft) ?? "");
    if (batch.results[place] === undefined && first !== undefined)
      settle(batch, place, "duplicate", first.message, first.epoch);
  }
}

function draftAt(drafts: readonly Draft[], place: number): Draft {
  const draft = drafts[place];
  assert(draft !== undefined, "a place names a draft of the batch");
  return draft;
}

const toMessage = (draft: Draft, { seq, receivedAt }: RoomEnd): Message => ({
  id: draft.id,
  room: draft.room,
  seq,
  userId: draft.userId,
  text: draft.text,
  timestamp: draft.timestamp,
  receivedAt,
});
