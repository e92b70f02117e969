import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createFeeds } from "../../src/chat/feeds.ts";
import { parseEpoch } from "../../src/domain/ids.ts";
import type { Message } from "../../src/domain/message.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import { assured, chance, drafts, range, room, seq, stored } from "../contract/drafting.ts";
import { type GatedRepository, gated, watchedLog } from "../fixture/gated.ts";
import { scratch, silentLog } from "../fixture/sqlite.ts";
import { openSqliteRepository } from "../../src/repository/sqlite/open.ts";

const LOBBY = room("lobby");
const epoch = (name: string) => assured(parseEpoch(name));
const EPOCH = epoch("one");
const openSqlite = (path: string, named = EPOCH) =>
  openSqliteRepository({ path, log: silentLog, newEpoch: () => named });
const seed = Number(process.env.FEEDS_SEED ?? Math.floor(Math.random() * 2 ** 31));

let folder: Awaited<ReturnType<typeof scratch>>;
beforeEach(async () => {
  folder = await scratch();
});
afterEach(() => folder[Symbol.asyncDispose]());

/** A room with members, on a store of its own. */
async function occupied({ shared = false } = {}) {
  const repository = gated(await openSqlite(folder.path), { shared });
  const { log, logged } = watchedLog();
  const told: number[] = [];
  const deafRooms = new Set<string>();
  const dismissed: string[] = [];
  /** How much had been told whenever members were given time to take it. */
  const reliefs: number[] = [];
  const clock = { ms: 0 };
  const gate: { relief: Promise<void> | undefined } = { relief: undefined };
  const watchers: { count: number; resolve: () => void }[] = [];
  const feeds = createFeeds({
    repository,
    deliver(name, entries) {
      if (deafRooms.has(name)) throw new Error("the sockets are on fire");
      told.push(...entries.map((entry) => Number(entry.seq)));
      for (const watcher of watchers) if (told.length >= watcher.count) watcher.resolve();
    },
    dismiss: (name) => dismissed.push(name),
    async relief() {
      reliefs.push(told.length);
      await gate.relief;
    },
    monotonicNow: () => clock.ms,
    log,
    metrics: createMetrics(),
  });
  async function occupy(name: string) {
    const hold = feeds.hold(room(name));
    hold.start(await repository.head(room(name)));
    feeds.setOccupied(room(name), true);
    hold.release();
  }
  await occupy(LOBBY);
  return {
    repository,
    occupy,
    feeds: {
      ...feeds,
      /** Takes what was committed in this epoch. */
      accept: (entries: readonly Message[]) => feeds.accept({ epoch: EPOCH, entries }),
    },
    bus: feeds.accept,
    told,
    deafRooms,
    dismissed,
    reliefs,
    gate,
    logged,
    toldOf(count: number) {
      const { promise, resolve } = Promise.withResolvers<void>();
      watchers.push({ count, resolve });
      if (told.length >= count) resolve();
      return promise;
    },
    async [Symbol.asyncDispose]() {
      await repository.close();
    },
  };
}

const append = async (repository: GatedRepository, count: number): Promise<Message[]> =>
  (await repository.append(drafts("lobby", count))).map(stored);

