import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { ANONYMOUS } from "../../src/auth/viewer.ts";
import { createAdmission } from "../../src/chat/admission.ts";
import { createFeeds } from "../../src/chat/feeds.ts";
import { createOccupancy } from "../../src/chat/presence.ts";
import { createRooms, type Joined } from "../../src/chat/rooms.ts";
import type { Session } from "../../src/chat/session.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import { drafts, range, room, seq, stored, user } from "../contract/drafting.ts";
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
}

async function opened(path: string, joinedRoomsMax: number = LIMITS.joinedRoomsMax) {
  const repository = gated(await openSqlite(path));
  const members = new Set<Member>();
  const announced: string[] = [];
  const feeds = createFeeds({
    repository,
    deliver(_, messages) {
      for (const member of members) member.live.push(...messages.map((message) => Number(message.seq)));
    },
    dismiss: () => undefined,
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
    repository,
    feeds,
    occupancy,
    announce: ({ kind, userId }, _, except) => announced.push(`${userId} ${kind}, not to ${except}`),
    admission,
    joinedRoomsMax,
    metrics,
    now: Date.now,
  });
  let connections = 0;
  return {
    repository,
    feeds,
    rooms,
    occupancy,
    announced,
    metrics,
    member(): Member {
      connections += 1;
      const session: Session = {
        id: `connection ${connections}`,
        viewer: ANONYMOUS,
        allowance: admission.allowance(),
        rooms: new Set(),
        ended: false,
      };
      return { session, joins: [], live: [] };
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
        (joined) => {
          member.joins.push(joined);
          members.add(member);
        },
      ),
    /** Commits so many and tells the room. */
    async say(count: number) {
      const entries = (await repository.append(drafts("lobby", count))).map(stored);
      feeds.accept({ epoch: (await repository.head(LOBBY)).epoch, entries });
    },
  };
}

/** All that a member got, replay and live, if the replay did not say that something is missing. */
function seen({ joins, live }: Member): { from: unknown; complete: unknown; seqs: unknown[] } {
  const [joined] = joins;
  if (joined?.replay.kind !== "recovered") throw new Error("not recovered");
  const { messages, complete } = joined.replay;
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
    await chat.repository.append(drafts("lobby", 10, { text }));
    const other = chat.member();
    await chat.join(other, LIMITS.replayMessagesMax + 1);
    // Quotes are two bytes each on the wire: six of the ten fit.
    expect(seen(other)).toMatchObject({ complete: false, seqs: range(502, 507) });
  });

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
    await expect(chat.rooms.join(member.session, other, () => {})).rejects.toThrow(
      expect.objectContaining({
        code: "overloaded",
        details: expect.objectContaining({ retryAfterMs: 1_000 }),
      }),
    );
    expect(chat.metrics.snapshot().joins_overloaded_total).toBe(1);
  });

  test("refuses more rooms than all connections may be in, joins under way counted, and takes them as others leave", async () => {
    await chat.repository.close();
    chat = await opened(folder.path, 2);
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
