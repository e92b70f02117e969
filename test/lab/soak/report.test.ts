import { describe, expect, test } from "bun:test";
import { createChance } from "../../fixture/chance.ts";
import { type Idle, judge, type Moment } from "./report.ts";

const idle: Idle = { descriptors: 24, threads: 10, residentBytes: 90e6, waitsPerSecond: 10 };

/** Twenty minutes in which nothing is wrong but for what `wrong` makes of each moment. */
function moments(wrong: (at: number) => Partial<Moment> = () => ({})): Moment[] {
  const chance = createChance(3);
  return Array.from({ length: 240 }, (_, n) => ({
    at: n * 5,
    residentBytes: 90e6 + chance.between(0, 15e6),
    descriptors: 40 + chance.below(20),
    threads: 10,
    cpuSeconds: n,
    waits: new Map(),
    walBytes: 16e6,
    acks: [1, 1, chance.between(1, 30)],
    gets: [1, chance.between(0, 5)],
    lags: [0],
    ...wrong(n * 5),
  }));
}

describe("judge", () => {
  test("finds nothing in a steady run, however noisy", () => {
    expect(judge(moments(), idle, idle, "sqlite").faults).toEqual([]);
  });

  test("says nothing about the trend of a run that is too short for one", () => {
    const short = moments((at) => ({ residentBytes: at * 1e6, descriptors: at })).slice(0, 24);
    expect(judge(short, idle, idle, "sqlite")).toMatchObject({ faults: [], hasTrend: false });
  });

  test("takes off what others took of the machine", () => {
    const slowed = moments((at) => (at < 800 ? {} : { acks: [20], lags: [19] }));
    expect(judge(slowed, idle, idle, "sqlite").faults).toEqual([]);
  });

  const wrong: [string, readonly Moment[], Idle, RegExp][] = [
    ["memory", moments((at) => ({ residentBytes: 90e6 + (at * 120e6) / 3_600 })), idle, /^memory grows/],
    ["descriptors", moments((at) => ({ descriptors: 40 + Math.floor(at / 30) })), idle, /^descriptors grow/],
    ["the log", moments((at) => ({ walBytes: at * 1e5 })), idle, /^the write-ahead log/],
    ["latency", moments((at) => ({ acks: [at < 800 ? 1 : 20] })), idle, /^ack p50 went/],
    ["what is left open", moments(), { ...idle, descriptors: 60 }, /^descriptors: 24 before, 60/],
    ["what is left running", moments(), { ...idle, threads: 20 }, /^threads: 10 before, 20/],
    ["timers", moments(), { ...idle, waitsPerSecond: 200 }, /^timers: woken 10 times/],
  ];
  for (const [what, run, after, fault] of wrong) {
    test(`catches a drift of ${what}`, () => {
      const { faults } = judge(run, idle, after, "sqlite");
      expect(faults).toHaveLength(1);
      expect(faults[0]).toMatch(fault);
    });
  }
});
