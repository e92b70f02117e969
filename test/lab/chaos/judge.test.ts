/** The judge, before worlds made up for it: each holds one thing that no honest service does, the first one nothing. */

import { expect, test } from "bun:test";
import type { WireMessage } from "../../fixture/member.ts";
import { breaksUnexplained } from "./breaks.ts";
import { createMoments } from "./cores.ts";
import { judge } from "./judge.ts";
import { type Answer, createLedger, type Said, type ViolationKind } from "./ledger.ts";
import { type Plan, type Step, smaller } from "./plan.ts";
import { createWatch } from "./watch.ts";

const ROOM = "the hall";
const AT = new Date().toISOString();

/** Three messages, stored, acked and shown in order; a test spoils one thing. */
function createWorld() {
  const ledger = createLedger(createWatch());
  const stored: WireMessage[] = [];
  const sighting = ledger.sight("listener", ROOM, 0);
  const show = (message: WireMessage) => sighting.show(message, "live");
  let emitted = 0;
  const ids = () => stored.filter(({ user_id }) => user_id === "talker").map(({ id }) => id);
  const world = {
    ledger,
    stored,
    show,
    ids,
    say: (text: string, mustRefuse: string | null = null): Said =>
      ledger.speak({ room: ROOM, userId: "talker", text, clientId: text, mustRefuse }),
    store(text: string, seq = stored.length + 1): WireMessage {
      const told = { timestamp: AT, received_at: AT, user_id: "talker", room: ROOM };
      const message: WireMessage = { id: `id-${stored.length + 1}`, message: text, seq, ...told };
      stored.push(message);
      return message;
    },
    ack(entry: Said, { id, seq }: WireMessage, duplicate = false, order = emitted++): void {
      const answer: Answer = { kind: "acked", id, seq: seq ?? 0, timestamp: AT, duplicate };
      ledger.answered(entry, answer, { connection: "one", order });
    },
    refuse(entry: Said, code: string, rest: Partial<Extract<Answer, { kind: "refused" }>> = {}): void {
      const usual = { retryable: true, retryAfterMs: null, status: null };
      ledger.answered(entry, { kind: "refused", code, ...usual, ...rest } as Answer);
    },
    /** Stored, acked and shown, as it should be. */
    pass(text: string): { entry: Said; message: WireMessage } {
      const entry = world.say(text);
      const message = world.store(text);
      world.ack(entry, message);
      show(message);
      return { entry, message };
    },
    async judged(isAtRest = true, user: () => readonly string[] = ids): Promise<ViolationKind[]> {
      const told = { room: async () => [...stored], user: async () => user() };
      await judge(ledger, told, [ROOM], isAtRest);
      return [...new Set(ledger.violations.map(({ kind }) => kind))];
    },
  };
  for (const text of ["one", "two", "three"]) world.pass(text);
  return world;
}

type World = ReturnType<typeof createWorld>;

test("judge finds nothing where a service was honest, whatever it refused", async () => {
  const world = createWorld();
  const unsure = world.say("unsure");
  world.refuse(unsure, "storage_unavailable");
  const landed = world.store("unsure");
  world.ack(unsure, landed, true);
  world.show(landed);
  world.refuse(world.say("too many"), "overloaded", { retryAfterMs: 200 });
  world.refuse(world.say("too many by POST"), "rate_limited", { retryAfterMs: 1_000, status: 429 });
  world.refuse(world.say("bad", "conflict"), "conflict", { retryable: false });
  world.ledger.answered(world.say("cut"), { kind: "broken" });
  world.ledger.answered(world.say("early bird"), { kind: "ahead" });
  expect(await world.judged()).toEqual([]);
});

