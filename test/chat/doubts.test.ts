import { expect, test } from "bun:test";
import { createDoubts } from "../../src/chat/doubts.ts";
import { LIMITS } from "../../src/limits.ts";
import { range, room } from "../contract/drafting.ts";

const [LOBBY, HALL] = [room("lobby"), room("hall")];

test("createDoubts asks about a room for as many beats as a store may land something late, down ones not counted", () => {
  const doubts = createDoubts();
  const everywhere = () => true;
  doubts.add(LOBBY);
  doubts.add(HALL);
  expect(doubts.beat(true, (name) => name === LOBBY)).toEqual([LOBBY]);
  expect(doubts.has(HALL)).toBe(false);
  const beats = (2 * LIMITS.storeTimeoutMs) / LIMITS.headPollMs;
  for (const _ of range(1, 2 * beats)) expect(doubts.beat(false, everywhere)).toEqual([LOBBY]);
  for (const _ of range(2, beats)) expect(doubts.beat(true, everywhere)).toEqual([LOBBY]);
  expect(doubts.beat(true, everywhere)).toEqual([]);
  expect(doubts.has(LOBBY)).toBe(false);
});
