/** The port's numbers, duplicates, conflicts and reads without a disk: everything is gone with the process. */

import {
  type ClientId,
  type Epoch,
  type RoomName,
  type Seq,
  SEQ_ZERO,
  seqAfter,
} from "../../../../src/domain/ids.ts";
import type { Draft, Message } from "../../../../src/domain/message.ts";
import type { Millis } from "../../../../src/domain/time.ts";
import { ChatError } from "../../../../src/errors.ts";
import type {
  AppendResult,
  MessageRepository,
  PageBounds,
  TimeRange,
} from "../../../../src/repository/repository.ts";

interface Room {
  /** The message numbered N is at N - 1. */
  readonly messages: Message[];
  readonly byClientId: Map<string, Message>;
}

const nameOf = (userId: string, clientId: ClientId) => JSON.stringify([userId, clientId]);
const isWithin = ({ receivedAt }: Message, { from, to }: TimeRange) =>
  (from === undefined || receivedAt >= from) && (to === undefined || receivedAt < to);

export function createMemoryRepository(epoch: Epoch): MessageRepository {
  const rooms = new Map<RoomName, Room>();

  function open(name: RoomName): Room {
    const known = rooms.get(name);
    if (known !== undefined) return known;
    const made: Room = { messages: [], byClientId: new Map() };
    rooms.set(name, made);
    return made;
  }

  function store(draft: Draft): AppendResult {
    const { messages, byClientId } = open(draft.room);
    const { id, room, userId, text, timestamp, clientId } = draft;
    const first = clientId === null ? undefined : byClientId.get(nameOf(userId, clientId));
    if (first !== undefined)
      return first.text === text
        ? { kind: "duplicate", message: first, epoch }
        : { kind: "rejected", error: new ChatError("conflict") };
    const receivedAt = Math.max(draft.receivedAt, messages.at(-1)?.receivedAt ?? 0) as Millis;
    const seq = seqAfter((messages.at(-1)?.seq ?? SEQ_ZERO) as Seq);
    const message: Message = { id, room, seq, userId, text, timestamp, receivedAt };
    messages.push(message);
    if (clientId !== null) byClientId.set(nameOf(userId, clientId), message);
    return { kind: "stored", message, epoch };
  }

  const messagesOf = (room: RoomName) => rooms.get(room)?.messages ?? [];
  const headOf = (room: RoomName) => ({
    epoch,
    seq: messagesOf(room).at(-1)?.seq ?? SEQ_ZERO,
    firstSeq: seqAfter(SEQ_ZERO),
  });

  return {
    kind: "sqlite",
    shared: false,
    place: "memory",
    status: () => ({ up: true }),
    append: async (drafts) => drafts.map(store),
    head: async (room) => headOf(room),
    heads: async (names) => ({ epoch, seqs: names.map((name) => headOf(name).seq) }),
    readAfter: async (room, after, bounds, range = {}) => ({
      head: headOf(room),
      ...cut(messagesOf(room).slice(after), bounds, range),
    }),
    readBefore: async (room, before, bounds, range = {}) => ({
      head: headOf(room),
      ...cut(
        messagesOf(room)
          .slice(0, before === null ? undefined : Math.max(before - 1, 0))
          .reverse(),
        bounds,
        range,
      ),
    }),
    async readByUser({ userId, room, before, bounds, range = {} }) {
      const all = (
        room === undefined ? [...rooms.values()].flatMap(({ messages }) => messages) : messagesOf(room)
      )
        .filter((message) => message.userId === userId)
        .sort((a, b) => b.receivedAt - a.receivedAt || (a.id < b.id ? 1 : -1))
        .filter(
          ({ receivedAt, id }) =>
            before === null ||
            receivedAt < before.receivedAt ||
            (receivedAt === before.receivedAt && id < before.id),
        );
      return cut(all, bounds, range);
    },
    async readRooms({ before, roomsMax }) {
      const all = [...rooms]
        .flatMap(([room, { messages }]) => {
          const last = messages.at(-1);
          return last === undefined ? [] : [{ room, seq: last.seq, lastMessageAt: last.receivedAt }];
        })
        .sort((a, b) => b.lastMessageAt - a.lastMessageAt || (a.room < b.room ? 1 : -1))
        .filter(
          ({ room, lastMessageAt }) =>
            before === null ||
            lastMessageAt < before.lastMessageAt ||
            (lastMessageAt === before.lastMessageAt && room < before.room),
        );
      return { rooms: all.slice(0, roomsMax), more: all.length > roomsMax };
    },
    revision: () => null,

    close: async () => rooms.clear(),
  };
}

/** In the order given, up to the bounds. */
function cut(messages: readonly Message[], { messagesMax, textBytesMax }: PageBounds, range: TimeRange) {
  const page: Message[] = [];
  let textBytes = 0;
  for (const message of messages) {
    if (!isWithin(message, range)) continue;
    if (page.length === messagesMax || (page.length > 0 && textBytes >= textBytesMax))
      return { messages: page, more: true };
    page.push(message);
    textBytes += Buffer.byteLength(message.text);
  }
  return { messages: page, more: false };
}
