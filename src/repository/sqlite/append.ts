/** The embedded store's write transaction: decides numbers, duplicates and conflicts, and inserts, all in one step. */

import type { Database } from "bun:sqlite";
import type { Epoch, Seq } from "../../domain/ids.ts";
import type { Draft, Message } from "../../domain/message.ts";
import type { Millis } from "../../domain/time.ts";
import { assert, ChatError } from "../../errors.ts";
import { nextTick } from "../../runtime/ticks.ts";
import type { AppendResult } from "../repository.ts";
import { SEQ_BITS, SEQ_MAX } from "./schema.ts";

export interface Appended {
  readonly results: readonly AppendResult[];
  /** False when there was nothing to store. */
  readonly written: boolean;
  /** The newest message that was stored, by its room's own number. */
  readonly last: { readonly room: number; readonly seq: number; readonly id: string } | undefined;
}

/** Rows that are written in one tick of the event loop: less than a millisecond. */
const ROWS_PER_TICK = 256;

export interface Appender {
  /**
   * Commits the drafts on the calling thread, without waiting for the disk. Throws what SQLite threw, after a rollback.
   * A large batch lets the event loop go in between, its transaction open. One call at a time.
   * @param beforeCommit is called when all is inserted: what throws before it, or in it, has stored nothing
   */
  commit(drafts: readonly Draft[], beforeCommit?: () => void): Promise<Appended>;
  finalize(): void;
}

/** A room while a batch is written; its row is written once, at the end. */
interface OpenRoom {
  readonly id: number;
  seq: number;
  lastReceivedAt: number;
  touched: boolean;
}

/** Every statement of the write transaction, for the test that asks SQLite how it would run them. */
export const APPEND_STATEMENTS = {
  begin: "BEGIN IMMEDIATE",
  commit: "COMMIT",
  rollback: "ROLLBACK",
  findRoom: "SELECT id, seq, last_received_at FROM rooms WHERE name = ?1",
  addRoom: "INSERT INTO rooms (name, seq, last_received_at) VALUES (?1, 0, 0)",
  writeRoom: "UPDATE rooms SET seq = ?2, last_received_at = ?3 WHERE id = ?1",
  insert: `INSERT INTO messages (place, id, user_id, client_id, text, timestamp, received_at)
    VALUES ((?1 << ${SEQ_BITS}) | ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (room_id, user_id, client_id) WHERE client_id IS NOT NULL DO NOTHING`,
  findFirst: `SELECT id, seq, text, timestamp, received_at FROM messages
    WHERE room_id = ?1 AND user_id = ?2 AND client_id = ?3 AND client_id IS NOT NULL`,
} as const;

/** The result of a draft of which nothing was committed. An earlier attempt of the same sender may have stored it. */
export const notStored = (cause: unknown): AppendResult => ({
  kind: "rejected",
  error: new ChatError("storage_unavailable", {
    cause,
    text: "The store cannot be written; this attempt did not store the message.",
  }),
});

/** @param epoch the store's, for the results */
export function createAppender(db: Database, epoch: Epoch): Appender {
  const begin = db.prepare(APPEND_STATEMENTS.begin);
  const commit = db.prepare(APPEND_STATEMENTS.commit);
  const rollback = db.prepare(APPEND_STATEMENTS.rollback);
  const findRoom = db.prepare(APPEND_STATEMENTS.findRoom);
  const addRoom = db.prepare(APPEND_STATEMENTS.addRoom);
  const writeRoom = db.prepare(APPEND_STATEMENTS.writeRoom);
  const insert = db.prepare(APPEND_STATEMENTS.insert);
  const findFirst = db.prepare(APPEND_STATEMENTS.findFirst);
  const statements = [begin, commit, rollback, findRoom, addRoom, writeRoom, insert, findFirst];

  function openRoom(name: string): OpenRoom {
    const row = findRoom.values(name)[0] as [number, number, number] | undefined;
    if (row !== undefined) return { id: row[0], seq: row[1], lastReceivedAt: row[2], touched: false };
    // A room whose first message is refused cannot be: only a stored message makes a client id known.
    const id = Number(addRoom.run(name).lastInsertRowid);
    return { id, seq: 0, lastReceivedAt: Number.MIN_SAFE_INTEGER, touched: false };
  }

  function store(room: OpenRoom, draft: Draft): AppendResult {
    const seq = room.seq + 1;
    assert(seq <= SEQ_MAX, "a room's numbers fit the schema");
    const receivedAt = Math.max(draft.receivedAt, room.lastReceivedAt) as Millis;
    const { id, userId, clientId, text, timestamp } = draft;
    const { changes } = insert.run(room.id, seq, id, userId, clientId, text, timestamp, receivedAt);
    if (changes === 0) return known(room, draft);
    room.seq = seq;
    room.lastReceivedAt = receivedAt;
    room.touched = true;
    const message: Message = { id, room: draft.room, seq: seq as Seq, userId, text, timestamp, receivedAt };
    return { kind: "stored", message, epoch };
  }

  function known(room: OpenRoom, draft: Draft): AppendResult {
    const row = findFirst.values(room.id, draft.userId, draft.clientId)[0];
    assert(row !== undefined, "what an insert collided with is there");
    const [id, seq, text, timestamp, receivedAt] = row as [string, Seq, string, Millis, Millis];
    if (text !== draft.text) return { kind: "rejected", error: new ChatError("conflict") };
    const { room: name, userId } = draft;
    const message: Message = { id, room: name, seq, userId, text, timestamp, receivedAt };
    return { kind: "duplicate", message, epoch };
  }

  return {
    async commit(drafts, beforeCommit) {
      begin.run();
      try {
        const rooms = new Map<string, OpenRoom>();
        const results: AppendResult[] = [];
        let last: Appended["last"];
        for (const [index, draft] of drafts.entries()) {
          if (index > 0 && index % ROWS_PER_TICK === 0) {
            await nextTick();
            // SQLite ends a transaction by itself after some faults; rows behind that would be committed one by one.
            assert(db.inTransaction, "a batch's transaction is open until its end");
          }
          const room = rooms.get(draft.room) ?? openRoom(draft.room);
          rooms.set(draft.room, room);
          const result = store(room, draft);
          if (result.kind === "stored") last = { room: room.id, seq: room.seq, id: draft.id };
          results.push(result);
        }
        let written = false;
        for (const room of rooms.values()) {
          if (!room.touched) continue;
          writeRoom.run(room.id, room.seq, room.lastReceivedAt);
          written = true;
        }
        if (written) beforeCommit?.();
        (written ? commit : rollback).run();
        return { results, written, last };
      } catch (error) {
        if (db.inTransaction) rollback.run();
        throw error;
      }
    },
    finalize() {
      for (const statement of statements) statement.finalize();
    },
  };
}
