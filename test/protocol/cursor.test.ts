import { describe, expect, test } from "bun:test";
import type { Epoch, RoomName, Seq, UserId } from "../../src/domain/ids.ts";
import type { Millis } from "../../src/domain/time.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { roomCursor, roomsCursor, userCursor } from "../../src/protocol/cursor.ts";

const room = "lobby" as RoomName;
const user = "anna" as UserId;
const place = { kind: "before", seq: 7 as Seq, epoch: "e-1" as Epoch } as const;
const instant = 1_770_000_000_000 as Millis;

function issuesOf(read: () => unknown) {
  try {
    read();
  } catch (error) {
    if (error instanceof ChatError) return { code: error.code, issues: error.details.issues };
  }
  return undefined;
}
const unreadable = {
  code: "invalid_request" as const,
  issues: [{ path: "cursor", message: "must be a next_cursor of this very list" }],
};

describe("a cursor", () => {
  test("reads back the place that was written, and what was asked", () => {
    const asked = { from: instant, after: 3 as Seq };
    expect(roomCursor(room).read(roomCursor(room).write(place, asked))).toEqual({ place, asked });
    const past = { receivedAt: instant, id: "01a2" };
    const ofRoom = { to: instant, room };
    expect(userCursor(user).read(userCursor(user).write(past, ofRoom))).toEqual({
      place: past,
      asked: ofRoom,
    });
    const active = { lastMessageAt: instant, room };
    expect(roomsCursor().read(roomsCursor().write(active, {}))).toEqual({ place: active, asked: {} });
  });

  test("continues no other list", () => {
    const text = roomCursor(room).write(place, {});
    for (const other of [roomCursor("hall" as RoomName), userCursor(user), roomsCursor()]) {
      expect(issuesOf(() => other.read(text))).toEqual(unreadable);
    }
  });

  test("refuses what write did not make", () => {
    const cursor = roomCursor(room);
    const text = cursor.write(place, {});
    const packed = JSON.parse(Buffer.from(text, "base64url").toString()) as [
      string,
      Record<string, unknown>,
      object,
    ];
    const forged = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
    expect(cursor.read(forged(packed))).toEqual({ place, asked: {} });
    for (const wrong of [
      "",
      "*",
      `${text}A`,
      text.slice(0, -3),
      forged(null),
      forged([]),
      forged([packed[0]]),
      forged([packed[0], packed[1]]),
      forged([packed[0], { ...packed[1], s: -1 }, {}]),
      forged([packed[0], { ...packed[1], s: "7" }, {}]),
      forged([packed[0], { ...packed[1], d: "sideways" }, {}]),
      forged([packed[0], { ...packed[1], more: 1 }, {}]),
      forged([packed[0], packed[1], { after: -1 }]),
      forged([packed[0], packed[1], { from: "now" }]),
      forged([packed[0], packed[1], { room: "hall" }]),
      forged([...packed, 1]),
      forged("a".repeat(LIMITS.cursorCharsMax)),
    ]) {
      expect(issuesOf(() => cursor.read(wrong))).toEqual(unreadable);
    }
  });

  test("fits its ceiling and a URL as it is, whatever the names", () => {
    for (const name of ["👋".repeat(128), '"'.repeat(128), "\u2028".repeat(128)]) {
      const asked = { from: instant, to: instant, room: name as RoomName };
      for (const text of [
        roomsCursor().write({ lastMessageAt: instant, room: name as RoomName }, {}),
        userCursor(name as UserId).write({ receivedAt: instant, id: "i".repeat(36) }, asked),
      ]) {
        expect(text.length).toBeLessThanOrEqual(LIMITS.cursorCharsMax);
        expect(text).toMatch(/^[0-9A-Za-z_-]+$/);
      }
    }
  });
});
