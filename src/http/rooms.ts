/** The list of rooms. */

import type { Context } from "hono";
import type { Chat } from "../chat/chat.ts";
import { parseRooms, roomsPageToWire } from "../protocol/routes.ts";
import { type HttpEnv, rawQuery } from "./target.ts";

export const roomRoutes = ({ chat }: { chat: Chat }) => ({
  async list(c: Context<HttpEnv>) {
    const query = parseRooms(rawQuery(c));
    return c.json(roomsPageToWire(await chat.history.rooms(query), query.cursor));
  },
});
