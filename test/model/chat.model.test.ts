/** Random scripts of clients, crashes and retries against the real program, judged by an array for each room. */

import { expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { STORES } from "../fixture/stores.ts";
import { type Command, createWorld, MEMBERS, ROOMS } from "./world.ts";

setDefaultTimeout(90_000);

const seed = Number(process.env.MODEL_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** A factor on the number of scripts and on their time, for a longer search. */
const effort = Number(process.env.MODEL_EFFORT ?? 1);
const BOUNDS = {
  sqlite: { scripts: 12 * effort, searchMs: 15_000 * effort },
  mongodb: { scripts: 4 * effort, searchMs: 10_000 * effort },
};

const member = fc.nat(MEMBERS - 1);
const room = fc.nat(ROOMS - 1);
const as = fc.constantFrom("none", "fresh", "again", "conflict");
const kind = <K extends Command["kind"]>(name: K) => fc.constant(name);

const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: kind("join"),
      member,
      room,
      since: fc.constantFrom("seen", "none", "zero"),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: kind("leave"), member, room }) },
  { weight: 6, arbitrary: fc.record({ kind: kind("send"), member, room, as }) },
  { weight: 3, arbitrary: fc.record({ kind: kind("post"), member, room, as }) },
  { weight: 4, arbitrary: fc.record({ kind: kind("burst"), room, each: fc.integer({ min: 1, max: 12 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: kind("reconnect"),
      member,
      transport: fc.constantFrom("websocket", "polling", "upgrade"),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: kind("restart"),
      signal: fc.constantFrom("SIGTERM", "SIGKILL"),
      each: fc.nat(8),
      acks: fc.nat(6),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: kind("history"),
      room,
      limit: fc.integer({ min: 1, max: 200 }),
      oldestFirst: fc.boolean(),
    }),
  },
);

for (const { kind: store, open } of STORES) {
  test(`the service on ${store} does what an array would (MODEL_SEED=${seed})`, async () => {
    const opened = await open();
    const world = await createWorld(opened.env);
    let scripts = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(command, { minLength: 15, maxLength: 45 }), async (script) => {
        await world.begin();
        for (const step of script) await world.run(step);
        await world.end();
        scripts += 1;
      }),
      {
        seed,
        numRuns: BOUNDS[store].scripts,
        interruptAfterTimeLimit: BOUNDS[store].searchMs,
        verbose: 1,
      },
    );
    expect(scripts).toBeGreaterThan(0);
    await world.stop();
    await opened.remove();
  });
}