describe("accept", () => {
  test(`tells every number once and in order, whatever the bus does (FEEDS_SEED=${seed})`, async () => {
    const dice = chance(seed);
    await using lobby = await occupied();
    const { repository, feeds, told, toldOf } = lobby;
    let late: Message[][] = [];
    let total = 0;
    for (const _ of range(1, 150)) {
      const batch = await append(repository, 1 + dice.below(6));
      total += batch.length;
      const fate = dice.below(5);
      if (fate === 0) continue; // lost
      if (fate === 1) {
        late.push(batch);
        continue;
      }
      feeds.accept(batch);
      if (fate === 2) feeds.accept(batch);
      if (fate === 3) {
        for (const former of late.reverse()) feeds.accept(former);
        late = [];
      }
    }
    const last = await append(repository, 1);
    feeds.accept(last);
    await toldOf(total + 1);
    expect(told).toEqual(range(1, total + 1));
  });

  test("goes on in order when much more comes during the reading of a gap than may wait", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, toldOf } = lobby;
    await append(repository, 3);
    const reading = repository.hold("readAfter", "answered");
    feeds.accept(await append(repository, 2));
    await reading.reached;
    const count = LIMITS.feedPendingMax + 200;
    for (const _ of range(1, count / 8)) feeds.accept(await append(repository, 8));
    expect(told).toEqual([]);
    reading.release();
    await toldOf(5 + count);
    expect(told).toEqual(range(1, 5 + count));
  });

  test("leaves a gap that cannot be read to the next beat, and tells nothing after it until then", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, logged } = lobby;
    await append(repository, 2);
    const unread = logged("room_gap_unread");
    repository.fail("readAfter", new ChatError("storage_unavailable"));
    feeds.accept(await append(repository, 1));
    await unread;
    expect(told).toEqual([]);
    // The question for the heads may fail too; the room stays in doubt.
    repository.fail("heads", new ChatError("storage_unavailable"));
    await feeds.beat();
    expect(told).toEqual([]);
    await feeds.beat();
    expect(told).toEqual([1, 2, 3]);
  });

  test("tells nothing over a hole that retention left: members go, and what comes later is told again", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, dismissed, logged } = lobby;
    const delete_ = (beforeSeq: number) => {
      const operator = new Database(folder.path);
      operator.prepare("DELETE FROM messages WHERE seq < ?1").run(beforeSeq);
      operator.close();
    };
    feeds.accept(await append(repository, 2));
    await append(repository, 3); // lost by the bus
    delete_(5);
    const gone = logged("room_gap_gone");
    feeds.accept(await append(repository, 1));
    await gone;
    // 5 and 6 are there: told now, they would follow on 2.
    expect(told).toEqual([1, 2]);
    expect(dismissed).toEqual(["lobby"]);
    const hold = feeds.hold(LOBBY);
    expect([2, 4].map((since) => hold.remembers(seq(since)))).toEqual([false, false]);
    const head = await repository.head(LOBBY);
    expect(head).toMatchObject({ firstSeq: 5, seq: 6 });
    expect(hold.start(head).delivered()).toBe(seq(6));
    expect(hold.known()).toMatchObject({ firstSeq: 5, seq: 6 });
    hold.release();
    feeds.accept(await append(repository, 1));
    expect(told).toEqual([1, 2, 7]);

    const lost = await append(repository, 3);
    delete_(11);
    const allGone = logged("room_gap_gone");
    feeds.accept(lost.slice(2));
    await allGone;
    expect(dismissed).toEqual(["lobby", "lobby"]);
    feeds.accept(await append(repository, 1));
    expect(told).toEqual([1, 2, 7, 11]);
  });

  test("lets the members go when a number that they were told comes again with another message", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, dismissed } = lobby;
    const batch = await append(repository, 3);
    feeds.accept(batch);
    feeds.accept(batch);
    expect(dismissed).toEqual([]);
    const again = batch.slice(1).map((message) => ({ ...message, id: Bun.randomUUIDv7() }));
    feeds.accept(again);
    expect(told).toEqual([1, 2, 3]);
    expect(dismissed).toEqual(["lobby"]);
    // Those who come back compare with the store, and begin anew.
    const back = feeds.hold(LOBBY);
    expect(back.known()).toBeNull();
    expect(back.remembers(seq(1))).toBe(false);
    back.release();
  });

  test("ignores rooms that nobody here is in", async () => {
    await using lobby = await occupied();
    const elsewhere = (await lobby.repository.append(drafts("elsewhere", 2))).map(stored);
    lobby.feeds.accept(elsewhere);
    lobby.feeds.setOccupied(LOBBY, false);
    lobby.feeds.accept(await append(lobby.repository, 1));
    expect(lobby.told).toEqual([]);
  });
});

