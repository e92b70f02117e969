/** The list of rooms. */

import type { Context } from "hono";
import type { Chat } from "../chat/chat.ts";
import { parseRooms, roomsPageToWire } from "../protocol/routes.ts";
import type { PageAnswers } from "./page-answers.ts";
import { type HttpEnv, rawQuery } from "./target.ts";

export const roomRoutes = ({ chat, answers }: { chat: Chat; answers: PageAnswers }) => ({
  async list(c: Context<HttpEnv>) {
    const query = parseRooms(rawQuery(c));
    return answers.send(
      c,
      JSON.stringify(roomsPageToWire(await chat.history.rooms(query), query.writeCursor)),
    );
  },
});
