/** Stock Socket.IO on bun-engine with its default adapter, validating as ours does; the store is the caller's. */

import { Server as Engine } from "@socket.io/bun-engine";
import { Server as SocketServer } from "socket.io";
import type { Draft, Message } from "../../../../src/domain/message.ts";
import { toMillis } from "../../../../src/domain/time.ts";
import { lostReason } from "../../../../src/domain/sequence.ts";
import { LIMITS } from "../../../../src/limits.ts";
import {
  joinedToWire,
  parseJoinRoom,
  parseSendMessage,
  sentToWire,
} from "../../../../src/protocol/events.ts";
import { messageToWire } from "../../../../src/protocol/wire.ts";
import type { MessageRepository } from "../../../../src/repository/repository.ts";
import { announce, HOST, PORT } from "./serving.ts";

export interface StockIo {
  /** To all members of the messages' rooms, one by one. */
  deliver(messages: readonly Message[]): void;
  /** Takes sends from now on. */
  serve(options: {
    /** Stores the message, delivers it, and says what became of it. */
    readonly commit: (draft: Draft) => Promise<Message>;
    /** What a join reads: the room's bounds, and what was missed. */
    readonly reads: Pick<MessageRepository, "head" | "readAfter">;
    readonly close: () => void | Promise<void>;
  }): void;
}

const TEXT_BYTES_MAX = 16_384;
const REPLAY = { messagesMax: LIMITS.replayMessagesMax, textBytesMax: LIMITS.replayBytesMax };

export function createStockIo(): StockIo {
  const engine = new Engine({ path: "/socket.io/" });
  const io = new SocketServer();
  io.bind(engine);

  return {
    deliver(messages) {
      for (const message of messages) io.to(message.room).emit("receive_message", messageToWire(message));
    },
    serve({ commit, reads, close }) {
      io.on("connection", (socket) => {
        socket.on("join_room", async (payload: unknown, ack: (answer: unknown) => void) => {
          try {
            const { room, since, epoch } = parseJoinRoom(payload);
            if (since === undefined) {
              const head = await reads.head(room);
              socket.join(room);
              ack(joinedToWire(room, head, { kind: "none" }));
              return;
            }
            const { head, messages, more } = await reads.readAfter(room, since, REPLAY);
            const reason = lostReason(head, since, epoch);
            const missed = {
              kind: "recovered",
              messages: messages.map(messageToWire),
              through: more ? (messages.at(-1)?.seq ?? since) : head.seq,
            } as const;
            socket.join(room);
            ack(joinedToWire(room, head, reason === undefined ? missed : { kind: "lost", reason }));
          } catch (error) {
            ack({ ok: false, error: String(error) });
          }
        });
        socket.on("send_message", async (payload: unknown, ack: (answer: unknown) => void) => {
          try {
            const { room, userId, text, textBytes, timestamp, clientId } = parseSendMessage(
              payload,
              TEXT_BYTES_MAX,
            );
            if (!socket.rooms.has(room) || userId === undefined) throw new Error("not in the room");
            const at = Date.now();
            const receivedAt = toMillis(at);
            const message = await commit({
              id: Bun.randomUUIDv7("hex", at),
              room,
              userId,
              text,
              textBytes,
              timestamp: timestamp ?? receivedAt,
              receivedAt,
              clientId,
            });
            ack(sentToWire(message, false));
          } catch (error) {
            ack({ ok: false, error: String(error) });
          }
        });
      });
      const server = Bun.serve({ ...engine.handler(), hostname: HOST, port: PORT });
      announce(server.port, close);
    },
  };
}
