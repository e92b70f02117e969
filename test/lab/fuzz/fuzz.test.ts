/** A few thousand inputs a surface, so that no change goes unfuzzed; `bun run fuzz` does the rest. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { createChance, freshSeed } from "../../fixture/chance.ts";
import { judgedAck, judgedError, judgedHttp } from "./answers.ts";
import { campaign, SURFACES } from "./campaign.ts";
import { MARK } from "./hostile.ts";
import { Finding, fuzz, must, type Surface } from "./surface.ts";

setDefaultTimeout(120_000);

const seed = Number(process.env.FUZZ_SEED ?? freshSeed());
const INPUTS = 2_000;

test(`the service stands ${INPUTS} hostile inputs a surface (FUZZ_SEED=${seed})`, async () => {
  const report = await campaign({ seed, inputs: INPUTS, rounds: 1, store: "sqlite", only: [] }, () => {});
  expect(report.faults).toEqual([]);
  expect(
    report.surfaces.flatMap(({ name, findings }) => findings.map((finding) => ({ name, ...finding }))),
  ).toEqual([]);
  expect(report.surfaces.map(({ name }) => name)).toEqual([...SURFACES]);
  for (const { inputs, outcomes } of report.surfaces) {
    expect(inputs).toBe(INPUTS);
    expect(outcomes.size).toBeGreaterThan(8);
  }
  expect(report.canaryMessages).toBeGreaterThan(50);
});

describe("fuzz", () => {
  /** Fails only for a number that is reached from the inputs that led somewhere new. */
  const climb = (goal: number): Surface<number> => ({
    name: "climb",
    lanes: 2,
    show: String,
    open: () => ({
      make: (chance, seen) => (seen.length > 0 ? chance.pick(seen) : 0) + chance.below(2),
      attempt(input) {
        must(input !== goal, "the goal");
        return String(input);
      },
      close() {},
    }),
  });

  test("goes on from what led somewhere new, and reports what it found with its input", async () => {
    const { findings, inputs } = await fuzz(climb(12), 20_000, createChance(1));
    expect(findings).toEqual([{ what: "the goal", input: "12" }]);
    expect(inputs).toBe(20_000);
  });

  test("does the same from the same seed", async () => {
    const run = async (from: number) => [...(await fuzz(climb(-1), 300, createChance(from))).outcomes];
    expect(await run(3)).toEqual(await run(3));
    expect(await run(3)).not.toEqual(await run(4));
  });
});

describe("what no input may cause", () => {
  const refusal = { code: "invalid_payload", message: "The payload is not valid.", retryable: false };
  const answer = (status: number, body: string) => ({
    status,
    headers: new Map<string, string>(),
    body,
    isBare: false,
    more: false,
  });
  const wrong: [string, () => unknown][] = [
    ["internal", () => judgedError({ ...refusal, code: "internal", retryable: true })],
    ["a code that is in no catalogue", () => judgedError({ ...refusal, code: "oops" })],
    [
      "the input said again",
      () => judgedError({ ...refusal, issues: [{ path: MARK, message: "must be a string" }] }),
    ],
    [
      "the library's own words",
      () => judgedError({ ...refusal, issues: [{ path: "", message: "Expected string" }] }),
    ],
    ["a stack beside the message", () => judgedError({ ...refusal, stack: "at" })],
    ["an ack that says neither yes nor no", () => judgedAck({})],
    ["a status of ours", () => judgedHttp(answer(500, ""))],
    ["a page instead of an error", () => judgedHttp(answer(400, "<html>"))],
    [
      "another code than the status says",
      () => judgedHttp(answer(404, JSON.stringify({ error: { ...refusal } }))),
    ],
  ];
  for (const [what, judge] of wrong) {
    test(`is found: ${what}`, () => expect(judge).toThrow(Finding));
  }

  test("and a refusal as the contract has it is none", () => {
    expect(judgedAck({ ok: false, error: refusal })).toBe("invalid_payload");
    expect(judgedHttp(undefined)).toBe("closed");
  });
});
