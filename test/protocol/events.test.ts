import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Epoch, RoomName, Seq } from "../../src/domain/ids.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import {
  encodeJoined,
  encodeSent,
  errorToWire,
  joinedToWire,
  parseJoinRoom,
  parseLeaveRoom,
  parseSendMessage,
  sentToWire,
} from "../../src/protocol/events.ts";
import { encodeEntry, messageToWire } from "../../src/protocol/wire.ts";
import { anyMessage } from "../fixture/any-message.ts";

const refusalOf = (act: () => unknown): ChatError => {
  try {
    act();
  } catch (error) {
    if (error instanceof ChatError) return error;
    throw error;
  }
  throw new Error("was not refused");
};
const paths = (error: ChatError) => error.details.issues?.map(({ path }) => path);
const send = { room: "lobby", user_id: "ada", message: "hi" };

describe("parseSendMessage", () => {
  test("parseSendMessage takes the smallest and the fullest payload, and ignores unknown fields", () => {
    expect(parseSendMessage({ ...send, colour: "red", __proto__: { x: 1 } }, 100)).toEqual({
      room: "lobby" as never,
      userId: "ada" as never,
      text: "hi",
      textBytes: 2,
      timestamp: undefined,
      clientId: null,
    });
    const full = parseSendMessage(
      { ...send, message: "né", timestamp: "2026-01-31T10:05:00+01:00", client_id: "c" },
      100,
    );
    expect(full).toMatchObject({ textBytes: 3, timestamp: Date.UTC(2026, 0, 31, 9, 5), clientId: "c" });
  });

  test("parseSendMessage takes and refuses the same by its short way as by the schema's", () => {
    const outcome = (payload: unknown) => {
      try {
        return { ...parseSendMessage(payload, 20), timestamp: undefined };
      } catch (error) {
        return (error as ChatError).details.issues ?? (error as ChatError).code;
      }
    };
    const odd = fc.constantFrom(
      undefined,
      null,
      7,
      "",
      " ",
      ".",
      "..",
      "a\u0000",
      "\ud800",
      "x".repeat(129),
      [],
    );
    const field = fc.oneof(fc.string({ maxLength: 30 }), fc.string({ unit: "binary", maxLength: 4 }), odd);
    const taken = { short: 0 };
    fc.assert(
      fc.property(field, field, field, field, (room, user_id, message, client_id) => {
        const payload = { room, user_id, message, client_id };
        const short = outcome(payload);
        // A time of the sender's own takes the schema's way.
        expect(short).toEqual(outcome({ ...payload, timestamp: "2026-01-31T09:05:00.000Z" }));
        if (typeof short === "object" && !Array.isArray(short)) taken.short += 1;
      }),
      { numRuns: 1_000 },
    );
    expect(taken.short).toBeGreaterThan(20);
  });

  const wholes = [undefined, null, 5, Number.NaN, "lobby", true, [], [send], Buffer.from("x")];
  for (const payload of wholes) {
    test(`parseSendMessage refuses ${Bun.inspect(payload)} for a payload`, () => {
      expect(refusalOf(() => parseSendMessage(payload, 100)).code).toBe("invalid_payload");
    });
  }

  const fields: [string, unknown, string][] = [
    ["room", undefined, "room"],
    ["room", 5, "room"],
    ["room", { $gt: "" }, "room"],
    ["room", "", "room"],
    ["room", "x".repeat(129), "room"],
    ["user_id", ["ada"], "user_id"],
    ["user_id", "a\u0000", "user_id"],
    ["user_id", "\ud800", "user_id"],
    ["message", null, "message"],
    ["message", "", "message"],
    ["message", " \n", "message"],
    ["message", { $gt: "" }, "message"],
    ["message", "a\u0000", "message"],
    ["message", "\udfff", "message"],
    ["timestamp", "yesterday", "timestamp"],
    ["timestamp", 1_769_850_300_000, "timestamp"],
    ["timestamp", "99999-01-01T00:00:00Z", "timestamp"],
    ["client_id", "", "client_id"],
    ["client_id", 7, "client_id"],
  ];
  for (const [field, value, path] of fields) {
    test(`parseSendMessage names ${path} for ${field}=${JSON.stringify(value)?.slice(0, 20)}`, () => {
      const refusal = refusalOf(() => parseSendMessage({ ...send, [field]: value }, 100));
      expect(refusal.code).toBe("invalid_payload");
      expect(paths(refusal)).toEqual([path]);
    });
  }

  test("parseSendMessage never echoes the input", () => {
    const secret = "hunter2";
    const inputs = [
      secret,
      { room: { [secret]: secret } },
      { ...send, user_id: [secret] },
      { ...send, timestamp: secret },
    ];
    for (const input of inputs) {
      const wire = JSON.stringify(errorToWire(refusalOf(() => parseSendMessage(input, 100))));
      expect(wire).not.toContain(secret);
    }
  });

  test("parseSendMessage measures the text in bytes of UTF-8", () => {
    expect(parseSendMessage({ ...send, message: "é".repeat(50) }, 100).textBytes).toBe(100);
    for (const message of ["é".repeat(51), "x".repeat(101), "x".repeat(1_000_000)]) {
      expect(refusalOf(() => parseSendMessage({ ...send, message }, 100)).code).toBe("payload_too_large");
    }
  });
});

