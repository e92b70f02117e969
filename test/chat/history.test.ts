import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { createHistory, type RoomNext, type RoomStart } from "../../src/chat/history.ts";
import type { Epoch } from "../../src/domain/ids.ts";
import type { Message } from "../../src/domain/message.ts";
import { ChatError } from "../../src/errors.ts";
import { messageToWire } from "../../src/protocol/wire.ts";
import type { MessageRepository, RoomPlace, UserPlace } from "../../src/repository/repository.ts";
import { at, drafts, range, room, seq, seqs, user } from "../contract/drafting.ts";
import { openSqlite, scratch } from "../fixture/sqlite.ts";

const LOBBY = room("lobby");
const WIDE = { pageBytesMax: 1_000_000 };

let folder: Awaited<ReturnType<typeof scratch>>;
let repository: MessageRepository;
beforeEach(async () => {
  folder = await scratch();
  repository = await openSqlite(folder.path);
});
afterEach(async () => {
  await repository.close();
  await folder[Symbol.asyncDispose]();
});

const ofRoom = (start: RoomStart | RoomNext, messagesMax = 10) =>
  createHistory(repository, WIDE).ofRoom({ room: LOBBY, start, messagesMax });
const refusal = (promise: Promise<unknown>) =>
  promise.then(
    () => "answered",
    (error: unknown) => (error instanceof ChatError ? error : String(error)),
  );

function truncate(beforeSeq: number) {
  const operator = new Database(folder.path);
  operator.prepare("DELETE FROM messages WHERE seq < ?1").run(beforeSeq);
  operator.close();
}

test("ofRoom walks to the beginning and sees every message once, whatever is written meanwhile", async () => {
  await repository.append(drafts("lobby", 25));
  const seen: number[] = [];
  let start: RoomStart | RoomNext | null = { kind: "newest" };
  while (start !== null) {
    const page: Awaited<ReturnType<typeof ofRoom>> = await ofRoom(start, 10);
    seen.push(...seqs(page.messages));
    start = page.next;
    await repository.append(drafts("lobby", 3));
  }
  expect(seen).toEqual(range(1, 25).reverse());
});

test("ofRoom walks on from a place to what is newest by then", async () => {
  await repository.append(drafts("lobby", 25));
  const first = await ofRoom({ kind: "after", seq: seq(20), epoch: undefined }, 3);
  expect(seqs(first.messages)).toEqual([21, 22, 23]);
  await repository.append(drafts("lobby", 1));
  const second = await ofRoom(first.next as RoomNext, 3);
  expect(seqs(second.messages)).toEqual([24, 25, 26]);
  expect(second.next).toBeNull();
});

test("ofRoom keeps a page within its bytes, and never gives an empty one that goes on", async () => {
  await repository.append(drafts("lobby", 4, { text: "x".repeat(600) }));
  const history = createHistory(repository, { pageBytesMax: 500 });
  const page = await history.ofRoom({ room: LOBBY, start: { kind: "newest" }, messagesMax: 10 });
  expect(seqs(page.messages)).toEqual([4]);
  expect(page.next).toMatchObject({ kind: "before", seq: 4 } as object);
});