describe("beat", () => {
  test("finds what nobody told of where others write too, and asks nothing where they do not", async () => {
    await using lobby = await occupied({ shared: true });
    await append(lobby.repository, 700);
    await lobby.feeds.beat();
    await lobby.toldOf(700);
    expect(lobby.told).toEqual(range(1, 700));
  });

  test("finds what a commit of unknown outcome left, once it was doubted", async () => {
    await using lobby = await occupied();
    await append(lobby.repository, 2);
    await lobby.feeds.beat();
    expect(lobby.told).toEqual([]);
    lobby.feeds.doubt([LOBBY, room("nobody is here")]);
    await lobby.feeds.beat();
    expect(lobby.told).toEqual([1, 2]);
  });

  test("finds what lands only after the store was given up", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told } = lobby;
    feeds.doubt([LOBBY]);
    await feeds.beat();
    await append(repository, 1);
    await feeds.beat();
    expect(told).toEqual([1]);
    for (const _ of range(1, (2 * LIMITS.storeTimeoutMs) / LIMITS.headPollMs)) await feeds.beat();
    await append(repository, 1);
    await feeds.beat();
    expect(told).toEqual([1]);
  });

  test("finds what lands after a disk hung for longer than a doubt lasts", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told } = lobby;
    feeds.doubt([LOBBY]);
    // Reads answer while the disk hangs, without what it hangs on.
    repository.say({ up: false, reason: "the store is too slow" });
    for (const _ of range(1, (4 * LIMITS.storeTimeoutMs) / LIMITS.headPollMs)) await feeds.beat();
    await append(repository, 1);
    repository.say(null);
    await feeds.beat();
    expect(told).toEqual([1]);
  });

  test("lets the members go when the store went back and stays there, not when it only looked so", async () => {
    await using lobby = await occupied({ shared: true });
    const { repository, feeds, told, dismissed } = lobby;
    await using here = await scratch();
    await using there = await scratch();
    const [newer, older] = [await openSqlite(here.path), await openSqlite(there.path)];
    await older.append(drafts("lobby", 2));
    await repository.close();
    repository.replace(newer);
    feeds.accept(await append(repository, 5));
    repository.replace(older);
    await feeds.beat();
    repository.replace(newer);
    await feeds.beat();
    feeds.accept(await append(repository, 1));
    expect(told).toEqual(range(1, 6));
    expect(dismissed).toEqual([]);
    repository.replace(older);
    await feeds.beat();
    await feeds.beat();
    expect(dismissed).toEqual(["lobby"]);
    const back = feeds.hold(LOBBY);
    back.start(await repository.head(LOBBY));
    back.release();
    feeds.accept(await append(repository, 1));
    expect(told).toEqual([...range(1, 6), 3]);
    await newer.close();
  });
});

describe("a fault", () => {
  test("in one room's delivery lets its members go, and the other rooms hear", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, dismissed, deafRooms, logged } = lobby;
    const aside = feeds.hold(room("aside"));
    aside.start(await repository.head(room("aside")));
    feeds.setOccupied(room("aside"), true);
    aside.release();
    deafRooms.add("lobby");
    const said = logged("delivery_failed");
    const batch = [...drafts("lobby", 2), ...drafts("aside", 3)];
    feeds.accept((await repository.append(batch)).map(stored));
    expect(told).toEqual([1, 2, 3]);
    expect(dismissed).toEqual(["lobby"]);
    await said;
  });

  test("in a join's catch-up leaves what came behind the gap to the next beat", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told } = lobby;
    await append(repository, 2); // lost by the bus
    const hold = feeds.hold(LOBBY);
    const feed = hold.start(await repository.head(LOBBY));
    const reading = repository.hold("readAfter", "before");
    const joined = feed.advanceTo(seq(2));
    await reading.reached;
    feeds.accept(await append(repository, 1));
    repository.close(); // what the held read meets when it goes on
    reading.release();
    await expect(joined).rejects.toMatchObject({ code: "storage_unavailable" });
    hold.release();
    await using here = await scratch();
    const back = await openSqlite(here.path);
    await back.append(drafts("lobby", 3));
    repository.replace(back);
    await feeds.beat();
    expect(told).toEqual([1, 2, 3]);
    await back.close();
  });
});