/** What is wrong, and everything that is found for it: one defect may show from several sides. */
const SPOILED: readonly [what: string, found: readonly ViolationKind[], spoil: (world: World) => unknown][] =
  [
    ["an acked message is not there", ["lost", "unsaid"], ({ stored }) => stored.pop()],
    [
      "an acked message is another's",
      ["lost", "unsaid", "missed"],
      ({ stored }) => Object.assign(stored[1] ?? {}, { user_id: "other" }),
    ],
    ["a message is stored twice", ["twice", "lost"], ({ store, show }) => show(store("three"))],
    ["a message is shown twice", ["twice", "unsaid"], ({ pass, show }) => show(pass("four").message)],
    [
      "one message has two acks as new",
      ["twice", "reordered"],
      ({ pass, ack }) => {
        const { entry, message } = pass("four");
        ack(entry, message);
      },
    ],
    [
      "one message has two numbers",
      ["twice"],
      ({ pass, ack }) => {
        const { entry, message } = pass("four");
        ack(entry, { ...message, seq: 9 }, true);
      },
    ],
    [
      "an older message is shown after a younger one",
      ["reordered", "unsaid"],
      ({ show, stored }) => show(stored[0] as WireMessage),
    ],
    [
      "one connection's messages change places",
      ["reordered"],
      ({ say, store, show, ack }) => {
        const [first, second] = [say("four"), say("five")];
        const [later, sooner] = [store("five"), store("four")];
        ack(second, later, false, 11);
        ack(first, sooner, false, 10);
        for (const message of [later, sooner]) show(message);
      },
    ],
    [
      "a number is left out in the history",
      ["hole", "missed"],
      ({ say, store, ack }) => ack(say("four"), store("four", 5)),
    ],
    [
      "a member is not shown one in the middle",
      ["hole", "missed", "unsaid"],
      ({ say, store, ack, pass }) => {
        ack(say("four"), store("four"));
        pass("five");
      },
    ],
    [
      "a member is shown what nobody said",
      ["unsaid"],
      ({ show, stored }) => show({ ...(stored[0] as WireMessage), seq: 4, message: "whence?" }),
    ],
    ["the history has what nobody said", ["unsaid"], ({ store, show }) => show(store("whence?"))],
    [
      "a member is shown another text than the history has",
      ["unsaid"],
      ({ stored }) => Object.assign(stored[2] ?? {}, { timestamp: "2001-01-01T00:00:00.000Z" }),
    ],
    [
      "a member is not shown the last one",
      ["missed"],
      ({ say, store, ack }) => ack(say("four"), store("four")),
    ],
    [
      "an ack comes while no sync ends",
      ["early"],
      ({ ledger, pass }) => {
        ledger.gateDisk(true);
        Bun.sleepSync(1);
        pass("four");
      },
    ],
    [
      "a refused message is stored",
      ["refused yet stored"],
      ({ say, store, show, refuse }) => {
        refuse(say("four"), "overloaded", { retryAfterMs: 200 });
        show(store("four"));
      },
    ],
    [
      "an invalid message is stored",
      ["refused yet stored"],
      ({ say, store, show, refuse }) => {
        refuse(say("four", "conflict"), "conflict", { retryable: false });
        show(store("four"));
      },
    ],
    [
      "an invalid message is acked",
      ["wrong answer"],
      ({ say, store, show, ack }) => {
        const message = store("four");
        ack(say("four", "conflict"), message);
        show(message);
      },
    ],
    [
      "a first try is called a duplicate",
      ["wrong answer"],
      ({ say, store, show, ack }) => {
        const message = store("four");
        ack(say("four"), message, true);
        show(message);
      },
    ],
    ["an answer is internal", ["wrong answer"], ({ say, refuse }) => refuse(say("four"), "internal")],
    ["a code is unknown", ["wrong answer"], ({ say, refuse }) => refuse(say("four"), "no_mood")],
    [
      "a valid message is refused for good",
      ["wrong answer"],
      ({ say, refuse }) => refuse(say("four"), "conflict", { retryable: false }),
    ],
    [
      "a store that is away is not worth a retry",
      ["wrong answer"],
      ({ say, refuse }) => refuse(say("four"), "storage_unavailable", { retryable: false }),
    ],
    [
      "the same, by POST",
      ["wrong answer"],
      ({ say, refuse }) => refuse(say("four"), "storage_unavailable", { retryable: false, status: 503 }),
    ],
    [
      "a status is another code's",
      ["wrong answer"],
      ({ say, refuse }) => refuse(say("four"), "storage_unavailable", { status: 500 }),
    ],
    [
      "an overload does not say when to come again",
      ["wrong answer"],
      ({ say, refuse }) => refuse(say("four"), "overloaded"),
    ],
    [
      "a limit does not say so by POST",
      ["wrong answer"],
      ({ say, refuse }) => refuse(say("four"), "rate_limited", { retryAfterMs: null, status: 429 }),
    ],
  ];

for (const [what, found, spoil] of SPOILED) {
  test(`judge finds "${found[0]}" where ${what}`, async () => {
    const world = createWorld();
    spoil(world);
    expect(await world.judged()).toEqual([...found]);
  });
}

test("judge asks nothing of what was acked after a backup that was put back, and all of what was acked before", async () => {
  const world = createWorld();
  const backup = world.ledger.backUp();
  const [{ entry }] = [world.pass("four"), world.pass("five")];
  world.ledger.putBack(backup);
  world.stored.splice(3);
  const [seen] = world.ledger.sightings;
  expect(world.ledger.joinedAgain(seen as never, { seq: 3, recovered: false })).toBe(true);
  expect(await world.judged()).toEqual([]);
  // It may be said again, as new.
  world.ack(entry, world.store("four"));
  world.stored.splice(1, 1);
  expect(await world.judged()).toEqual(["hole", "lost", "unsaid"]);
});

