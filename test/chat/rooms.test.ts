import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { ANONYMOUS } from "../../src/auth/viewer.ts";
import { createAdmission } from "../../src/chat/admission.ts";
import { createFeeds } from "../../src/chat/feeds.ts";
import { createOccupancy } from "../../src/chat/presence.ts";
import { createRooms, type Joined } from "../../src/chat/rooms.ts";
import type { Session } from "../../src/chat/session.ts";
import { parseEpoch } from "../../src/domain/ids.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import { currentTick } from "../../src/runtime/ticks.ts";
import { createTurns } from "../../src/runtime/turns.ts";
import { assured, drafts, range, room, seq, stored, user } from "../contract/drafting.ts";
import { gated } from "../fixture/gated.ts";
import { openSqlite, scratch, silentLog } from "../fixture/sqlite.ts";

const LOBBY = room("lobby");

let folder: Awaited<ReturnType<typeof scratch>>;
let chat: Awaited<ReturnType<typeof opened>>;
beforeEach(async () => {
  folder = await scratch();
  chat = await opened(folder.path);
});
afterEach(async () => {
  await chat.repository.close();
  await folder[Symbol.asyncDispose]();
});

/** A member as the gateway makes one: what it was answered, and what it heard live from then on. */
interface Member {
  readonly session: Session;
  readonly joins: Joined[];
  readonly live: number[];
  /** What its connection says to a replay. */
  takesMore: boolean | Promise<boolean>;
}

async function opened(
  path: string,
  {
    joinedRoomsMax = LIMITS.joinedRoomsMax,
    replaysWaitingMax = 100,
  }: { joinedRoomsMax?: number; replaysWaitingMax?: number } = {},
) {
  const repository = gated(await openSqlite(path));
  /** In which tick each page was asked for. */
  const readTicks: number[] = [];
  const members = new Set<Member>();
  const clock = { ms: 0 };
  const announced: string[] = [];
  const feeds = createFeeds({
    repository,
    deliver(_, entries) {
      for (const member of members) member.live.push(...entries.map((entry) => Number(entry.seq)));
    },
    dismiss: () => undefined,
    relief: async () => {},
    monotonicNow: () => clock.ms,
    log: silentLog,
    metrics: createMetrics(),
  });
  const occupancy = createOccupancy();
  const metrics = createMetrics();
  // One room a second, and at once as many as a connection may be in.
  const admission = createAdmission({
    rate: { perSecond: 1, burst: 1 },
    inFlightMax: 1,
    monotonicNow: () => 0,
    metrics,
  });
  const rooms = createRooms({
    repository: {
      ...repository,
      readAfter(...query) {
        readTicks.push(currentTick());
        return repository.readAfter(...query);
      },
    },
    feeds,
    occupancy,
    announce: ({ kind, userId }, _, except) => announced.push(`${userId} ${kind}, not to ${except}`),
    admission,
    turns: createTurns({
      bytesPerTick: LIMITS.replayTurnBytes,
      waitersMax: replaysWaitingMax,
      refusal: () => new ChatError("overloaded"),
    }),
    joinedRoomsMax,
    metrics,
    now: Date.now,
  });
  let connections = 0;
  return {
    repository,
    readTicks,
    feeds,
    rooms,
    occupancy,
    announced,
    metrics,
    clock,
    member(): Member {
      connections += 1;
      const session: Session = {
        id: `connection ${connections}`,
        viewer: ANONYMOUS,
        allowance: admission.allowance(),
        rooms: new Set(),
        ended: false,
      };
      return { session, joins: [], live: [], takesMore: true };
    },
    join: (member: Member, since?: number, userId?: string, name = LOBBY) =>
      rooms.join(
        member.session,
        {
          room: name,
          since: since === undefined ? undefined : seq(since),
          epoch: undefined,
          userId: userId === undefined ? undefined : user(userId),
        },
        {
          takesMore: () => member.takesMore,
          enter(joined) {
            member.joins.push(joined);
            members.add(member);
          },
        },
      ),
    /** Commits so many and tells the room. */
    async say(count: number, text?: string) {
      const said = drafts("lobby", count, text === undefined ? {} : { text });
      const entries = (await repository.append(said)).map(stored);
      feeds.accept({ epoch: (await repository.head(LOBBY)).epoch, entries });
    },
  };
}

const askedError = new ChatError("internal", { text: "the store was asked" });

const mostInOne = (ticks: readonly number[]) =>
  Math.max(0, ...ticks.map((tick) => ticks.filter((other) => other === tick).length));

