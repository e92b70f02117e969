/**
 * What every store keeps: one suite, run by each implementation of MessageRepository. An implementation that cannot keep
 * a promise names the test and the reason in `gaps`; a gap that has closed turns red.
 */

import { describe, expect, test } from "bun:test";
import type { RoomName, Seq } from "../../src/domain/ids.ts";
import type { Message } from "../../src/domain/message.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import type { MessageRepository, RoomPlace, UserPlace } from "../../src/repository/repository.ts";
import type { NaiveResult } from "./drafting.ts";
import {
  assured,
  at,
  byCodePoint,
  chance,
  draft,
  drafts,
  duplicate,
  naiveStore,
  newestFirst,
  range,
  refusal,
  room,
  seq,
  seqs,
  stored,
  user,
  WIDE,
} from "./drafting.ts";

/** A store of its own for one test. */
export interface OpenStore {
  readonly repository: MessageRepository;
  /** Closes the store and opens the same one again. */
  reopen(): Promise<MessageRepository>;
  /** Deletes the room's messages below that number past the repository, as an operator would. */
  truncate(room: RoomName, beforeSeq: number): Promise<void>;
  /** Closes what is open and removes the store. */
  dispose(): Promise<void>;
}

export function repositoryContract(
  name: string,
  open: () => Promise<OpenStore>,
  gaps: Readonly<Record<string, string>> = {},
): void {
  const seed = Number(process.env.CONTRACT_SEED ?? Math.floor(Math.random() * 2 ** 31));
  describe(`${name} keeps the repository's contract (CONTRACT_SEED=${seed})`, () => {
    const titles = new Set<string>();
    const keeps = (title: string, body: (store: OpenStore) => Promise<void>) => {
      titles.add(title);
      const run = async () => {
        const store = await open();
        try {
          await body(store);
        } finally {
          await store.dispose();
        }
      };
      const reason = gaps[title];
      if (reason === undefined) test(title, run);
      else test.failing(`${title} [gap: ${reason}]`, run);
    };

    keeps("append numbers each room 1, 2, 3, within and across batches", async ({ repository }) => {
      const first = await repository.append([draft("a"), draft("b"), draft("a"), draft("c"), draft("b")]);
      expect(first.map((result) => [stored(result).room, stored(result).seq])).toEqual([
        ["a", 1],
        ["b", 1],
        ["a", 2],
        ["c", 1],
        ["b", 2],
      ] as [RoomName, Seq][]);
      const second = await repository.append([draft("b"), draft("a"), draft("a")]);
      expect(second.map((result) => Number(stored(result).seq))).toEqual([3, 3, 4]);
      expect((await repository.heads([room("a"), room("b"), room("c")])).seqs.map(Number)).toEqual([4, 3, 1]);
    });

    keeps("append returns the message as it was drafted", async ({ repository }) => {
      const said = draft("a", { text: "as it is", receivedAt: 5, timestamp: -86_400_000 });
      const message = stored((await repository.append([said]))[0]);
      const expected: Message = {
        id: said.id,
        room: said.room,
        seq: seq(1),
        userId: said.userId,
        text: said.text,
        timestamp: said.timestamp,
        receivedAt: said.receivedAt,
      };
      expect(message).toEqual(expected);
      expect((await repository.readAfter(room("a"), seq(0), WIDE)).messages).toEqual([expected]);
    });

    keeps("append of nothing stores nothing", async ({ repository }) => {
      expect(await repository.append([])).toEqual([]);
      expect((await repository.readRooms({ before: null, roomsMax: 10 })).rooms).toEqual([]);
    });

    keeps("append takes the largest batch in one call", async ({ repository }) => {
      const results = await repository.append(drafts("a", LIMITS.batchMessagesMax));
      expect(results.map((result) => Number(stored(result).seq))).toEqual(range(1, LIMITS.batchMessagesMax));
      expect(Number((await repository.head(room("a"))).seq)).toBe(LIMITS.batchMessagesMax);
    });

    keeps("append stores a client id once within one batch", async ({ repository }) => {
      const results = await repository.append([
        draft("a", { client: "c1", text: "one" }),
        draft("a", { client: "c1", text: "one", timestamp: 99, receivedAt: 99 }),
        draft("a", { text: "two" }),
        draft("a", { client: "c1", text: "other" }),
        draft("a", { text: "three" }),
      ]);
      const first = stored(results[0]);
      expect(duplicate(results[1])).toEqual(first);
      expect(Number(stored(results[2]).seq)).toBe(2);
      expect(refusal(results[3])).toBe("conflict");
      expect(Number(stored(results[4]).seq)).toBe(3);
      expect(seqs((await repository.readAfter(room("a"), seq(0), WIDE)).messages)).toEqual([1, 2, 3]);
    });

    keeps("append answers a client id's retry with the first message, also after a reopen", async (store) => {
      const first = stored((await store.repository.append([draft("a", { client: "c1", text: "one" })]))[0]);
      await store.repository.append(drafts("a", 3));
      const retry = () => draft("a", { client: "c1", text: "one", timestamp: 7_777, receivedAt: 8_888 });
      expect(duplicate((await store.repository.append([retry()]))[0])).toEqual(first);
      const reopened = await store.reopen();
      const results = await reopened.append([
        draft("a", { text: "next", receivedAt: 9_000 }),
        retry(),
        draft("a", { client: "c1", text: "one " }),
      ]);
      expect(Number(stored(results[0]).seq)).toBe(5);
      expect(duplicate(results[1])).toEqual(first);
      expect(refusal(results[2])).toBe("conflict");
      expect(seqs((await reopened.readAfter(room("a"), seq(0), WIDE)).messages)).toEqual(range(1, 5));
    });

    keeps("append keeps client ids of other rooms and users apart", async ({ repository }) => {
      const results = await repository.append([
        draft("a", { client: "c", user: "ann" }),
        draft("b", { client: "c", user: "ann", text: "other" }),
        draft("a", { client: "c", user: "bob", text: "another" }),
        draft("a", { client: "C", user: "ann", text: "case matters" }),
        draft("a", { user: "ann" }),
        draft("a", { user: "ann" }),
      ]);
      expect(results.map((result) => result.kind)).toEqual(Array(6).fill("stored"));
    });

    keeps("append leaves no hole where a batch holds duplicates and conflicts", async ({ repository }) => {
      await repository.append([
        draft("a", { client: "x", text: "x" }),
        draft("b", { client: "y", text: "y" }),
      ]);
      const results = await repository.append([
        draft("a", { client: "x", text: "x" }),
        draft("b", { text: "b2" }),
        draft("b", { client: "y", text: "not y" }),
        draft("a", { text: "a2" }),
        draft("b", { client: "y", text: "y" }),
        draft("b", { client: "z", text: "b3" }),
      ]);
      expect(results.map((result) => result.kind)).toEqual([
        "duplicate",
        "stored",
        "rejected",
        "stored",
        "duplicate",
        "stored",
      ]);
      for (const [name, last] of [
        ["a", 2],
        ["b", 3],
      ] as const)
        expect(seqs((await repository.readAfter(room(name), seq(0), WIDE)).messages)).toEqual(range(1, last));
    });

    keeps("append raises receivedAt where the clock went back", async (store) => {
      const clock = [50, 20, 60, 0];
      const results = await store.repository.append(clock.map((receivedAt) => draft("a", { receivedAt })));
      expect(results.map((result) => stored(result).receivedAt)).toEqual([at(50), at(50), at(60), at(60)]);
      expect(results.map((result) => stored(result).timestamp)).toEqual(clock.map(at));
      expect(stored((await store.repository.append([draft("b", { receivedAt: 10 })]))[0]).receivedAt).toBe(
        at(10),
      );
      const reopened = await store.reopen();
      const later = await reopened.append([draft("a", { receivedAt: 1 }), draft("a", { receivedAt: 61 })]);
      expect(later.map((result) => stored(result).receivedAt)).toEqual([at(60), at(61)]);
      const read = (await reopened.readAfter(room("a"), seq(0), WIDE)).messages;
      expect(read.map((message) => message.receivedAt)).toEqual([50, 50, 60, 60, 60, 61].map(at));
    });

    keeps("head of an unknown room is that of an empty one", async ({ repository }) => {
      const { epoch, ...bounds } = await repository.head(room("nobody"));
      expect(bounds).toEqual({ seq: seq(0), firstSeq: seq(1) });
      expect(epoch).toMatch(/^[0-9A-Za-z_-]{1,64}$/);
      const page = await repository.readAfter(room("nobody"), seq(0), WIDE);
      expect(page).toEqual({ head: { epoch, seq: seq(0), firstSeq: seq(1) }, messages: [], more: false });
      expect((await repository.readBefore(room("nobody"), null, WIDE)).messages).toEqual([]);
      const past = await repository.readByUser({ userId: user("nobody"), before: null, bounds: WIDE });
      expect(past).toEqual({ messages: [], more: false });
    });

    keeps("heads stand in the order asked, 0 for an unknown room", async ({ repository }) => {
      await repository.append([...drafts("a", 3), ...drafts("b", 2)]);
      const asked = ["b", "nobody", "a", "b"].map(room);
      expect((await repository.heads(asked)).seqs.map(Number)).toEqual([2, 0, 3, 2]);
      const { epoch } = await repository.head(room("a"));
      expect(await repository.heads([])).toEqual({ epoch, seqs: [] });
      const many = Array.from({ length: LIMITS.headPollRoomsMax }, (_, index) => room(`r${index}`));
      many[LIMITS.headPollRoomsMax - 1] = room("a");
      expect((await repository.heads(many)).seqs.map(Number).filter((value) => value !== 0)).toEqual([3]);
    });

    keeps("epoch lasts over a reopen and is new for a new store", async (store) => {
      const { epoch } = await store.repository.head(room("a"));
      await store.repository.append(drafts("a", 2));
      const reopened = await store.reopen();
      expect(await reopened.head(room("a"))).toEqual({ epoch, seq: seq(2), firstSeq: seq(1) });
      const other = await open();
      try {
        expect((await other.repository.head(room("a"))).epoch).not.toBe(epoch);
      } finally {
        await other.dispose();
      }
    });

    keeps("readAfter walks the room upwards without a hole", async ({ repository }) => {
      await repository.append([...drafts("a", 25), ...drafts("b", 3)]);
      const bounds = { messagesMax: 10, textBytesMax: 1_000_000 };
      const page = async (after: number) => repository.readAfter(room("a"), seq(after), bounds);
      const first = await page(0);
      expect([seqs(first.messages), first.more]).toEqual([range(1, 10), true]);
      expect(first.head).toMatchObject({ seq: 25, firstSeq: 1 });
      expect(first.messages.every((message) => message.room === "a")).toBe(true);
      const exact = await page(15);
      expect([seqs(exact.messages), exact.more]).toEqual([range(16, 25), false]);
      const last = await page(20);
      expect([seqs(last.messages), last.more]).toEqual([range(21, 25), false]);
      for (const beyond of [25, 26, Number.MAX_SAFE_INTEGER])
        expect((await page(beyond)).messages).toEqual([]);
    });

    keeps("readBefore walks the room downwards without a hole", async ({ repository }) => {
      await repository.append([...drafts("a", 25), ...drafts("b", 3)]);
      const bounds = { messagesMax: 10, textBytesMax: 1_000_000 };
      const page = async (before: number | null) =>
        repository.readBefore(room("a"), before === null ? null : seq(before), bounds);
      const newest = await page(null);
      expect([seqs(newest.messages), newest.more]).toEqual([range(16, 25).reverse(), true]);
      expect(newest.head).toMatchObject({ seq: 25, firstSeq: 1 });
      const exact = await page(11);
      expect([seqs(exact.messages), exact.more]).toEqual([range(1, 10).reverse(), false]);
      expect(seqs((await page(3)).messages)).toEqual([2, 1]);
      expect((await page(1)).messages).toEqual([]);
      expect((await page(0)).messages).toEqual([]);
      expect(seqs((await page(Number.MAX_SAFE_INTEGER)).messages)).toEqual(range(16, 25).reverse());
    });

    keeps(
      "reads stop after the text that reaches the byte bound, and give at least one message",
      async (store) => {
        // Ten texts of 20 bytes in 10 characters each: the bound is on bytes.
        await store.repository.append(drafts("a", 10, { text: "éééééééééé" }));
        const { repository } = store;
        for (const [textBytesMax, count] of [
          [1, 1],
          [20, 1],
          [21, 2],
          [60, 3],
          [199, 10],
          [10_000, 10],
        ] as const) {
          const bounds = { messagesMax: 100, textBytesMax };
          const up = await repository.readAfter(room("a"), seq(0), bounds);
          expect([seqs(up.messages), up.more]).toEqual([range(1, count), count < 10]);
          const down = await repository.readBefore(room("a"), null, bounds);
          expect([seqs(down.messages), down.more]).toEqual([range(11 - count, 10).reverse(), count < 10]);
          const past = await repository.readByUser({ userId: user("ann"), before: null, bounds });
          expect([seqs(past.messages), past.more]).toEqual([range(11 - count, 10).reverse(), count < 10]);
        }
      },
    );

    keeps("reads of a room keep to the range, from inclusive, to exclusive", async ({ repository }) => {
      // receivedAt of 1..12: 0 0 0 10 10 10 20 20 20 30 30 30
      await repository.append(
        range(0, 11).map((index) => draft("a", { receivedAt: Math.floor(index / 3) * 10 })),
      );
      const cases: { from?: number; to?: number; expected: number[] }[] = [
        { from: 10, expected: range(4, 12) },
        { to: 10, expected: range(1, 3) },
        { from: 10, to: 30, expected: range(4, 9) },
        { from: 9, to: 11, expected: range(4, 6) },
        { from: 10, to: 10, expected: [] },
        { from: 30, to: 10, expected: [] },
        { from: 31, expected: [] },
        { to: 0, expected: [] },
        { from: -1_000, to: 1_000, expected: range(1, 12) },
      ];
      for (const { from, to, expected } of cases) {
        const within = {
          ...(from === undefined ? {} : { from: at(from) }),
          ...(to === undefined ? {} : { to: at(to) }),
        };
        const up = await repository.readAfter(room("a"), seq(0), WIDE, within);
        expect([seqs(up.messages), up.more]).toEqual([expected, false]);
        expect(up.head).toMatchObject({ seq: 12, firstSeq: 1 });
        const down = await repository.readBefore(room("a"), null, WIDE, within);
        expect([seqs(down.messages), down.more]).toEqual([expected.toReversed(), false]);
        const past = await repository.readByUser({
          userId: user("ann"),
          before: null,
          bounds: WIDE,
          range: within,
        });
        expect(seqs(past.messages).toSorted((a, b) => a - b)).toEqual(expected);
      }
      const two = { messagesMax: 2, textBytesMax: 1_000_000 };
      const cut = await repository.readAfter(room("a"), seq(4), two, { from: at(10), to: at(20) });
      expect([seqs(cut.messages), cut.more]).toEqual([[5, 6], false]);
      const down = await repository.readBefore(room("a"), seq(10), two, { from: at(10) });
      expect([seqs(down.messages), down.more]).toEqual([[9, 8], true]);
    });

    keeps("readByUser is ordered by receipt and id, ties included", async ({ repository }) => {
      const ids = range(1, 24).map(() => Bun.randomUUIDv7());
      const shuffled = ids.map((_, index) => ids[(index * 7) % 24] ?? "");
      await repository.append(
        shuffled.map((id, index) => draft(`r${index % 3}`, { id, receivedAt: Math.floor(index / 8) * 5 })),
      );
      await repository.append(drafts("r1", 4, { user: "bob" }));
      const mine = async (within?: string) => {
        const messages: UserPlace[] = [];
        for (let before: UserPlace | null = null; ;) {
          const page = await repository.readByUser({
            userId: user("ann"),
            ...(within === undefined ? {} : { room: room(within) }),
            before,
            bounds: { messagesMax: 5, textBytesMax: 1_000_000 },
          });
          for (const message of page.messages) {
            expect(message.userId).toBe(user("ann"));
            if (within !== undefined) expect(message.room).toBe(room(within));
          }
          messages.push(...page.messages);
          before = page.messages.at(-1) ?? null;
          if (!page.more) return messages.map(({ receivedAt, id }) => ({ receivedAt, id }));
        }
      };
      const all = await mine();
      expect(all.length).toBe(24);
      expect(all).toEqual(all.toSorted(newestFirst));
      expect(new Set(all.map(({ id }) => id))).toEqual(new Set(ids));
      const narrowed = await mine("r1");
      expect(narrowed.length).toBe(8);
      expect(narrowed).toEqual(narrowed.toSorted(newestFirst));
      expect(await mine("unused")).toEqual([]);
    });

    keeps("readByUser keeps to the range where it walks on from a place", async ({ repository }) => {
      await repository.append(drafts("a", 20));
      const read = (before: UserPlace | null) =>
        repository.readByUser({
          userId: user("ann"),
          before,
          bounds: { messagesMax: 4, textBytesMax: 1_000_000 },
          range: { from: at(5), to: at(11) },
        });
      const first = await read(null);
      expect([seqs(first.messages), first.more]).toEqual([[11, 10, 9, 8], true]);
      const second = await read(assured(first.messages.at(-1)));
      expect([seqs(second.messages), second.more]).toEqual([[7, 6], false]);
      // A place above the range: the range decides.
      expect(seqs((await read({ receivedAt: at(1_000), id: "z" })).messages)).toEqual([11, 10, 9, 8]);
    });

    keeps("readByUser walked by place sees every message once while others are written", async (store) => {
      const { repository } = store;
      const before = await repository.append(drafts("a", 30));
      const seen: string[] = [];
      let place: UserPlace | null = null;
      for (let step = 0; ; step++) {
        const page = await repository.readByUser({
          userId: user("ann"),
          before: place,
          bounds: { messagesMax: 7, textBytesMax: 1_000_000 },
        });
        seen.push(...page.messages.map(({ id }) => id));
        place = page.messages.at(-1) ?? place;
        if (!page.more) break;
        await repository.append(drafts(`new${step}`, 3, { receivedAt: 1_000 + step }));
      }
      expect(seen.toReversed()).toEqual(before.map((result) => stored(result).id));
    });

    keeps("readRooms lists the most recently active first and walks by place", async ({ repository }) => {
      // Ties on purpose; names whose order differs between UTF-16 units and code points.
      const names = ["b", "a", "\u{1F600}", "\uFFFD", "é", "z", "ä"];
      await repository.append(names.map((name, index) => draft(name, { receivedAt: index < 5 ? 10 : 20 })));
      await repository.append([draft("a", { receivedAt: 30 }), draft("b", { receivedAt: 5 })]);
      const expected = [
        ...[["a", 2, 30] as const],
        ...["z", "ä"].map((name) => [name, 1, 20] as const).toSorted((x, y) => byCodePoint(y[0], x[0])),
        ...["b", "\u{1F600}", "\uFFFD", "é"]
          .map((name) => [name, name === "b" ? 2 : 1, 10] as const)
          .toSorted((x, y) => byCodePoint(y[0], x[0])),
      ].map(([name, last, ms]) => ({ room: room(name), seq: seq(last), lastMessageAt: at(ms) }));
      const all = await repository.readRooms({ before: null, roomsMax: 100 });
      expect(all).toEqual({ rooms: expected, more: false });
      const walked = [];
      for (let before: RoomPlace | null = null; ;) {
        const page = await repository.readRooms({ before, roomsMax: 3 });
        walked.push(...page.rooms);
        before = page.rooms.at(-1) ?? null;
        if (!page.more) break;
      }
      expect(walked).toEqual(expected);
      expect((await repository.readRooms({ before: null, roomsMax: 7 })).more).toBe(false);
    });

    keeps("readRooms walked by place shows every quiet room once while others speak", async (store) => {
      const { repository } = store;
      await repository.append(range(1, 20).map((index) => draft(`r${index}`, { receivedAt: index })));
      const seen: string[] = [];
      let before: RoomPlace | null = null;
      for (let step = 1; ; step++) {
        const page = await repository.readRooms({ before, roomsMax: 6 });
        seen.push(...page.rooms.map((summary) => summary.room));
        before = page.rooms.at(-1) ?? before;
        if (!page.more) break;
        await repository.append([
          draft("r20", { receivedAt: 100 + step }),
          draft(`new${step}`, { receivedAt: 200 }),
        ]);
      }
      expect(seen).toEqual(range(1, 20).map((index) => `r${21 - index}`));
    });

    keeps("truncated rooms say so and number on", async (store) => {
      await store.repository.append([...drafts("a", 10), ...drafts("b", 2)]);
      await store.truncate(room("a"), 7);
      const { repository } = store;
      expect(await repository.head(room("a"))).toMatchObject({ seq: 10, firstSeq: 7 });
      const after = await repository.readAfter(room("a"), seq(2), WIDE);
      expect(seqs(after.messages)).toEqual([7, 8, 9, 10]);
      expect(after.head).toMatchObject({ seq: 10, firstSeq: 7 });
      expect(seqs((await repository.readBefore(room("a"), null, WIDE)).messages)).toEqual([10, 9, 8, 7]);
      expect((await repository.readBefore(room("a"), seq(7), WIDE)).messages).toEqual([]);
      const ranged = await repository.readAfter(room("a"), seq(0), WIDE, { from: at(3), to: at(8) });
      expect(seqs(ranged.messages)).toEqual([7, 8]);
      expect(Number(stored((await repository.append([draft("a", { receivedAt: 50 })]))[0]).seq)).toBe(11);
      expect(await repository.head(room("b"))).toMatchObject({ seq: 2, firstSeq: 1 });
      expect(await (await store.reopen()).head(room("a"))).toMatchObject({ seq: 11, firstSeq: 7 });
    });

    keeps("rooms whose messages are all gone are not listed", async (store) => {
      await store.repository.append([...drafts("a", 5), ...drafts("b", 2)]);
      await store.truncate(room("a"), 6);
      const { rooms, more } = await store.repository.readRooms({ before: null, roomsMax: 1 });
      expect([rooms.map((summary) => String(summary.room)), more]).toEqual([["b"], false]);
      const page = await store.repository.readAfter(room("a"), seq(0), WIDE);
      expect([page.messages, page.more]).toEqual([[], false]);
    });

    keeps("rooms whose messages are all gone number on", async (store) => {
      await store.repository.append(drafts("a", 5));
      await store.truncate(room("a"), 6);
      // A store may skip numbers there, and gives none twice.
      const { seq: last, firstSeq } = await store.repository.head(room("a"));
      expect(Number(last)).toBeGreaterThanOrEqual(5);
      expect(Number(firstSeq)).toBe(last + 1);
      expect((await store.repository.heads([room("a")])).seqs).toEqual([last]);
      expect((await store.repository.readAfter(room("a"), seq(2), WIDE)).head).toMatchObject({
        seq: last,
        firstSeq,
      });
      const next = stored((await (await store.reopen()).append([draft("a", { receivedAt: 1 })]))[0]);
      expect([Number(next.seq), next.receivedAt]).toEqual([last + 1, at(4)]);
    });

    keeps("reads give one view of head and rows while appends go on", async ({ repository }) => {
      const a = room("a");
      let acked = 0;
      let writing = true;
      const failures: string[] = [];
      const reader = async (backwards: boolean) => {
        let seen = 0;
        while (writing) {
          const ackedBefore = acked;
          const page = backwards
            ? await repository.readBefore(a, null, { messagesMax: 20, textBytesMax: 100_000 })
            : await repository.readAfter(a, seq(ackedBefore), { messagesMax: 20, textBytesMax: 100_000 });
          const numbers = seqs(page.messages);
          if (backwards) numbers.reverse();
          const head = Number(page.head.seq);
          const first = backwards ? Math.max(1, head - 19) : ackedBefore + 1;
          const last = backwards ? head : Math.min(head, ackedBefore + 20);
          if (!Bun.deepEquals(numbers, range(first, last)))
            failures.push(`head ${head}, asked after ${ackedBefore}, got ${numbers}`);
          if (head < ackedBefore) failures.push(`acked ${ackedBefore}, then read head ${head}`);
          if (head < seen) failures.push(`head fell from ${seen} to ${head}`);
          seen = head;
          await new Promise((resolve) => setImmediate(resolve));
        }
      };
      const readers = [reader(true), reader(false), reader(true)];
      for (let batch = 0; batch < 30; batch++) {
        const results = await repository.append(drafts("a", 1 + (batch % 9), { receivedAt: batch }));
        acked = Number(stored(results.at(-1)).seq);
      }
      writing = false;
      await Promise.all(readers);
      expect(failures).toEqual([]);
    });

    keeps("names and texts come back as they were given", async (store) => {
      const names = [
        "😀".repeat(128),
        "x".repeat(128),
        `"quoted" 'and' \`ticked\``,
        "$where",
        "$gt",
        "a.b.c",
        "%_*?[a-z]",
        "'; DROP TABLE messages; --",
        "__proto__",
        "null",
        "é",
        "e\u0301",
        "ｆｕｌｌ",
        " padded ",
        "Case",
        "case",
        "中文 العربية עברית",
        "a/b\\c",
      ];
      const texts = [
        "new\nlines\r\nand\ttabs",
        "👩‍👩‍👧‍👦 \u{10FFFF} \uFEFF \u2028 \u0001",
        `{"$gt":""}`,
        "'\"`;--/*",
        "x".repeat(16_384),
        "ends in a backslash \\",
      ];
      const said = names.flatMap((name, index) => [
        draft(name, { user: name, client: name, text: texts[index % texts.length] ?? "", receivedAt: index }),
      ]);
      said.push(...texts.map((text, index) => draft("texts", { text, receivedAt: 100 + index })));
      const first = (await store.repository.append(said)).map(stored);
      const repository = await store.reopen();
      expect((await repository.append(said)).slice(0, names.length).map(duplicate)).toEqual(
        first.slice(0, names.length),
      );
      for (const [index, name] of names.entries()) {
        const expected = [assured(first[index])];
        expect((await repository.readAfter(room(name), seq(0), WIDE)).messages).toEqual(expected);
        const past = await repository.readByUser({ userId: user(name), before: null, bounds: WIDE });
        expect(past.messages).toEqual(expected);
      }
      const page = await repository.readAfter(room("texts"), seq(0), { ...WIDE, messagesMax: texts.length });
      expect(page.messages.map((message) => message.text)).toEqual(texts);
      const listed = await repository.readRooms({ before: null, roomsMax: 100 });
      expect(new Set(listed.rooms.map((summary) => String(summary.room)))).toEqual(
        new Set([...names, "texts"]),
      );
    });

    keeps("random batches end as in the naive model", async (store) => {
      const { below } = chance(seed);
      const model = naiveStore();
      let { repository } = store;
      for (let batch = 0; batch < 25; batch++) {
        const said = range(1, 1 + below(12)).map(() =>
          draft(`r${below(4)}`, {
            user: `u${below(3)}`,
            text: `t${below(3)}`,
            receivedAt: batch * 3 + below(20) - 10,
            timestamp: below(1_000),
            ...(below(2) === 0 ? {} : { client: `c${below(12)}` }),
          }),
        );
        const expected = said.map((each) => model.append(each));
        const results = await repository.append(said);
        expect(
          results.map((result): NaiveResult =>
            result.kind === "stored" || result.kind === "duplicate"
              ? { kind: result.kind, message: result.message }
              : { kind: "rejected" },
          ),
        ).toEqual(expected);
        if (below(8) === 0) repository = await store.reopen();
      }
      const all = [...model.rooms.values()].flat();
      for (const [name, messages] of model.rooms) {
        const from = at(below(80));
        const to = at(below(80));
        const page = await repository.readAfter(room(name), seq(0), WIDE);
        expect(page.messages).toEqual(messages);
        expect(page.head.seq).toBe(seq(messages.length));
        const ranged = await repository.readBefore(room(name), null, WIDE, { from, to });
        expect(ranged.messages).toEqual(
          messages.filter(({ receivedAt }) => receivedAt >= from && receivedAt < to).toReversed(),
        );
      }
      for (const speaker of ["u0", "u1", "u2"]) {
        const mine = all.filter(({ userId }) => userId === speaker).toSorted(newestFirst);
        const query = { userId: user(speaker), before: null, bounds: WIDE };
        expect((await repository.readByUser(query)).messages).toEqual(mine);
        expect((await repository.readByUser({ ...query, room: room("r1") })).messages).toEqual(
          mine.filter((message) => message.room === "r1"),
        );
      }
    });

    keeps("status is up after work, and a closed store refuses as unavailable", async ({ repository }) => {
      await repository.append([draft("a")]);
      expect(repository.status()).toEqual({ up: true });
      await repository.close();
      const operations: (() => Promise<unknown>)[] = [
        // Certainly not stored: a store may say so of each draft.
        async () => {
          for (const result of await repository.append([draft("a")]))
            if ("error" in result) throw result.error;
        },
        () => repository.head(room("a")),
        () => repository.heads([room("a")]),
        () => repository.readAfter(room("a"), seq(0), WIDE),
        () => repository.readBefore(room("a"), null, WIDE),
        () => repository.readByUser({ userId: user("ann"), before: null, bounds: WIDE }),
        () => repository.readRooms({ before: null, roomsMax: 1 }),
      ];
      for (const operation of operations) {
        const thrown = await operation().then(
          () => undefined,
          (error: unknown) => error,
        );
        expect(thrown).toBeInstanceOf(ChatError);
        expect(thrown).toMatchObject({ code: "storage_unavailable" });
      }
      await repository.close();
    });

    test(`${name} declares only gaps that exist`, () => {
      expect(Object.keys(gaps).filter((title) => !titles.has(title))).toEqual([]);
    });
  });
}