describe("another epoch of the store", () => {
  test("is never delivered; the next beat lets the members go at once, and a join begins there", async () => {
    await using lobby = await occupied();
    const { repository, feeds, bus, told, dismissed } = lobby;
    feeds.accept(await append(repository, 2));
    await using there = await scratch();
    const other = await openSqlite(there.path, epoch("two"));
    await other.append(drafts("lobby", 1));
    repository.replace(other);
    // As long as the former one: only the epoch tells them apart.
    const batch = await append(repository, 1);
    bus({ epoch: epoch("two"), entries: batch });
    expect(told).toEqual([1, 2]);
    await feeds.beat();
    expect(dismissed).toEqual(["lobby"]);
    const back = feeds.hold(LOBBY);
    expect(back.start(await repository.head(LOBBY)).delivered()).toBe(seq(2));
    back.release();
    feeds.accept(batch); // of the former epoch, late
    bus({ epoch: epoch("two"), entries: await append(repository, 1) });
    expect(told).toEqual([1, 2, 3]);
    await other.close();
  });

  test("that is found while a gap is read is not delivered", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, dismissed, logged } = lobby;
    await append(repository, 2); // lost by the bus
    const third = await append(repository, 1);
    await using there = await scratch();
    const other = await openSqlite(there.path, epoch("two"));
    await other.append(drafts("lobby", 5));
    repository.replace(other);
    const unread = logged("room_gap_unread");
    feeds.accept(third);
    await unread;
    expect(told).toEqual([]);
    expect(dismissed).toEqual(["lobby"]);
    await other.close();
  });

  test("does not take what waited for a join's first answer in the former one", async () => {
    await using lobby = await occupied();
    const { repository, feeds } = lobby;
    const aside = room("aside");
    const hold = feeds.hold(aside);
    const { seq: third, ...rest } = assured((await append(repository, 3))[2]);
    feeds.accept([{ ...rest, room: aside, seq: third }]);
    const feed = hold.start({ epoch: epoch("two"), seq: seq(2), firstSeq: seq(1) });
    expect(feed.delivered()).toBe(seq(2));
    expect(hold.remembers(seq(1))).toBe(false);
    hold.release();
  });

  test("lets the members go at the first join that sees it, and begins there", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, dismissed } = lobby;
    feeds.accept(await append(repository, 5));
    const hold = feeds.hold(LOBBY);
    const head = await repository.head(LOBBY);
    const feed = hold.start({ ...head, epoch: epoch("another"), seq: seq(2) });
    expect(dismissed).toEqual(["lobby"]);
    expect(feed.delivered()).toBe(seq(2));
    hold.release();
    expect(told).toEqual(range(1, 5));
  });

  test("ends a join that began in the former one", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told } = lobby;
    await append(repository, 3);
    const head = await repository.head(LOBBY);
    const [late, early] = [feeds.hold(LOBBY), feeds.hold(LOBBY)];
    const feed = late.start(head);
    const reading = repository.hold("readAfter", "answered");
    const joined = feed.advanceTo(head.seq);
    await reading.reached;
    early.start({ ...head, epoch: epoch("another"), seq: seq(0) });
    reading.release();
    await expect(joined).rejects.toMatchObject({ code: "storage_unavailable" });
    expect(told).toEqual([]);
    for (const hold of [late, early]) hold.release();
  });

  test("is not overturned by a join that asked before another one found it", async () => {
    await using lobby = await occupied();
    const { repository, feeds, bus, told, dismissed } = lobby;
    const [late, early] = [feeds.hold(LOBBY), feeds.hold(LOBBY)];
    const former = await repository.head(LOBBY);
    const [message] = await append(repository, 1);
    early.start({ ...former, epoch: epoch("another") });
    expect(dismissed).toEqual(["lobby"]);
    expect(() => late.start(former)).toThrow(expect.objectContaining({ code: "storage_unavailable" }));
    expect(dismissed).toEqual(["lobby"]);
    bus({ epoch: epoch("another"), entries: [assured(message)] });
    expect(told).toEqual([1]);
    for (const hold of [late, early]) hold.release();
  });

  test("that two first joins of a room find one each is settled by the next beat", async () => {
    await using lobby = await occupied();
    const { repository, feeds, dismissed } = lobby;
    const aside = room("aside");
    const head = await repository.head(aside);
    const [first, second] = [feeds.hold(aside), feeds.hold(aside)];
    first.start({ ...head, epoch: epoch("another") });
    feeds.setOccupied(aside, true);
    expect(() => second.start(head)).toThrow(expect.objectContaining({ code: "storage_unavailable" }));
    expect(dismissed).toEqual([]);
    await feeds.beat();
    expect(dismissed).toEqual(["aside"]);
    for (const hold of [first, second]) hold.release();
  });

  test("that is found while members take a part of a gap ends its delivery", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, dismissed, logged, gate } = lobby;
    await append(repository, LIMITS.catchUpMessagesMax + 1);
    const relief = Promise.withResolvers<void>();
    gate.relief = relief.promise;
    const taken = lobby.toldOf(LIMITS.catchUpMessagesMax);
    feeds.accept(await append(repository, 1));
    await taken;
    const unread = logged("room_gap_unread");
    const hold = feeds.hold(LOBBY);
    hold.start({ ...(await repository.head(LOBBY)), epoch: epoch("another") });
    relief.resolve();
    await unread;
    expect(told).toEqual(range(1, LIMITS.catchUpMessagesMax));
    expect(dismissed).toEqual(["lobby"]);
    hold.release();
  });

  test("is not compared with a feed that was made after the heads were asked for", async () => {
    await using lobby = await occupied({ shared: true });
    const { repository, feeds, dismissed } = lobby;
    await append(repository, 1);
    const asking = repository.hold("heads", "answered");
    const beating = feeds.beat();
    await asking.reached;
    feeds.setOccupied(LOBBY, false);
    const hold = feeds.hold(LOBBY);
    hold.start({ ...(await repository.head(LOBBY)), epoch: epoch("another") });
    feeds.setOccupied(LOBBY, true);
    hold.release();
    asking.release();
    await beating;
    expect(dismissed).toEqual([]);
  });
});

