/** The routes of messages: a user's history, a room's, and saying something without a connection. */

import type { Context } from "hono";
import { ANONYMOUS } from "../auth/viewer.ts";
import type { Chat } from "../chat/chat.ts";
import { ChatError } from "../errors.ts";
import {
  parsePostMessage,
  parseRoomHistory,
  parseUserHistory,
  roomPageToWire,
  userPageToWire,
} from "../protocol/routes.ts";
import { messageToWire } from "../protocol/wire.ts";
import { readJsonBody } from "./body.ts";
import type { Readiness } from "./health.ts";
import { type HttpEnv, rawName, rawQuery } from "./target.ts";

export interface MessageRoutesOptions {
  readonly chat: Chat;
  /** UTF-8 bytes of the longest text. */
  readonly messageBytesMax: number;
  readonly bodyBytesMax: number;
  readonly readiness: () => Readiness;
}

export const messageRoutes = ({ chat, messageBytesMax, bodyBytesMax, readiness }: MessageRoutesOptions) => ({
  async ofUser(c: Context<HttpEnv>) {
    const query = parseUserHistory(rawName(c), rawQuery(c));
    return c.json(userPageToWire(await chat.history.ofUser(query), query.cursor));
  },

  async ofRoom(c: Context<HttpEnv>) {
    const query = parseRoomHistory(rawName(c), rawQuery(c));
    return c.json(roomPageToWire(await chat.history.ofRoom(query), query.cursor));
  },

  async post(c: Context<HttpEnv>) {
    const state = readiness();
    if (!state.ready && state.reason === "draining") throw new ChatError("draining");
    const command = parsePostMessage(
      {
        rawRoom: rawName(c),
        idempotencyKey: c.req.header("idempotency-key"),
        body: await readJsonBody(c.req.raw, bodyBytesMax),
      },
      messageBytesMax,
    );
    const caller = { viewer: ANONYMOUS, allowance: chat.admission.allowanceOf(c.env.address) };
    const { message, duplicate } = await chat.send.fromCaller(caller, command);
    return c.json(messageToWire(message), duplicate ? 200 : 201);
  },
});
