/** Coming back while messages flow at full speed: replay and live meet without a hole and without a repeat. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { startTestService, type TestService } from "../fixture/service.ts";
import { STORES, type TestStore } from "../fixture/stores.ts";
import { range, seqsOf } from "./conversation.ts";
import { type Answer, bunClient, type Heard, type Link } from "./links.ts";
import type { Transport } from "./stock-client.ts";

setDefaultTimeout(30_000);

/** Sends that are unanswered at once while the room is busy. */
const WINDOW = 48;
const client = bunClient();

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

for (const { kind, open } of STORES) {
  describe(`on ${kind}`, () => {
    let store: TestStore;
    let started: TestService;
    beforeAll(async () => {
      store = await open();
      started = await startTestService(store.env);
    });
    afterAll(async () => {
      await started.dispose();
      await store.remove();
    });

    /** Keeps the room busy until it is told to stop; resolves with how many messages it holds. */
    async function keepBusy(room: string, until: () => boolean): Promise<number> {
      const link = await client.connect(started.url, "websocket");
      await link.call("join_room", room);
      let sent = 0;
      const worker = async () => {
        while (!until()) {
          sent += 1;
          const message = String(sent).padEnd(sent % 97 === 0 ? 3_000 : 20, ".");
          expect(await link.call("send_message", { room, user_id: "ada", message })).toMatchObject({
            ok: true,
          });
        }
      };
      await Promise.all(range(1, WINDOW).map(worker));
      await link.close();
      return sent;
    }

    const rounds = kind === "sqlite" ? 25 : 12;

    for (const transport of ["websocket", "polling", "upgrade"] satisfies Transport[]) {
      test(`over ${transport}, members that leave and come back see every number once`, async () => {
        const room = Bun.randomUUIDv7();
        let resting = 0;
        const comers = range(1, 3);
        const witnesses = comers.map(async (comer) => {
          const witness = createWitness(started.url, room);
          const links: { link: Link; judged: number }[] = [];
          const judge = async () => {
            const last = links.at(-1) as (typeof links)[number];
            for (; last.judged < last.link.heard.length; last.judged += 1)
              await witness.hear(last.link.heard[last.judged] as Heard);
          };
          for (const round of range(1, rounds)) {
            // A connection of its own each third time: it joins while it upgrades, and goes without a word.
            if (links.length === 0 || (round + comer) % 3 === 0) {
              await links.at(-1)?.link.close();
              if (links.length > 0) await judge();
              links.push({ link: await client.connect(started.url, transport), judged: 0 });
              witness.reconnected();
            }
            const { link } = links.at(-1) as (typeof links)[number];
            await link.call("join_room", witness.since());
            await link.fence();
            await judge();
            if (round === rounds) break;
            await link.call("leave_room", room);
            await judge();
          }
          resting += 1;
          return { witness, link: (links.at(-1) as (typeof links)[number]).link, judge };
        });
        const total = await keepBusy(room, () => resting === comers.length);
        expect(total).toBeGreaterThan(rounds);
        for (const { witness, link, judge } of await Promise.all(witnesses)) {
          await link.fence();
          await judge();
          expect(witness.seen()).toBe(total);
          await link.close();
        }
      });
    }

    test("history over HTTP refuses what it cannot continue, and never lies", async () => {
      const room = Bun.randomUUIDv7();
      const link = await client.connect(started.url, "websocket");
      const { epoch } = await link.call("join_room", room);
      for (const index of range(1, 12))
        await link.call("send_message", { room, user_id: "ada", message: `${index}` });
      const read = async (query: string) => {
        const answer = await fetch(`${started.url}/rooms/${room}/messages${query}`);
        return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
      };
      const newest = await read("?limit=5");
      expect(seqsOf(newest.body.messages as Answer[])).toEqual([12, 11, 10, 9, 8]);
      expect(newest.body).toMatchObject({ epoch, first_seq: 1, seq: 12 });
      expect(await read("?after=12")).toMatchObject({
        status: 200,
        body: { messages: [], next_cursor: null },
      });
      expect(await read("?after=13")).toMatchObject({
        status: 400,
        body: { error: { code: "invalid_request" } },
      });
      expect(await read("?after=1&epoch=another")).toMatchObject({
        status: 409,
        body: { error: { code: "epoch_changed" } },
      });
      await store.truncate(room, 9);
      const cursor = `?limit=5&cursor=${newest.body.next_cursor}`;
      expect(await read(cursor)).toMatchObject({
        status: 410,
        body: { error: { code: "history_truncated", first_seq: 9 } },
      });
      expect(await read("?after=3")).toMatchObject({
        status: 410,
        body: { error: { code: "history_truncated", first_seq: 9 } },
      });
      expect(seqsOf((await read(`?after=8&epoch=${epoch}`)).body.messages as Answer[])).toEqual(range(9, 12));
      await link.close();
    });
  });
}