describe("a long gap", () => {
  test("is told in parts, and members have time to take each before the next is told", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, toldOf, reliefs } = lobby;
    const count = 2 * LIMITS.catchUpMessagesMax;
    await append(repository, count);
    feeds.accept(await append(repository, 1));
    await toldOf(count + 1);
    expect(told).toEqual(range(1, count + 1));
    expect(reliefs[0]).toBe(LIMITS.catchUpMessagesMax);
  });

  test("is told by itself: other rooms hear at that beat and the next, while its members take their time", async () => {
    await using lobby = await occupied({ shared: true });
    const { repository, feeds, told, toldOf, gate, reliefs } = lobby;
    await lobby.occupy("hall");
    const taken = Promise.withResolvers<void>();
    gate.relief = taken.promise;
    const page = LIMITS.catchUpMessagesMax;
    await append(repository, 3 * page);
    for (const beat of range(1, 2)) {
      await repository.append(drafts("hall", 1));
      await feeds.beat();
      expect(told).toEqual([...range(1, page), ...range(1, beat)]);
    }
    expect(reliefs).toEqual([page]);
    taken.resolve();
    await toldOf(3 * page + 2);
    expect(told).toEqual([...range(1, page), 1, 2, ...range(page + 1, 3 * page)]);
  });

  test("of more rooms than may read at once is read in turns", async () => {
    await using lobby = await occupied({ shared: true });
    const { repository, feeds, told, toldOf, gate } = lobby;
    const taken = Promise.withResolvers<void>();
    gate.relief = taken.promise;
    const names = range(1, LIMITS.catchUpPagesMax + 4).map((n) => `room ${n}`);
    for (const name of names) {
      await lobby.occupy(name);
      await repository.append(drafts(name, LIMITS.catchUpMessagesMax + 1));
    }
    await feeds.beat();
    expect(told.length).toBe(names.length * LIMITS.catchUpMessagesMax);
    let reading = 0;
    const reads = names.map(() => repository.hold("readAfter", "before"));
    for (const { reached } of reads) void reached.then(() => (reading += 1));
    taken.resolve();
    await Promise.all(reads.slice(0, LIMITS.catchUpPagesMax).map(({ reached }) => reached));
    await new Promise((resume) => setImmediate(resume));
    expect(reading).toBe(LIMITS.catchUpPagesMax);
    for (const { release } of reads) release();
    await toldOf(names.length * (LIMITS.catchUpMessagesMax + 1));
  });

  test("is read from the store where what waits behind it is too long to be kept", async () => {
    await using lobby = await occupied();
    const { repository, feeds, told, toldOf } = lobby;
    await append(repository, 1); // lost by the bus
    const reading = repository.hold("readAfter", "answered");
    const text = "x".repeat(LIMITS.feedPendingBytesMax / 4);
    feeds.accept(await append(repository, 1));
    await reading.reached;
    for (const _ of range(1, 6))
      feeds.accept((await repository.append(drafts("lobby", 1, { text }))).map(stored));
    reading.release();
    await toldOf(8);
    expect(told).toEqual(range(1, 8));
  });
});

