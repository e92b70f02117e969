/** Every stock client holds every conversation of the contract, over every transport, on every store. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Program, startProgram } from "../fixture/program.ts";
import { STORES, type TestStore } from "../fixture/stores.ts";
import { BAD_INPUT } from "./bad-input.ts";
import { CONVERSATIONS, LONG_ROOM, range } from "./conversation.ts";
import { bunClient, nodeClient, pythonClient, type StockClient } from "./links.ts";
import type { Transport } from "./stock-client.ts";

// A link that waits in vain says so after a while, and only then may the test time out.
setDefaultTimeout(30_000);

const TRANSPORTS: readonly Transport[] = ["websocket", "polling", "upgrade"];
const CLIENTS = [
  { name: "socket.io-client on Bun", start: async () => bunClient() },
  { name: "socket.io-client on Node", start: nodeClient },
  { name: "python-socketio", start: pythonClient },
] as const;

const clients = new Map<string, StockClient>();
const clientNamed = (name: string) => clients.get(name) as StockClient;

beforeAll(async () => {
  const started = await Promise.all(CLIENTS.map(({ start }) => start()));
  for (const [index, { name }] of CLIENTS.entries()) clients.set(name, started[index] as StockClient);
});
afterAll(async () => {
  await Promise.all([...clients.values()].map((client) => client.end()));
});

const freshRoom = () => `room ${Bun.randomUUIDv7()}`;

/** Fills a room with numbered texts. */
async function fill(url: string, room: string, messages: number, textBytes: number): Promise<void> {
  const link = await clientNamed("socket.io-client on Bun").connect(url, "websocket");
  await link.call("join_room", room);
  const acks = await Promise.all(
    range(1, messages).map((index) =>
      link.call("send_message", { room, user_id: "filler", message: String(index).padEnd(textBytes, ".") }),
    ),
  );
  expect(acks.every(({ ok }) => ok === true)).toBe(true);
  await link.close();
}

for (const { kind, open } of STORES) {
  describe(`on ${kind}`, () => {
    let store: TestStore;
    let program: Program;
    const longRoom = freshRoom();
    const truncatedRoom = freshRoom();

    beforeAll(async () => {
      store = await open();
      program = await startProgram({ env: { ...store.env, RATE_LIMIT: "off", DRAIN_MS: "0" } });
      await fill(program.url, longRoom, LONG_ROOM.messages, LONG_ROOM.textBytes);
      await fill(program.url, truncatedRoom, 20, 2);
      await store.truncate(truncatedRoom, 11);
    });
    afterAll(async () => {
      expect(await program.end()).toBe(0);
      await store.remove();
    });

    for (const { name } of CLIENTS) {
      for (const transport of TRANSPORTS) {
        describe(`${name} over ${transport}`, () => {
          for (const [title, hold] of Object.entries({ ...CONVERSATIONS, ...BAD_INPUT })) {
            test(title, () =>
              hold({
                url: program.url,
                connect: () => clientNamed(name).connect(program.url, transport),
                room: freshRoom,
                longRoom,
                truncatedRoom,
              }),
            );
          }

          test("the connection stays on the transport that was asked for", async () => {
            const link = await clientNamed(name).connect(program.url, transport);
            await link.steady;
            await link.close();
          });
        });
      }
    }
  });
}
