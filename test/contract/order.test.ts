/** Everyone gets a room's messages in one order: many senders at once, members on every transport, on every store. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { startTestService, type TestService } from "../fixture/service.ts";
import { STORES, type TestStore } from "../fixture/stores.ts";
import { live, range, refused, seqsOf } from "./conversation.ts";
import { type Answer, bunClient, type Link, nodeClient, pythonClient, type StockClient } from "./links.ts";
import type { Transport } from "./stock-client.ts";

setDefaultTimeout(30_000);

const MIXED: readonly Transport[] = ["websocket", "polling", "upgrade", "websocket"];
const client = bunClient();
let others: readonly StockClient[];

beforeAll(async () => {
  others = await Promise.all([nodeClient(), pythonClient()]);
});
afterAll(async () => {
  await Promise.all(others.map((other) => other.end()));
});

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

    const connect = (transport: Transport) => client.connect(started.url, transport);
    const members = (room: string, transports: readonly Transport[], by: StockClient = client) =>
      Promise.all(
        transports.map(async (transport) => {
          const link = await by.connect(started.url, transport);
          expect(await link.call("join_room", room)).toMatchObject({ ok: true });
          return link;
        }),
      );
    const closeAll = (links: readonly Link[]) => Promise.all(links.map((link) => link.close()));

    test("400 messages from 4 senders at once reach every member in the same order, without a hole", async () => {
      const room = Bun.randomUUIDv7();
      const senders = await members(room, MIXED);
      const listeners = (
        await Promise.all([client, ...others].map((by) => members(room, MIXED.slice(0, 3), by)))
      ).flat();
      const acks = await Promise.all(
        senders.map((link, sender) =>
          Promise.all(
            range(1, 100).map((index) =>
              link.call("send_message", { room, user_id: `sender ${sender}`, message: String(index) }),
            ),
          ),
        ),
      );
      const everyone = [...senders, ...listeners];
      const heard = await Promise.all(everyone.map((link) => link.take("receive_message", 400)));
      for (const messages of heard) {
        expect(seqsOf(messages)).toEqual(range(1, 400));
        expect(messages).toEqual(heard[0] as Answer[]);
      }
      for (const sender of range(0, 3)) {
        const said = (heard[0] as Answer[]).filter(({ user_id }) => user_id === `sender ${sender}`);
        expect(said.map(({ message }) => message)).toEqual(range(1, 100).map(String));
        expect(said.map(({ id, seq }) => ({ id, seq }))).toEqual(
          (acks[sender] as Answer[]).map(({ id, seq }) => ({ id, seq })),
        );
      }
      await Promise.all(everyone.map((link) => link.fence()));
      expect(everyone.map((link) => live(link).length)).toEqual(everyone.map(() => 400));
      await closeAll(everyone);
    });

    test("sends, leaves and joins that nobody waits for keep their order, and refused is refused", async () => {
      const room = Bun.randomUUIDv7();
      const listeners = await members(room, MIXED);
      const senders = await Promise.all(MIXED.slice(0, 3).map(connect));
      const turn = (link: Link, sender: number, round: number) => {
        const say = (message: string) =>
          link.call("send_message", { room, user_id: `${sender}`, message: `${round} ${message}` });
        return Promise.all([
          link.call("join_room", round % 2 === 0 ? room : { room, since: 0 }),
          say("first"),
          say("second"),
          link.call("leave_room", room),
          say("never"),
          link.call("leave_room", room),
        ]);
      };
      const answers = await Promise.all(
        senders.map((link, sender) => Promise.all(range(1, 15).map((round) => turn(link, sender, round)))),
      );
      for (const [joined, first, second, left, never, again] of answers.flat()) {
        expect([joined, first, second, left].map((answer) => answer?.ok)).toEqual([true, true, true, true]);
        expect([never, again]).toEqual([refused("not_in_room"), refused("not_in_room")]);
      }
      for (const link of listeners) {
        const heard = await link.take("receive_message", 90);
        expect(seqsOf(heard)).toEqual(range(1, 90));
        for (const sender of range(0, 2)) {
          expect(
            heard.filter(({ user_id }) => user_id === `${sender}`).map(({ message }) => message),
          ).toEqual(range(1, 15).flatMap((round) => [`${round} first`, `${round} second`]));
        }
      }
      await closeAll([...senders, ...listeners]);
    });
  });
}
