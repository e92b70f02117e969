/** Our protocol layer against the stock server: the same raw packets, the same answers, the same endings. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import {
  type Part,
  play,
  type ScriptedServer,
  startOurs,
  startStock,
  WAYS,
  type Way,
} from "../fixture/frame-scripts.ts";

setDefaultTimeout(30_000);

let ours: ScriptedServer;
let stock: ScriptedServer;
beforeAll(() => {
  ours = startOurs();
  stock = startStock();
});
afterAll(async () => {
  await Promise.all([ours.stop(), stock.stop()]);
});

const both = (way: Way, script: readonly Part[]) =>
  Promise.all([play(ours, way, script), play(stock, way, script)]);

const bytes = (...values: number[]) => Uint8Array.from(values);
const placeholder = (num: number) => `{"_placeholder":true,"num":${num}}`;

/** Packets that need no attachments, well formed or not. */
const PACKETS = [
  ...["0", '0{"token":"x"}', "0/other,", '0/other,{"a":1}', "0/other", "0/nowhere,", "0/nowhere,{}", ""],
  ...["0[]", "0null", '0"x"', "0{", "0/other,[]", "07", "0/,", "0/__proto__,"],
  ...["1", "1/other,", "1{}", '1"x"', "1/nowhere,", "17"],
  ...[
    '2["m"]',
    '2["m",1,"a",{"b":[null]}]',
    '20["m",1]',
    '27["n"]',
    '2007["m"]',
    '2["unknown"]',
    '23["unknown",1]',
  ],
  ...[
    '2123456789012345["m"]',
    '21234567890123456["m"]',
    '299999999999999999999999["m"]',
    '29007199254740993["n",1]',
  ],
  ...['2/other,["m"]', '2/other,5["m",2]', '2/,["m"]', '2/,8["m"]', '2/nowhere,["m"]', '2/other["m"]'],
  ...[
    "2[7]",
    "21[-0.5,1]",
    "2[]",
    "2[null]",
    "2[true]",
    "2{}",
    '2["m"',
    "2true",
    '2"m"',
    '2["m"]garbage',
    "2[[]]",
  ],
  ...['2["connect"]', '2["disconnect"]', '25["disconnecting"]', '2["newListener"]', '2["connect_error"]'],
  ...[
    '2["removeListener"]',
    '2["error",1]',
    '2["__proto__",1]',
    '21["constructor"]',
    '2[""]',
    '24["toString"]',
  ],
  ...['2["m"] ', '2 ["m"]', '2 1["m"]', '2-1["m"]', '21e3["m"]', '21.5["m"]', '2+1["m"]', '20x1["m"]'],
  ...['2["m",{"__proto__":{"x":1}}]', '2["m","\\ud800"]', '2["é🌱"]', '2["m","é🌱"]', '2["m",1e400,-0]'],
  ...["3[]", "31[]", '31["x"]', "31", "3", "3{}", "3/other,1[]", "3/nowhere,1[]"],
  ...['4{"message":"x"}', "4", '4"x"', "4/other,{}"],
  ...[
    '511-["m"]',
    '50-["m"]',
    '5-["m"]',
    '51-["connect"]',
    '51["m"]',
    '5-1-["m"]',
    '51.5-["m"]',
    "51-{}",
    "6-[]",
  ],
  ...["7", "9[]", "x", "-", "é", "null", " ", "2\u0000"],
];

/** Packets and the attachments that belong to them. */
const WITH_ATTACHMENTS: readonly (readonly [string, number])[] = [
  [`51-["m",${placeholder(0)}]`, 1],
  [`52-7["m",${placeholder(0)},{"deep":[${placeholder(1)}]}]`, 2],
  [`52-["unknown",${placeholder(1)},${placeholder(0)}]`, 2],
  [`51-/other,["m",${placeholder(0)}]`, 1],
  [`51-/other,12["m",${placeholder(0)}]`, 1],
  [`51-/nowhere,["m",${placeholder(0)}]`, 1],
  ['51-["m"]', 1],
  [`51-["m",${placeholder(3)}]`, 1],
  [`51-["m",${placeholder(-1)}]`, 1],
  ['51-["m",{"_placeholder":true,"num":"0"}]', 1],
  [`53-["m",${placeholder(0)},${placeholder(0)}]`, 3],
  ["51-[7]", 1],
  [`61-1[${placeholder(0)}]`, 1],
  [`61-/other,[${placeholder(0)}]`, 1],
];

/** Those of them that end nothing, whatever was said before. */
const SANE = new Set(WITH_ATTACHMENTS.slice(0, 5).map(([packet]) => packet));

/**
 * An event that carries nothing at all, not even a list. The stock server makes an event without a name of it; here it is
 * not a packet, and ends the session.
 */
const isEventOfNothing = (part: Part) =>
  typeof part === "string" && /^(2|5[^-]*-)(\/[^,]*(,|$))?[\d ]*$/.test(part);