test.each([
  ["plain text", "x".repeat(16_000)],
  ["what JSON makes six times as long", "\u0001".repeat(2_700)],
  ["what UTF-8 makes three times as long", "日".repeat(5_300)],
  ["short texts", 'say "hi"'.repeat(40)],
])(
  "ofRoom and ofUser keep pages of %s within their bytes as JSON, and walk them without a hole",
  async (_, text) => {
    const pageBytesMax = 50_000;
    const history = createHistory(repository, { pageBytesMax });
    const textBytes = Buffer.byteLength(JSON.stringify(text));
    const count = 40 * Math.ceil(16_000 / textBytes);
    await repository.append(drafts("lobby", count, { text, user: "ada" }));
    const sizes: number[] = [];
    const took = (messages: readonly Message[]) => {
      expect(messages.length).toBeGreaterThan(0);
      sizes.push(Buffer.byteLength(JSON.stringify(messages.map(messageToWire))));
      return messages;
    };
    const starts: RoomStart[] = [{ kind: "newest" }, { kind: "after", seq: seq(0), epoch: undefined }];
    for (const first of starts) {
      const seen: number[] = [];
      for (let start: RoomStart | RoomNext | null = first; start !== null;) {
        const page: Awaited<ReturnType<typeof ofRoom>> = await history.ofRoom({
          room: LOBBY,
          start,
          messagesMax: 200,
        });
        seen.push(...seqs(took(page.messages)));
        start = page.next;
      }
      const all = range(1, count);
      expect(seen).toEqual(first.kind === "newest" ? all.reverse() : all);
    }
    const seen = new Set<string>();
    let before: UserPlace | null = null;
    do {
      const page: Awaited<ReturnType<typeof history.ofUser>> = await history.ofUser({
        userId: user("ada"),
        before,
        messagesMax: 200,
      });
      for (const { id } of took(page.messages as readonly Message[])) seen.add(id);
      before = page.next;
    } while (before !== null);
    expect(seen.size).toBe(count);
    expect(Math.max(...sizes)).toBeLessThan(pageBytesMax + 1_000);
    // Nor are they cut where there is no need.
    expect(sizes.length).toBeLessThan((3 * count * (textBytes + 600)) / (pageBytesMax - 17_000));
  },
);

test("ofRoom refuses what it cannot continue: another epoch, ahead, and below retention", async () => {
  await repository.append(drafts("lobby", 12));
  const { head } = await ofRoom({ kind: "newest" });
  const other = "another" as Epoch;
  const after = (place: number, epoch?: Epoch) => refusal(ofRoom({ kind: "after", seq: seq(place), epoch }));
  const before = (place: number, epoch = head.epoch) =>
    refusal(ofRoom({ kind: "before", seq: seq(place), epoch }));
  expect(await after(12, head.epoch)).toBe("answered");
  expect(await after(13)).toMatchObject({
    code: "invalid_request",
    details: { issues: [{ path: "after" }] },
  });
  expect(await after(3, other)).toMatchObject({
    code: "epoch_changed",
    details: { facts: { epoch: head.epoch } },
  });
  expect(await before(3, other)).toMatchObject({ code: "epoch_changed" });
  expect(await before(1)).toBe("answered");
  truncate(6);
  const gone = { code: "history_truncated", details: { facts: { first_seq: 6 } } };
  expect(await after(4)).toMatchObject(gone);
  expect(await after(5)).toBe("answered");
  expect(await before(6)).toMatchObject(gone);
  expect(await before(7)).toBe("answered");
  const newest = await ofRoom({ kind: "newest" }, 7);
  expect(seqs(newest.messages)).toEqual(range(6, 12).reverse());
});

test("ofRoom of a room that nobody wrote in is an empty list", async () => {
  const page = await ofRoom({ kind: "newest" });
  expect(page).toMatchObject({ messages: [], next: null, head: { seq: 0, firstSeq: 1 } } as object);
});

test("ofUser and rooms walk their lists to the end, and unknown users have an empty one", async () => {
  const history = createHistory(repository, WIDE);
  for (const index of range(1, 7))
    await repository.append(drafts(`room ${index}`, 2, { user: "ada", receivedAt: index }));
  const texts: string[] = [];
  let before: UserPlace | null = null;
  do {
    const page: Awaited<ReturnType<typeof history.ofUser>> = await history.ofUser({
      userId: user("ada"),
      before,
      messagesMax: 4,
      range: { from: at(2) },
    });
    texts.push(...page.messages.map((message) => `${message.room} ${Number(message.seq)}`));
    before = page.next;
  } while (before !== null);
  expect(texts).toHaveLength(12);
  expect(new Set(texts).size).toBe(12);
  expect(texts[0]).toStartWith("room 7");

  const rooms: string[] = [];
  let place: RoomPlace | null = null;
  do {
    const page: Awaited<ReturnType<typeof history.rooms>> = await history.rooms({
      before: place,
      roomsMax: 3,
    });
    rooms.push(...page.rooms.map((one) => one.room));
    place = page.next;
  } while (place !== null);
  expect(rooms).toEqual(
    range(1, 7)
      .reverse()
      .map((index) => `room ${index}`),
  );
  const nobody = await history.ofUser({ userId: user("nobody"), before: null, messagesMax: 4 });
  expect(nobody).toEqual({ messages: [], next: null });
});
