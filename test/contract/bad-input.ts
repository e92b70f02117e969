/** What a client may get wrong, and what it gets: refused, nothing stored, nothing echoed, the connection alive. */

import { expect } from "bun:test";
import { type Conversation, live, refused } from "./conversation.ts";

const LONG = "x".repeat(129);
/** It must never come back in a refusal. */
const INPUT = "SECRET-INPUT";

const badNames: readonly (readonly [string, unknown])[] = [
  ["missing", undefined],
  ["null", null],
  ["a number", 7],
  ["a list", [INPUT]],
  ["an operator", { $gt: "" }],
  ["empty", ""],
  ["blank", " \u2003"],
  ["a dot", "."],
  ["two dots", ".."],
  ["too long", INPUT + LONG],
  ["a line break", `${INPUT}\n`],
  ["NUL", `${INPUT}\u0000`],
  ["C1 control", `${INPUT}\u0085`],
  ["a lone surrogate", `${INPUT}\ud800`],
];
const badTexts = badNames.filter(([what]) =>
  [
    "missing",
    "null",
    "a number",
    "a list",
    "an operator",
    "empty",
    "blank",
    "NUL",
    "a lone surrogate",
  ].includes(what),
);
const badTimes: readonly unknown[] = [
  "yesterday",
  "2026-01-31",
  "2026-02-30T00:00:00Z",
  "99999-01-01T00:00:00Z",
  // The first year that databases know is 0001.
  "0000-12-31T23:59:59Z",
  "0001-01-01T00:00:00+00:01",
  "+099999-01-01T00:00:00Z",
  "2026-01-31T24:00:00Z",
  "",
  0,
  null,
  { $date: 0 },
];
const badSeqs: readonly unknown[] = [-1, 1.5, "1", null, [1], 2 ** 53];
const badPayloads: readonly (readonly unknown[])[] = [[], [null], [7], [[]], [[INPUT]], [true], [""]];

/** The payload with one field replaced; `undefined` leaves it out. */
function spoilt(payload: Readonly<Record<string, unknown>>, field: string, value: unknown) {
  const { [field]: _, ...rest } = payload;
  return value === undefined ? rest : { ...rest, [field]: value };
}

export const BAD_INPUT: Readonly<Record<string, Conversation>> = {
  async "bad payloads are refused by path, never echoed, and nothing is stored"(place) {
    const room = place.room();
    const link = await place.connect();
    await link.call("join_room", room);
    const send = { room, user_id: "ada", message: "good" };
    const tries: { event: string; args: readonly unknown[]; path: string }[] = [];
    for (const event of ["send_message", "join_room", "leave_room"]) {
      for (const args of badPayloads) {
        // A list is an object without the fields, and an empty text a plain room name, though a bad one.
        const named = Array.isArray(args[0]) || (args[0] === "" && event !== "send_message");
        tries.push({ event, args, path: named ? "room" : "" });
      }
      for (const [, name] of badNames)
        tries.push({ event, args: [spoilt(send, "room", name)], path: "room" });
    }
    for (const [, name] of badNames) {
      tries.push({ event: "send_message", args: [spoilt(send, "user_id", name)], path: "user_id" });
      if (name === undefined) continue;
      tries.push({ event: "send_message", args: [spoilt(send, "client_id", name)], path: "client_id" });
      tries.push({ event: "join_room", args: [{ room, user_id: name }], path: "user_id" });
    }
    for (const [, text] of badTexts)
      tries.push({ event: "send_message", args: [spoilt(send, "message", text)], path: "message" });
    for (const timestamp of badTimes)
      tries.push({ event: "send_message", args: [{ ...send, timestamp }], path: "timestamp" });
    for (const since of badSeqs) tries.push({ event: "join_room", args: [{ room, since }], path: "since" });
    for (const epoch of ["", "no epoch", 7, null, LONG])
      tries.push({ event: "join_room", args: [{ room, since: 0, epoch }], path: "epoch" });

    const answers = await Promise.all(tries.map(({ event, args }) => link.call(event, ...args)));
    for (const [index, answer] of answers.entries()) {
      const { event, args, path } = tries[index] as (typeof tries)[number];
      const error = {
        ...refused("invalid_payload").error,
        issues: expect.arrayContaining([{ path, message: expect.any(String) }]),
      };
      expect([event, args, answer]).toEqual([event, args, { ok: false, error }]);
      expect(JSON.stringify(answer)).not.toContain(INPUT);
    }
    expect(await link.call("send_message", {})).toMatchObject({
      error: { issues: [{ path: "room" }, { path: "message" }] },
    });
    expect(await link.call("send_message", send)).toMatchObject({ ok: true, seq: 1 });
    expect(live(link)).toHaveLength(1);
    await link.close();
  },

  async "the longest names and texts are fine, a longer text is too large"(place) {
    const start = place.room();
    const room = start + "🌱".repeat(128 - start.length);
    const link = await place.connect();
    expect(await link.call("join_room", room)).toMatchObject({ ok: true, room });
    const user_id = "ü".repeat(128);
    const named = { room, user_id, message: "a", client_id: "𝒰".repeat(128) };
    expect(await link.call("send_message", named)).toMatchObject({ seq: 1, duplicate: false });
    expect(await link.call("send_message", named)).toMatchObject({ seq: 1, duplicate: true });
    const say = (message: string) => link.call("send_message", { room, user_id, message });
    expect(await say("é".repeat(8_192))).toMatchObject({ ok: true, seq: 2 });
    expect(await say(`${"é".repeat(8_192)}x`)).toEqual(refused("payload_too_large"));
    expect(await say("x".repeat(16_385))).toEqual(refused("payload_too_large"));
    expect(await say("x".repeat(16_384))).toMatchObject({ ok: true, seq: 3 });
    await link.close();
  },

  async "a frame over the transport's limit closes its connection and harms nobody else"(place) {
    const room = place.room();
    const [giant, other] = [await place.connect(), await place.connect()];
    await Promise.all([giant.call("join_room", room), other.call("join_room", room), giant.steady]);
    giant.tell("send_message", { room, user_id: "ada", message: "x".repeat(1_000_001) });
    await giant.closed;
    expect(await other.call("send_message", { room, user_id: "bob", message: "unharmed" })).toMatchObject({
      ok: true,
      seq: 1,
    });
    await other.close();
  },
};