describe.each(WAYS)("createSocketIo answers over %s as the stock server", (way) => {
  test.each([["at once", []] as const, ["once connected", ["0", "0/other,"]] as const])(
    "each packet by itself, %s",
    async (_, prefix) => {
      const scripts: Part[][] = [
        ...PACKETS.filter((packet) => !isEventOfNothing(packet)).map((packet) => [packet]),
        ...WITH_ATTACHMENTS.map(([packet, count]) => [packet, ...Array(count).fill(bytes(1, 2, 255))]),
        // Text amid attachments, one too many, one that nobody announced.
        ...WITH_ATTACHMENTS.map(([packet]) => [packet, '2["m"]']),
        ...WITH_ATTACHMENTS.map(([packet, count]) => [packet, ...Array(count + 1).fill(bytes())]),
        [bytes(1)],
      ];
      const answered = { frames: 0, closed: 0 };
      for (const script of scripts) {
        const [us, them] = await both(way, [...prefix, ...script]);
        expect({ script, ...us }).toEqual({ script, ...them });
        answered.frames += us.frames.length - prefix.length;
        answered.closed += us.isClosed ? 1 : 0;
      }
      // Both sides of what a server can do were seen.
      expect(answered.closed).toBeGreaterThan(20);
      expect(answered.frames).toBeGreaterThan(5);
    },
  );

  const withAttachments = (packets: typeof WITH_ATTACHMENTS) =>
    fc
      .constantFrom(...packets)
      .chain(([packet, count]) =>
        fc
          .array(fc.uint8Array({ maxLength: 4 }), { minLength: count, maxLength: count })
          .map((attachments): Part[] => [packet, ...attachments]),
      );
  const changed = fc
    .tuple(
      fc.constantFrom(...PACKETS, ...WITH_ATTACHMENTS.map(([packet]) => packet)),
      fc.nat(),
      fc.constantFrom(0, 1),
      fc.constantFrom(...'0123459[]{}",/-m ', ""),
    )
    .map(([packet, at, removed, inserted]): Part[] => {
      const chars = [...packet];
      chars.splice(at % (chars.length + 1), removed, inserted);
      return [chars.join("")];
    });
  const sane = fc.constantFrom<Part[]>(
    ...['2["m"]', '20["m",1]', '2["m","é"]', '2["unknown"]', "2[7]", "31[]"].map((packet) => [packet]),
    ...['2123456789012345["m"]', '21234567890123456["n"]', '2/,3["n"]', "0/nowhere,"].map((packet) => [
      packet,
    ]),
  );
  const elsewhere = fc.constantFrom<Part[]>(
    ['2/other,["m"]'],
    ['2/other,5["m",2]'],
    ["1/other,", '0/other,{"a":1}'],
  );
  // Mostly what is well formed, or a script would be over before it began.
  const step = fc.oneof(
    { weight: 30, arbitrary: sane },
    { weight: 12, arbitrary: elsewhere },
    { weight: 8, arbitrary: fc.constant<Part[]>(["1", "0"]) },
    { weight: 12, arbitrary: withAttachments(WITH_ATTACHMENTS.filter(([packet]) => SANE.has(packet))) },
    { weight: 2, arbitrary: withAttachments(WITH_ATTACHMENTS) },
    { weight: 2, arbitrary: changed },
    { weight: 1, arbitrary: fc.constantFrom(...PACKETS).map((packet): Part[] => [packet]) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 2 }).map((attachment): Part[] => [attachment]) },
  );
  const script = fc
    .tuple(
      fc.oneof(
        { weight: 8, arbitrary: fc.constant(["0", "0/other,"]) },
        fc.constantFrom(["0/other,", "0"], ["0"], []),
      ),
      fc.array(step, { maxLength: 20, size: "max" }),
    )
    .map(([prefix, steps]) => [...prefix, ...steps.flat()])
    .filter((parts) => !parts.some(isEventOfNothing));

  test("any packets, one after the other", async () => {
    const lengths: number[] = [];
    await fc.assert(
      fc.asyncProperty(script, async (parts) => {
        const [us, them] = await both(way, parts);
        expect(us).toEqual(them);
        lengths.push(us.frames.length);
      }),
      { numRuns: way === "websocket" ? 600 : 200 },
    );
    expect(lengths.filter((length) => length > 6).length).toBeGreaterThan(lengths.length / 5);
  });
});

describe("createSocketIo differs from the stock server, knowingly", () => {
  test.each(["2", "21", "2/other,", "2/other,7"])(
    "%j, an event of nothing, ends the session",
    async (packet) => {
      const [us, them] = await both("websocket", ["0", "0/other,", packet]);
      expect([us.isClosed, them.isClosed]).toEqual([true, false]);
      expect(us.book.filter((line) => line.startsWith("heard"))).toEqual([]);
    },
  );

  test.each([
    ["an event right behind CONNECT is taken", '40\x1e42["m",1]', ['40{"sid":""}', '42["back",1]']],
    ["who leaves may come back at once", "40\x1e41\x1e40", ['40{"sid":""}', '40{"sid":""}']],
  ])("%s, in one payload: we connect at once", async (_, payload, frames) => {
    // The parts of a script are sent one by one; these are not.
    const [first = "", ...rest] = payload.split("\x1e");
    const together = `${first.slice(1)}\x1e${rest.join("\x1e")}`;
    const [us, them] = await both("polling", [together]);
    expect(us).toMatchObject({ isClosed: false, frames });
    expect(them.isClosed).toBe(true);
  });

  test("two CONNECTs in one payload end the session: a connection is in a namespace once", async () => {
    const [us, them] = await both("polling", ["0\x1e40"]);
    expect(us.isClosed).toBe(true);
    expect(them).toMatchObject({ isClosed: false, frames: ['40{"sid":""}', '40{"sid":""}'] });
  });
});
