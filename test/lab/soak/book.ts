/** What the soak was told about each room: what was acked and what was delivered, and every contradiction between them. */

import type { WireMessage } from "../../../src/protocol/wire.ts";

/** The part of a message that must be the same for everyone. */
type Told = Pick<WireMessage, "id" | "room" | "message"> & { readonly seq: number | null };

export interface Book {
  /** Everything that contradicts the contract, in words, at most FAULTS_MAX of them. */
  readonly faults: readonly string[];
  fault(what: string): void;
  /** A send was acknowledged with that place. */
  acked(told: Omit<Told, "message">): void;
  /** Somebody was shown a message: live, replayed, or in history. */
  seen(told: Told, how: string): void;
  /** A text was refused: nobody may ever see it. */
  refused(message: string): void;
  /** A text is said again after others: what keeps its sender's order does not hold for it. */
  saidAgain(message: string): void;
  readonly counts: { acked: number; seen: number; refused: number };
  /** Judges the whole of a room as the history has it at the end, oldest first. */
  close(room: string, history: readonly Told[]): void;
  readonly rooms: Iterable<string>;
}

/** After so many faults the rest says nothing new. */
const FAULTS_MAX = 50;

/**
 * Texts of one sender's connection, `name connection number`: the numbers must rise along a room's order. Others are
 * free to be anything.
 */
const NUMBERED = /^(\S+ c\d+) n(\d+)\b/;

export const numbered = (sender: string, connection: number, number: number, words: string) =>
  `${sender} c${connection} n${number} ${words}`;

export function createBook(): Book {
  const rooms = new Map<string, { ids: (string | undefined)[]; acked: Set<number> }>();
  const refusedTexts = new Set<string>();
  const textsSaidAgain = new Set<string>();
  const faults: string[] = [];
  const counts = { acked: 0, seen: 0, refused: 0 };

  const fault = (what: string) => {
    if (faults.length < FAULTS_MAX) faults.push(what);
  };
  const roomOf = (name: string) => {
    const known = rooms.get(name);
    if (known !== undefined) return known;
    const room = { ids: [], acked: new Set<number>() };
    rooms.set(name, room);
    return room;
  };
  function place({ room, seq, id }: Omit<Told, "message">, how: string) {
    if (seq === null || !Number.isSafeInteger(seq) || seq < 1) return fault(`${room}: ${how} has seq ${seq}`);
    const { ids } = roomOf(room);
    const known = ids[seq];
    if (known === undefined) ids[seq] = id;
    else if (known !== id) fault(`${room} ${seq}: ${how} shows ${id}, others were shown ${known}`);
  }

  return {
    faults,
    fault,
    counts,
    acked(told) {
      counts.acked += 1;
      place(told, "ack");
      if (told.seq !== null) roomOf(told.room).acked.add(told.seq);
    },
    seen(told, how) {
      counts.seen += 1;
      place(told, how);
      if (refusedTexts.has(told.message)) fault(`${told.room} ${told.seq}: ${how} shows a refused message`);
    },
    refused(message) {
      counts.refused += 1;
      refusedTexts.add(message);
    },
    saidAgain: (message) => void textsSaidAgain.add(message),
    close(room, history) {
      const { ids, acked } = roomOf(room);
      const where = new Map<string, number>();
      const texts = new Map<string, number>();
      const numbers = new Map<string, number>();
      for (const [index, { id, seq, message }] of history.entries()) {
        if (seq !== index + 1) return fault(`${room}: history has seq ${seq} where ${index + 1} belongs`);
        if (ids[seq] !== undefined && ids[seq] !== id) fault(`${room} ${seq}: history has another message`);
        if (where.has(id)) fault(`${room}: ${id} stands at ${where.get(id)} and ${seq}`);
        where.set(id, seq);
        if (texts.has(message)) fault(`${room}: one send stands at ${texts.get(message)} and ${seq}`);
        texts.set(message, seq);
        if (refusedTexts.has(message)) fault(`${room} ${seq}: a refused message is stored`);
        const [, sender = "", number = ""] = NUMBERED.exec(message) ?? [];
        if (sender === "" || textsSaidAgain.has(message)) continue;
        if (Number(number) <= (numbers.get(sender) ?? -1)) fault(`${room} ${seq}: ${sender} is out of order`);
        numbers.set(sender, Number(number));
      }
      for (const seq of acked) {
        if (seq > history.length) return fault(`${room} ${seq}: acked, and not in history`);
      }
      if (ids.length > history.length + 1)
        fault(`${room}: shown up to ${ids.length - 1}, kept ${history.length}`);
      return undefined;
    },
    get rooms() {
      return rooms.keys();
    },
  };
}