test("judge finds a member that was not told of the store's new epoch, also where its numbers fit", async () => {
  const came = createWorld();
  came.ledger.putBack(came.ledger.backUp());
  const [seen] = came.ledger.sightings;
  expect(came.ledger.joinedAgain(seen as never, { seq: 3, recovered: true })).toBe(false);
  expect(await came.judged()).toEqual(["untold"]);

  const stayed = createWorld();
  stayed.ledger.putBack(null);
  stayed.stored.length = 0;
  expect(await stayed.judged()).toEqual(["untold"]);

  const shown = createWorld();
  shown.ledger.putBack(null);
  shown.show(shown.store("four"));
  expect(await shown.judged(false)).toEqual(["untold", "unsaid"]);
});

test("judge lets rooms that were emptied go on with their numbers, and finds them beginning again untold", async () => {
  const goesOn = createWorld();
  goesOn.ledger.putBack(null, true);
  goesOn.stored.length = 0;
  const four = goesOn.say("four");
  goesOn.ack(four, goesOn.store("four", 1_004));
  goesOn.show(goesOn.stored[0] as WireMessage);
  const five = goesOn.say("five");
  goesOn.ack(five, goesOn.store("five", 1_005));
  goesOn.show(goesOn.stored[1] as WireMessage);
  expect(await goesOn.judged()).toEqual([]);

  const beginsAgain = createWorld();
  beginsAgain.ledger.putBack(null, true);
  beginsAgain.stored.length = 0;
  beginsAgain.ack(beginsAgain.say("four"), beginsAgain.store("four", 1));
  expect(await beginsAgain.judged()).toEqual(["untold"]);
});

test("judge finds a user's history that shows a message twice, or not at all", async () => {
  expect(await createWorld().judged(true, () => ["id-1", "id-2", "id-3", "id-3"])).toEqual(["twice"]);
  expect(await createWorld().judged(true, () => ["id-1", "id-2"])).toEqual(["missed"]);
});

test("judge excuses what came while not everybody had finished", async () => {
  const world = createWorld();
  world.ack(world.say("four"), world.store("four"));
  expect(await world.judged(false)).toEqual([]);
});

test("ledger counts an ack as news only where its message was first said later", () => {
  const { ledger, say, store, ack } = createWorld();
  const old = say("old");
  Bun.sleepSync(1);
  const over = performance.now();
  ack(old, store("old"));
  expect(ledger.newestAckedAt()).toBeLessThan(over);
  Bun.sleepSync(1);
  ack(say("new"), store("new"));
  expect(ledger.newestAckedAt()).toBeGreaterThan(over);
});

test("breaksUnexplained leaves out what a slow machine or the service's log explains", () => {
  const cut = { who: "listener", why: "transport close", at: 10_000 };
  const quick = [{ from: 9_000, to: 9_010 }];
  const silent = () => false;
  expect(breaksUnexplained([cut], quick, silent)).toEqual([cut]);
  expect(breaksUnexplained([cut], [{ from: 8_000, to: 8_900 }], silent)).toEqual([]);
  expect(breaksUnexplained([cut], [{ from: 9_500, to: Number.POSITIVE_INFINITY }], silent)).toEqual([]);
  expect(breaksUnexplained([cut], [{ from: 1_000, to: 6_000 }], silent)).toEqual([cut]);
  expect(breaksUnexplained([cut], quick, (event) => event === "slow_client_disconnected")).toEqual([]);
});

test("createMoments counts each moment once", () => {
  const moments = createMoments(100);
  moments.add(50, 120); // 100 to 120: nothing was before
  moments.add(5, 140); // 135 to 140
  moments.add(15, 145); // 130 to 145
  moments.add(0, 150);
  expect(moments.sum()).toBe(35);
  moments.add(100, 160); // all of it
  expect(moments.sum()).toBe(60);
});

const step = (fault: Step["fault"]): Step => ({ fault, afterMs: 0, holdMs: 100, pick: 1 });
const names = ({ groups }: Plan) =>
  groups.map(({ acks, steps }) => `${acks} ${steps.map(({ fault }) => fault).join("+")}`).join("; ");

test("smaller takes away a group, else one fault of several, else acks, and nothing of a smallest plan", () => {
  const plan: Plan = {
    store: "sqlite",
    seed: 1,
    groups: [
      { acks: 100, steps: [step("kill"), step("cableCut")] },
      { acks: 10, steps: [step("diskFull")] },
    ],
  };
  expect(smaller(plan).map(names)).toEqual([
    "10 diskFull",
    "100 kill+cableCut",
    "100 cableCut; 10 diskFull",
    "100 kill; 10 diskFull",
    "25 kill+cableCut; 10 diskFull",
  ]);
  expect(smaller({ ...plan, groups: [{ acks: 10, steps: [step("kill")] }] })).toEqual([]);
  for (const less of smaller(plan)) expect(less.seed).toBe(plan.seed);
});
