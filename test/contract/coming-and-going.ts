/** Members that come and go while a room is busy, each judged by all that it heard: every number once, in order. */

import { expect } from "bun:test";
import { range } from "./conversation.ts";
import type { Answer, Heard, Link } from "./links.ts";

/** Sends that one writer has unanswered at once while the room is busy. */
const WINDOW = 48;

/** What a member has seen of a room, by all that its connections heard, in order. Anything out of place fails. */
function createWitness(url: string, room: string) {
  let seen = 0;
  let epoch: unknown;
  let inRoom = false;

  async function readOn(upTo: number): Promise<void> {
    while (seen < upTo) {
      const answer = await fetch(`${url}/rooms/${room}/messages?after=${seen}&epoch=${epoch}&limit=200`);
      expect(answer.status).toBe(200);
      const { messages } = (await answer.json()) as { messages: Answer[] };
      for (const { seq } of messages) if ((seq as number) <= upTo) see(seq);
    }
  }

  function see(seq: unknown): void {
    expect(seq).toBe(seen + 1);
    seen += 1;
  }

  return {
    seen: () => seen,
    since: () => ({ room, since: seen, ...(epoch !== undefined && { epoch }) }),
    /** A new connection is in no room. */
    reconnected() {
      inRoom = false;
    },
    async hear({ kind, name, body }: Heard): Promise<void> {
      if (kind === "event" && name === "receive_message") {
        expect(inRoom).toBe(true);
        see(body.seq);
      } else if (kind === "ack" && name === "leave_room") {
        inRoom = false;
      } else if (kind === "ack" && name === "join_room") {
        expect(body).toMatchObject({ ok: true, recovered: true });
        epoch = body.epoch;
        for (const { seq } of body.messages as Answer[]) see(seq);
        // The rest of an incomplete replay is read over HTTP; the first live message is seq + 1 all the same.
        expect(body.complete).toBe(seen === body.seq);
        await readOn(body.seq as number);
        inRoom = true;
      }
    },
  };
}

export interface Comer {
  /** The service that it reads history from. */
  readonly url: string;
  connect(): Promise<Link>;
  /** Whether it comes back over a new connection this time. */
  isFresh(round: number): boolean;
}

/** Leaves and comes back so many times; resolves with what it takes to judge the rest. */
async function comeBack(room: string, rounds: number, { url, connect, isFresh }: Comer) {
  const witness = createWitness(url, room);
  let link = await connect();
  let judged = 0;
  const judge = async () => {
    for (; judged < link.heard.length; judged += 1) await witness.hear(link.heard[judged] as Heard);
  };
  for (const round of range(1, rounds)) {
    if (isFresh(round)) {
      await link.close();
      await judge();
      link = await connect();
      judged = 0;
      witness.reconnected();
    }
    await link.call("join_room", witness.since());
    await link.fence();
    await judge();
    if (round === rounds) break;
    await link.call("leave_room", room);
    await judge();
  }
  return { witness, link, judge };
}

/**
 * Sends until it is answered with a place, as a good client does: what is retryable is tried again under the same
 * client id. A store under load may be too slow at times, and nothing may be lost or doubled by that.
 */
export async function insist(link: Link, draft: Answer & { readonly client_id: string }): Promise<Answer> {
  for (;;) {
    const answer = await link.call("send_message", draft);
    if (answer.ok === true) return answer;
    expect(answer).toMatchObject({ error: { retryable: true } });
  }
}

async function keepBusy(room: string, writer: () => Promise<Link>, until: () => boolean): Promise<number> {
  const link = await writer();
  await link.call("join_room", room);
  const user_id = `writer ${Bun.randomUUIDv7()}`;
  let sent = 0;
  const worker = async () => {
    while (!until()) {
      sent += 1;
      const message = String(sent).padEnd(sent % 97 === 0 ? 3_000 : 20, ".");
      await insist(link, { room, user_id, message, client_id: `${sent}` });
    }
  };
  await Promise.all(range(1, WINDOW).map(worker));
  await link.close();
  return sent;
}

/** The writers keep the room busy until every comer has come for the last time; resolves with how much was said. */
export async function comeAndGo({
  room,
  rounds,
  comers,
  writers,
}: {
  readonly room: string;
  readonly rounds: number;
  readonly comers: readonly Comer[];
  readonly writers: readonly (() => Promise<Link>)[];
}): Promise<number> {
  let coming = comers.length;
  const stays = comers.map(async (comer) => {
    try {
      return await comeBack(room, rounds, comer);
    } finally {
      coming -= 1;
    }
  });
  const [sent, ...stayed] = await Promise.all([
    Promise.all(writers.map((writer) => keepBusy(room, writer, () => coming === 0))),
    ...stays,
  ]);
  const total = sent.reduce((sum, count) => sum + count, 0);
  for (const { witness, link, judge } of stayed) {
    // What it has not been told live yet comes within the next question for the heads.
    if (witness.seen() < total) {
      await link.until((heard) => {
        const last = heard.findLast(({ name }) => name === "receive_message");
        return last?.body.seq === total;
      });
    }
    await link.fence();
    await judge();
    expect(witness.seen()).toBe(total);
    await link.close();
  }
  return total;
}
