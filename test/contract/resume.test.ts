/** Coming back while messages flow at full speed: replay and live meet without a hole and without a repeat. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { startTestService, type TestService } from "../fixture/service.ts";
import { STORES, type TestStore } from "../fixture/stores.ts";
import { range, seqsOf } from "./conversation.ts";
import { comeAndGo } from "./coming-and-going.ts";
import { type Answer, bunClient } from "./links.ts";
import type { Transport } from "./stock-client.ts";

setDefaultTimeout(30_000);

const client = bunClient();

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

    const rounds = kind === "sqlite" ? 25 : 12;

    for (const transport of ["websocket", "polling", "upgrade"] satisfies Transport[]) {
      test(`over ${transport}, members that leave and come back see every number once`, async () => {
        const room = Bun.randomUUIDv7();
        const comers = range(1, 3).map((comer) => ({
          url: started.url,
          connect: () => client.connect(started.url, transport),
          // A connection of its own each third time: it joins while it upgrades, and goes without a word.
          isFresh: (round: number) => (round + comer) % 3 === 0,
        }));
        const writers = [() => client.connect(started.url, "websocket")];
        const total = await comeAndGo({ room, rounds, comers, writers });
        expect(total).toBeGreaterThan(rounds);
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
