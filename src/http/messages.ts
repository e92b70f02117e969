/** The routes of messages: a user's history, a room's, and saying something without a connection. */

import type { Context } from "hono";
import { ANONYMOUS } from "../auth/viewer.ts";
import type { Chat } from "../chat/chat.ts";
import { ChatError } from "../errors.ts";
import {
  encodeRoomPage,
  encodeUserPage,
  parsePostMessage,
  parseRoomHistory,
  parseUserHistory,
} from "../protocol/routes.ts";
import { messageToWire } from "../protocol/wire.ts";
import type { PageSubject } from "../repository/repository.ts";
import { readJsonBody } from "./body.ts";
import type { Readiness } from "./health.ts";
import type { PageAnswers } from "./page-answers.ts";
import type { PageCache } from "./page-cache.ts";
import type { PageTurns } from "./page-turns.ts";
import { type HttpEnv, rawName, rawQuery, wholeTarget } from "./target.ts";

export interface MessageRoutesOptions {
  readonly chat: Chat;
  /** UTF-8 bytes of the longest text. */
  readonly messageBytesMax: number;
  readonly bodyBytesMax: number;
  readonly readiness: () => Readiness;
  readonly pages: PageCache;
  readonly turns: PageTurns;
  readonly answers: PageAnswers;
}

export function messageRoutes({
  chat,
  messageBytesMax,
  bodyBytesMax,
  readiness,
  pages,
  turns,
  answers,
}: MessageRoutesOptions) {
  const { history } = chat;

  /** Answers with the page that was kept, or reads it and keeps it. */
  async function answer<Q, P>(
    c: Context<HttpEnv>,
    parse: (rawName: string, rawQuery: string) => Q,
    subjectOf: (query: Q) => PageSubject,
    read: (query: Q) => Promise<P>,
    encode: (page: P, query: Q) => string,
  ) {
    const target = wholeTarget(c.req.raw.url);
    let json = pages.find(target);
    if (json === undefined) {
      const query = parse(rawName(c), rawQuery(c));
      const subject = subjectOf(query);
      let revision: number | null = null;
      json = await turns.make(
        () => {
          revision = history.revision(subject);
          return read(query);
        },
        (page) => encode(page, query),
      );
      pages.keep(target, subject, revision, json);
    }
    return answers.send(c, json);
  }

  function refuseDraining() {
    const state = readiness();
    if (!state.ready && state.reason === "draining") throw new ChatError("draining");
  }

  return {
    ofUser: (c: Context<HttpEnv>) =>
      answer(
        c,
        parseUserHistory,
        ({ userId }) => ({ kind: "user", name: userId }),
        history.ofUser,
        (page, { writeCursor }) => encodeUserPage(page, writeCursor),
      ),

    ofRoom: (c: Context<HttpEnv>) =>
      answer(
        c,
        parseRoomHistory,
        ({ room }) => ({ kind: "room", name: room }),
        history.ofRoom,
        (page, { writeCursor }) => encodeRoomPage(page, writeCursor),
      ),

    async post(c: Context<HttpEnv>) {
      refuseDraining();
      const body = await readJsonBody(c.req.raw, bodyBytesMax);
      // The drain may have begun meanwhile: it waits for the sends that were taken before it, and for no later ones.
      refuseDraining();
      const command = parsePostMessage(
        {
          rawRoom: rawName(c),
          idempotencyKey: c.req.header("idempotency-key"),
          body,
        },
        messageBytesMax,
      );
      const caller = { viewer: ANONYMOUS, allowance: chat.admission.allowanceOf(c.env.address) };
      const { message, duplicate } = await chat.send.fromCaller(caller, command);
      return c.json(messageToWire(message), duplicate ? 200 : 201);
    },
  };
}
