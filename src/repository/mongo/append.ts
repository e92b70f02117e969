/**
 * Appending to rooms that other services may write too, without a counter. The unique index on `(room, seq)` decides who
 * is first; whoever was not reads the head again and goes on. Everything goes out as one ordered batch, which leaves a
 * prefix when it fails: so there is never a hole. After a failure nothing is believed: the ids are asked for.
 */

import { type Document, type Filter, MongoBulkWriteError, MongoError } from "mongodb";
import { type Epoch, parseSeq, type RoomName, SEQ_ZERO, type Seq, seqAfter } from "../../domain/ids.ts";
import type { Draft, Message } from "../../domain/message.ts";
import { type Millis, toMillis } from "../../domain/time.ts";
import { assert, ChatError } from "../../errors.ts";
import { MONGO_TIMES, QUICK } from "./client.ts";
import type { MongoConnection } from "./connection.ts";
import { DUPLICATE_KEY, type Life } from "./epoch.ts";
import { NEWEST_OF_EACH_ROOM, NUMBERED, readMessage, ROOM_SEQ, readTime, toDocument } from "./schema.ts";
import type { AppendResult } from "../repository.ts";

/** The end of a room, after which the next message goes. */
interface RoomEnd {
  seq: Seq;
  receivedAt: Millis;
}

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
  /** Places whose draft went out in an insert of which nobody knows what it stored. */
  readonly unsure: Set<number>;
}

export function createMongoAppend(connection: MongoConnection) {
  /** A draft without a result when the time is over has an unknown outcome; rejects when no draft has any. */
  return async (drafts: readonly Draft[]): Promise<readonly AppendResult[]> => {
    const batch = openBatch(drafts);
    let cause: unknown;
    try {
      await connection.run((life, ended) => appendAll(connection, batch, life, ended));
    } catch (error) {
      cause = error;
    }
    settleFollowers(batch);
    if (cause !== undefined && batch.results.every((result) => result === undefined)) throw cause;
    return batch.results.map((result) => result ?? unknown(cause));
  };
}

function openBatch(drafts: readonly Draft[]): Batch {
  const leaders = new Map<string, number>();
  for (const [place, draft] of drafts.entries()) {
    const name = nameOf(draft);
    if (name !== undefined && !leaders.has(name)) leaders.set(name, place);
  }
  return { drafts, results: drafts.map(() => undefined), leaders, named: new Map(), unsure: new Set() };
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

/** Goes on until every draft that leads has a result, or nobody waits any more. May be begun again after it threw. */
async function appendAll(
  connection: MongoConnection,
  batch: Batch,
  firstLife: Life,
  ended: AbortSignal,
): Promise<void> {
  let life = firstLife;
  let verified = false;
  // The first try asks nothing: the unique indexes find what was there before.
  let asks = false;
  let taken: TakenPlace | undefined;
  for (let attempt = 0; !ended.aborted; attempt++) {
    try {
      if (asks) await settleKnown(connection, batch, life.epoch);
      const places = openPlaces(batch);
      if (places.length === 0) return;
      const rooms = new Set(places.map((place) => draftAt(batch.drafts, place).room));
      // Whoever was not first asks only for the ends, so that the next try is a quicker one than a newcomer's first: of
      // several services that never rest, each gets its turn.
      const [ends] = await Promise.all([readEnds(connection, rooms), verified || connection.verify(life)]);
      if (ended.aborted) return;
      verified = true;
      if (taken !== undefined && (ends.get(taken.room)?.seq ?? taken.seq) < taken.seq) {
        // Not by a majority yet, or never, when it is rolled back: after a rest its place is tried again.
        taken = undefined;
        await pause(batch, attempt);
        continue;
      }
      const outcome = await insert(connection, batch, places, ends, life.epoch);
      if (outcome === "all") return;
      asks = outcome === "known";
      taken = outcome === "known" ? undefined : outcome.outrunAt;
    } catch (error) {
      // What is not the driver's word is another life of the store, or a defect of ours.
      if (ended.aborted || !(error instanceof MongoError)) throw error;
      connection.failed(error);
      // What was sent may be stored: it is worth the whole time to find out. Else whoever waits learns it soon.
      life = await connection.up(batch.unsure.size > 0 ? MONGO_TIMES.operationMs : MONGO_TIMES.comeUpMs);
      [verified, asks] = [false, true];
    }
    // What is there, but not yet by a majority, takes a moment. Whoever was outrun must not rest.
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
    (await messages.find({ _id: { $in: open.map(({ id }) => id) } }, QUICK).toArray()).map((row) => [
      row._id,
      row,
    ]),
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
      settle(batch, place, batch.unsure.has(place) ? "stored" : "duplicate", readMessage(own), epoch);
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
 * Where the rooms end, as a majority has them: what a majority has, the next primary has too, so that no number can come to
 * stand after one that is rolled back. Who is told too low a number meets the unique index.
 */
async function readEnds(
  { documents }: MongoConnection,
  rooms: ReadonlySet<RoomName>,
): Promise<ReadonlyMap<RoomName, RoomEnd>> {
  const rows = await documents
    .aggregate([{ $match: { room: { $in: [...rooms] }, seq: NUMBERED } }, ...NEWEST_OF_EACH_ROOM], QUICK)
    .toArray();
  const newest = new Map(rows.map((row) => [String(row._id), row]));
  const end = (room: RoomName): RoomEnd => {
    const last = newest.get(room);
    const seq = last === undefined ? SEQ_ZERO : parseSeq(Number(last.seq));
    assert(seq !== undefined, "a room's newest number can be one");
    return { seq, receivedAt: readTime(last?.received_at) ?? toMillis(Number.NEGATIVE_INFINITY) };
  };
  return new Map([...rooms].map((room) => [room, end(room)]));
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
  try {
    await messages.insertMany(
      rows.map(({ draft, message }) => toDocument(draft, message.seq, message.receivedAt)),
      { ordered: true },
    );
    settleFirst(rows.length);
    return "all";
  } catch (error) {
    const fault = firstFault(error);
    const failed = fault === undefined ? undefined : rows[fault.index];
    if (fault === undefined || failed === undefined) {
      for (const place of places) batch.unsure.add(place);
      throw error;
    }
    settleFirst(fault.inserted);
    // The server refuses this document for itself, and would again: the others go on without it.
    if (fault.code !== DUPLICATE_KEY)
      batch.results[failed.place] = { kind: "rejected", error: unavailable(error) };
    // The name of the index, in the server's words, only saves a question: to ask without need is harmless.
    return fault.code === DUPLICATE_KEY && fault.words.includes(ROOM_SEQ)
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

const unavailable = (cause: unknown) => new ChatError("storage_unavailable", { cause });
const unknown = (cause: unknown): AppendResult => ({ kind: "unknown", error: unavailable(cause) });

/** The result of a draft for which this message is stored: its own, or the first one with its client id. */
function settle(
  { drafts, results, named }: Batch,
  place: number,
  kind: "stored" | "duplicate",
  message: Message | undefined,
  epoch: Epoch,
): void {
  const draft = draftAt(drafts, place);
  const name = nameOf(draft);
  if (name !== undefined && message !== undefined) named.set(name, { message, epoch });
  results[place] =
    message?.text === draft.text && message.room === draft.room
      ? { kind, message, epoch }
      : { kind: "rejected", error: new ChatError("conflict") };
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