test("parseJoinRoom and parseLeaveRoom take the plain room name", () => {
  expect(parseJoinRoom("lobby")).toMatchObject({ room: "lobby" });
  expect(parseLeaveRoom("lobby")).toMatchObject({ room: "lobby" });
  expect(paths(refusalOf(() => parseJoinRoom(" ")))).toEqual(["room"]);
});

test("parseJoinRoom takes since and epoch, and refuses what is no place", () => {
  expect(parseJoinRoom({ room: "lobby", since: 0, epoch: "e1" })).toMatchObject({ since: 0, epoch: "e1" });
  for (const since of [-1, 1.5, "3", 2 ** 53, null]) {
    expect(paths(refusalOf(() => parseJoinRoom({ room: "lobby", since })))).toEqual(["since"]);
  }
  expect(paths(refusalOf(() => parseJoinRoom({ room: "lobby", epoch: "" })))).toEqual(["epoch"]);
});

test("joinedToWire says what was recovered, or why not, or neither", () => {
  const head = { epoch: "e1" as Epoch, seq: 7 as Seq, firstSeq: 1 as Seq };
  const room = "lobby" as RoomName;
  const base = { ok: true, room: "lobby", epoch: "e1", seq: 7, first_seq: 1 };
  expect(joinedToWire(room, head, { kind: "none" })).toEqual(base as never);
  expect(joinedToWire(room, head, { kind: "lost", reason: "ahead" })).toEqual({
    ...base,
    recovered: false,
    reason: "ahead",
  } as never);
  for (const through of [5, 7] as Seq[]) {
    expect(joinedToWire(room, head, { kind: "recovered", messages: [], through })).toEqual({
      ...base,
      recovered: true,
      messages: [],
      through,
      complete: through === 7,
    } as never);
  }
});

test("encodeJoined writes what joinedToWire says, of entries that are encoded already", () => {
  const head = { epoch: "e1" as Epoch, seq: 7 as Seq, firstSeq: 1 as Seq };
  const room = 'a "room"]}' as RoomName;
  for (const replay of [{ kind: "none" }, { kind: "lost", reason: "truncated" }] as const)
    expect(encodeJoined(room, head, replay)).toBe(JSON.stringify(joinedToWire(room, head, replay)));
  fc.assert(
    fc.property(fc.array(anyMessage, { maxLength: 5 }), (messages) => {
      const through = 7 as Seq;
      const kind = "recovered" as const;
      const expected = joinedToWire(room, head, { kind, through, messages: messages.map(messageToWire) });
      const encoded = encodeJoined(room, head, { kind, through, messages: messages.map(encodeEntry) });
      expect(encoded).toBe(JSON.stringify(expected));
    }),
  );
});

test("errorToWire shows the code, the advice and the issues, never the cause", () => {
  const error = new ChatError("rate_limited", { retryAfterMs: 50, cause: new Error("/etc/passwd") });
  expect(errorToWire(error)).toEqual({
    code: "rate_limited",
    message: "Too many at once; wait a moment.",
    retryable: true,
    retry_after_ms: 50,
  });
  const many = Object.fromEntries(Array.from({ length: 5 }, (_, index) => [`f${index}`, index]));
  expect(refusalOf(() => parseSendMessage(many, 1)).details.issues?.length ?? 0).toBeLessThanOrEqual(
    LIMITS.issuesMax,
  );
});

test("encodeSent writes what JSON.stringify would, for any text", () => {
  fc.assert(
    fc.property(anyMessage, fc.boolean(), (message, duplicate) => {
      expect(encodeSent(message, duplicate)).toBe(JSON.stringify(sentToWire(message, duplicate)));
    }),
    { numRuns: 2_000 },
  );
});