/** The next questions to the store fail. */
function askNothing() {
  chat.repository.fail("head", askedError);
  chat.repository.fail("readAfter", askedError);
}

/** All that a member got, replay and live, if the replay did not say that something is missing. */
function seen({ joins, live }: Member): { from: unknown; complete: unknown; seqs: unknown[] } {
  const [joined] = joins;
  if (joined?.replay.kind !== "recovered") throw new Error("not recovered");
  const { messages, through } = joined.replay;
  const complete = through === joined.head.seq;
  return { from: joined.head.seq, complete, seqs: [...messages.map((message) => message.seq), ...live] };
}

describe("join", () => {
  test("has no hole and no repeat when messages come while the page is read", async () => {
    await chat.say(3);
    const reading = chat.repository.hold("readAfter", "answered");
    const [early, member] = [chat.member(), chat.member()];
    await chat.join(early);
    const joining = chat.join(member, 1);
    await reading.reached;
    await chat.say(2);
    reading.release();
    await joining;
    await chat.say(2);
    expect(early.live).toEqual([4, 5, 6, 7]);
    expect(seen(member)).toEqual({ from: seq(5), complete: true, seqs: range(2, 7) });
  });

  test("has no hole when the first two of a room overtake each other", async () => {
    await chat.say(3);
    const slow = chat.repository.hold("readAfter", "answered");
    const [late, quick] = [chat.member(), chat.member()];
    const joiningLate = chat.join(late, 0);
    await slow.reached;
    // Told to a room in which nobody is yet: the quick one's page has it, the late one's has not.
    await chat.say(1);
    await chat.join(quick, 0);
    await chat.say(1);
    slow.release();
    await joiningLate;
    await chat.say(1);
    expect(seen(quick)).toEqual({ from: seq(4), complete: true, seqs: range(1, 6) });
    const { from, complete, seqs } = seen(late);
    expect(from).toBe(seq(5));
    expect(late.live).toEqual([6]);
    // Either all of it, or a beginning without a hole that says that there is more.
    const replayed = seqs.slice(0, -1);
    expect(replayed).toEqual(range(1, replayed.length));
    expect(complete).toBe(replayed.length === 5);
  });

  test("tells the room first what the store has and nobody was told", async () => {
    const [early, member] = [chat.member(), chat.member()];
    await chat.join(early, 0);
    await chat.repository.append(drafts("lobby", 600));
    await chat.join(member, 550);
    expect(early.live).toEqual(range(1, 600));
    expect(seen(member)).toEqual({ from: seq(600), complete: true, seqs: range(551, 600) });
  });

  test("cuts a replay by count and by bytes, and says so", async () => {
    await chat.say(LIMITS.replayMessagesMax + 1);
    const member = chat.member();
    await chat.join(member, 0);
    expect(seen(member)).toEqual({
      from: seq(LIMITS.replayMessagesMax + 1),
      complete: false,
      seqs: range(1, LIMITS.replayMessagesMax),
    });
    const text = '"'.repeat(20_000);
    await chat.say(10, text);
    const other = chat.member();
    await chat.join(other, LIMITS.replayMessagesMax + 1);
    // Quotes are two bytes each on the wire: six of the ten fit.
    expect(seen(other)).toMatchObject({ complete: false, seqs: range(502, 507) });
  });

  test("says up to where it tells all, and stays empty where its connection takes no more", async () => {
    await chat.say(5);
    const [slow, ended] = [chat.member(), chat.member()];
    slow.takesMore = Promise.resolve(false);
    await chat.join(slow, 2);
    await chat.say(1);
    expect(slow.joins[0]?.replay).toEqual({ kind: "recovered", messages: [], through: seq(2) });
    expect(slow.joins[0]?.head.seq).toBe(seq(5));
    expect(slow.live).toEqual([6]);
    const away = Promise.withResolvers<boolean>();
    ended.takesMore = away.promise;
    const joining = chat.join(ended, 2);
    chat.rooms.end(ended.session);
    away.resolve(false);
    await joining;
    expect(ended.joins).toEqual([]);
    expect(chat.occupancy.connections(LOBBY)).toBe(1);
    // One that has missed nothing is told so all the same; one that is lost, too.
    const [whole, lost] = [chat.member(), chat.member()];
    for (const member of [whole, lost]) member.takesMore = false;
    await chat.join(whole, 6);
    await chat.join(lost, 7);
    expect(whole.joins[0]?.replay).toEqual({ kind: "recovered", messages: [], through: seq(6) });
    expect(lost.joins[0]?.replay).toEqual({ kind: "lost", reason: "ahead" });
  });

  test("answers from what the room was told, and from what the first who came back has read", async () => {
    await chat.say(5);
    const first = chat.member();
    await chat.join(first, 2);
    await chat.say(3);
    askNothing();
    for (const since of [2, 5, 8]) {
      const member = chat.member();
      await chat.join(member, since);
      expect(seen(member)).toEqual({ from: seq(8), complete: true, seqs: range(since + 1, 8) });
    }
    await expect(chat.join(chat.member(), 1)).rejects.toThrow(askedError);
  });

  test("asks only for the bounds where what it knows of them is old, and sees what retention took", async () => {
    await chat.say(5);
    await chat.join(chat.member(), 0);
    const again = async (since: number) => {
      const member = chat.member();
      await chat.join(member, since);
      return member.joins[0];
    };
    const operator = new Database(folder.path);
    operator.prepare("DELETE FROM messages WHERE seq < 4").run();
    operator.close();
    chat.clock.ms += LIMITS.feedBoundsMs;
    expect(await again(1)).toMatchObject({ head: { firstSeq: 1 }, replay: { through: seq(5) } });
    chat.clock.ms += 1;
    chat.repository.fail("readAfter", askedError);
    expect(await again(3)).toMatchObject({ head: { firstSeq: 4 }, replay: { through: seq(5) } });
    chat.clock.ms += LIMITS.feedBoundsMs + 1;
    expect(await again(1)).toMatchObject({ replay: { kind: "lost", reason: "truncated" } });
  });

  test("asks the store where a reader is ahead of what the room was told, or of another epoch", async () => {
    await chat.say(3);
    await chat.join(chat.member(), 0);
    // Another node has stored these.
    await chat.repository.append(drafts("lobby", 2));
    const member = chat.member();
    await chat.join(member, 4);
    expect(seen(member)).toEqual({ from: seq(5), complete: true, seqs: [5] });
    const reader = { room: LOBBY, since: seq(5), epoch: assured(parseEpoch("another")), userId: undefined };
    const asking = chat.repository.hold("head", "before");
    let replay: unknown;
    const joining = chat.rooms.join(chat.member().session, reader, {
      takesMore: () => true,
      enter: (joined) => {
        replay = joined.replay;
      },
    });
    await asking.reached;
    asking.release();
    await joining;
    expect(replay).toEqual({ kind: "lost", reason: "epoch_changed" });
  });

  describe("while the store is put back", () => {
    const unavailable = expect.objectContaining({ code: "storage_unavailable" });
    let there: Awaited<ReturnType<typeof scratch>>;
    let other: Awaited<ReturnType<typeof openSqlite>>;
    beforeEach(async () => {
      there = await scratch();
      other = await openSqlite(there.path);
      await other.append(drafts("lobby", 5, { text: "of another epoch" }));
    });
    afterEach(async () => {
      await other.close();
      await there[Symbol.asyncDispose]();
    });
    const textsOf = ({ joins }: Member) =>
      joins.map(({ replay }) => (replay.kind === "recovered" ? replay.messages.map(({ json }) => json) : []));

    test("waits for its connection: is answered from one epoch", async () => {
      await chat.say(3);
      await chat.join(chat.member(), 0);
      const takes = Promise.withResolvers<boolean>();
      const member = chat.member();
      member.takesMore = takes.promise;
      const joining = chat.join(member, 1);
      await Promise.all([chat.repository.close(), chat.repository.replace(other)]);
      chat.clock.ms += LIMITS.feedBoundsMs + 1;
      takes.resolve(true);
      await joining;
      const { epoch } = await other.head(LOBBY);
      // It has found the new epoch, and nothing of what the room was told before.
      expect(member.joins[0]?.head).toMatchObject({ epoch, seq: 5 });
      for (const texts of textsOf(member)) for (const text of texts) expect(text).toContain("another epoch");
    });

    test("waits for its page, and another one finds the new epoch first: is refused", async () => {
      await chat.say(3);
      const reading = chat.repository.hold("readAfter", "answered");
      const [late, quick] = [chat.member(), chat.member()];
      const joining = chat.join(late, 1);
      await reading.reached;
      await chat.repository.close();
      chat.repository.replace(other);
      await chat.join(quick, 1);
      reading.release();
      await expect(joining).rejects.toThrow(unavailable);
      expect(late.joins).toEqual([]);
      const { epoch } = await other.head(LOBBY);
      expect(quick.joins[0]?.head).toMatchObject({ epoch, seq: 5 });
      // The quick one's feed stands.
      await chat.say(1);
      expect(quick.live).toEqual([6]);
    });

    test("waits for a gap to be read: is refused, and the gap is not told", async () => {
      await chat.say(3);
      const [early, late] = [chat.member(), chat.member()];
      await chat.join(early, 3);
      await chat.repository.append(drafts("lobby", 2));
      chat.clock.ms += LIMITS.feedBoundsMs + 1;
      const asking = chat.repository.hold("head", "answered");
      const joining = chat.join(late, 3);
      await asking.reached;
      await chat.repository.close();
      chat.repository.replace(other);
      asking.release();
      await expect(joining).rejects.toThrow(unavailable);
      expect([late.joins, early.live]).toEqual([[], []]);
    });
  });

  test("gives the event loop a tick between long replays that a store over a network has read at once", async () => {
    for (const _ of range(1, 2)) await chat.say(200, "x".repeat(2_000));
    await chat.join(chat.member(), 400);
    const reads = range(1, 20).map(() => chat.repository.hold("readAfter", "answered"));
    const enteredIn: number[] = [];
    const joins = reads.map(() => chat.join(chat.member(), 0).then(() => enteredIn.push(currentTick())));
    await Promise.all(reads.map(({ reached }) => reached));
    for (const { release } of reads) release();
    await Promise.all(joins);
    expect(mostInOne(enteredIn)).toBeLessThanOrEqual(3);
  });

  test.each(["remembered", "read"])(
    "gives the event loop a tick between long replays that are %s, and answers all",
    async (kind) => {
      const count = kind === "remembered" ? 100 : 200;
      await chat.say(count, "x".repeat(2_000));
      await chat.join(chat.member(), 0);
      if (kind === "read") await chat.say(count, "x".repeat(2_000));
      chat.readTicks.length = 0;
      const members = range(1, 40).map(() => chat.member());
      const enteredIn: number[] = [];
      // Each from a callback of its own, all in one tick: so they come from sockets.
      const callback = () => new Promise<void>((called) => setImmediate(called));
      await Promise.all(
        members.map(async (member) => {
          await callback();
          await chat.join(member, 0);
          enteredIn.push(currentTick());
        }),
      );
      for (const member of members) expect(seen(member).seqs.slice(0, 100)).toEqual(range(1, 100));
      // One uses up a tick's share. This counter's ticks may end between two of theirs.
      expect(mostInOne(enteredIn)).toBeLessThanOrEqual(3);
      expect(mostInOne(chat.readTicks)).toBeLessThanOrEqual(3);
      expect(chat.readTicks).toHaveLength(kind === "read" ? members.length : 0);
      await expect(Promise.all(range(1, 102).map(() => chat.join(chat.member(), 0)))).rejects.toThrow(
        expect.objectContaining({ code: "overloaded" }),
      );
    },
  );

  test.each(["remembered", "read, all at once"])(
    "answers 1,000 who come back to one room at once with what is %s, without a hole or a repeat",
    async (kind) => {
      await chat.repository.close();
      chat = await opened(folder.path, { replaysWaitingMax: LIMITS.replayTurnWaitersMax });
      await chat.say(50, "x".repeat(500));
      if (kind === "remembered") await chat.join(chat.member(), 0);
      const members = range(1, 1_000).map(() => chat.member());
      const reads =
        kind === "remembered" ? [] : members.map(() => chat.repository.hold("readAfter", "answered"));
      const joins = members.map((member) => chat.join(member, 0));
      await Promise.all(reads.map(({ reached }) => reached));
      await chat.say(1);
      for (const { release } of reads) release();
      await Promise.all(joins);
      await chat.say(1);
      for (const member of members) {
        expect(member.joins).toHaveLength(1);
        expect(seen(member)).toMatchObject({ complete: true, seqs: range(1, 52) });
      }
    },
  );

  test("leaves nothing behind when the connection ends meanwhile, or the store fails", async () => {
    const gone = chat.member();
    const reading = chat.repository.hold("head", "answered");
    const joining = chat.join(gone, undefined, "ada");
    await reading.reached;
    chat.rooms.end(gone.session);
    reading.release();
    await joining;
    chat.repository.fail("readAfter", new ChatError("storage_unavailable"));
    const unlucky = chat.member();
    await expect(chat.join(unlucky, 0, "bob")).rejects.toThrow(
      expect.objectContaining({ code: "storage_unavailable" }),
    );
    expect([gone.joins, unlucky.joins, chat.announced]).toEqual([[], [], []]);
    expect(chat.occupancy.connections(LOBBY)).toBe(0);
    expect([...unlucky.session.rooms]).toEqual([]);
    await chat.join(unlucky, 0, "bob");
    expect(chat.announced).toEqual(["bob joined, not to connection 2"]);
  });

  test("refuses more rooms than a connection may be in, but not one that it is in", async () => {
    const member = chat.member();
    for (const index of range(2, LIMITS.roomsPerConnectionMax))
      member.session.rooms.add(room(`room ${index}`));
    await chat.join(member);
    await chat.join(member);
    expect(member.joins).toHaveLength(2);
    const other = { room: room("one more"), since: undefined, epoch: undefined, userId: undefined };
    await expect(
      chat.rooms.join(member.session, other, { takesMore: () => true, enter() {} }),
    ).rejects.toThrow(
      expect.objectContaining({
        code: "overloaded",
        details: expect.objectContaining({ retryAfterMs: 1_000 }),
      }),
    );
    expect(chat.metrics.snapshot().joins_overloaded_total).toBe(1);
  });

  test("refuses more rooms than all connections may be in, joins under way counted, and takes them as others leave", async () => {
    await chat.repository.close();
    chat = await opened(folder.path, { joinedRoomsMax: 2 });
    const [one, other] = [chat.member(), chat.member()];
    const join = (member: Member, name: string) => chat.join(member, undefined, undefined, room(name));
    const overloaded = expect.objectContaining({ code: "overloaded", details: { retryAfterMs: 1_000 } });
    await join(one, "a");
    const [joined, refused] = await Promise.allSettled([join(one, "b"), join(other, "b")]);
    expect(joined.status).toBe("fulfilled");
    expect(refused).toMatchObject({ status: "rejected", reason: overloaded });
    // One that it is in already is no more.
    await join(one, "a");
    chat.rooms.leave(one.session, { room: room("a") });
    await join(other, "c");
    await expect(join(one, "a")).rejects.toThrow(overloaded);
    chat.rooms.end(one.session);
    await join(other, "a");
    await expect(join(other, "d")).rejects.toThrow(overloaded);
    chat.rooms.end(other.session);
    // A join that fails takes no place.
    chat.repository.fail("head", new ChatError("storage_unavailable"));
    const next = chat.member();
    await expect(join(next, "a")).rejects.toThrow(expect.objectContaining({ code: "storage_unavailable" }));
    for (const name of ["a", "b"]) await join(next, name);
    expect(chat.metrics.snapshot().joins_overloaded_total).toBe(3);
  });

  test("lets a connection join all its rooms at once, and refuses more than its rate, leaving nothing behind", async () => {
    const member = chat.member();
    for (const _ of range(1, LIMITS.roomsPerConnectionMax)) await chat.join(member);
    chat.rooms.leave(member.session, { room: LOBBY });
    await expect(chat.join(member)).rejects.toThrow(
      expect.objectContaining({ code: "rate_limited", details: { retryAfterMs: 1_000 } }),
    );
    expect(member.joins).toHaveLength(LIMITS.roomsPerConnectionMax);
    expect(member.session.rooms.size).toBe(0);
    expect(chat.occupancy.connections(LOBBY)).toBe(0);
    expect(chat.metrics.snapshot().joins_rate_limited_total).toBe(1);
    const other = chat.member();
    await chat.join(other);
    expect(other.joins).toHaveLength(1);
  });
});

describe("leave and end", () => {
  test("leave refuses a room that was not joined, end leaves all of them", async () => {
    const member = chat.member();
    expect(() => chat.rooms.leave(member.session, { room: LOBBY })).toThrow(
      expect.objectContaining({ code: "not_in_room" }),
    );
    await chat.join(member, undefined, "ada");
    chat.rooms.leave(member.session, { room: LOBBY });
    await chat.join(member, undefined, "ada");
    chat.rooms.end(member.session);
    expect(chat.occupancy.connections(LOBBY)).toBe(0);
    expect(chat.announced).toEqual([
      "ada joined, not to connection 1",
      "ada left, not to connection 1",
      "ada joined, not to connection 1",
      "ada left, not to connection 1",
    ]);
  });
});