describe("hold", () => {
  test("gives nothing of a former epoch to a join that sees another one", async () => {
    await using lobby = await occupied();
    const { repository, feeds } = lobby;
    const hold = feeds.hold(LOBBY);
    feeds.accept(await append(repository, 6));
    expect(hold.remembers(seq(0))).toBe(true);
    hold.start({ ...(await repository.head(LOBBY)), epoch: epoch("another"), seq: seq(5) });
    expect([0, 4].map((since) => hold.remembers(seq(since)))).toEqual([false, false]);
    hold.release();
  });

  // A caller may come in any of the steps in which the promise of a reading that has ended settles.
  test.each(range(0, 6))(
    "advances to a target that is raised %d steps after the last one was reached",
    async (steps) => {
      await using lobby = await occupied();
      const { repository, feeds, told, toldOf } = lobby;
      await append(repository, 2); // lost by the bus
      const hold = feeds.hold(LOBBY);
      const feed = hold.start(await repository.head(LOBBY));
      const reading = repository.hold("readAfter", "answered");
      const first = feed.advanceTo(seq(2));
      await reading.reached;
      await append(repository, 1); // and lost too
      reading.release();
      await toldOf(2);
      for (const _ of range(1, steps)) await null;
      await feed.advanceTo(seq(3));
      expect(feed.delivered()).toBe(seq(3));
      await first;
      expect(told).toEqual([1, 2, 3]);
      hold.release();
    },
  );

  test("remembers what is told meanwhile, and a feed without members ends with its last hold", async () => {
    await using lobby = await occupied();
    const { repository } = lobby;
    const { feeds } = lobby;
    const hold = feeds.hold(LOBBY);
    feeds.accept(await append(repository, 2));
    feeds.setOccupied(LOBBY, false);
    feeds.accept(await append(repository, 1));
    expect(hold.remembers(seq(0))).toBe(true);
    expect(lobby.told).toEqual([1, 2]);
    hold.release();
    await append(repository, 4);
    const again = feeds.hold(LOBBY);
    const feed = again.start(await repository.head(LOBBY));
    expect(feed.delivered()).toBe(seq(7));
    again.release();
  });
});
