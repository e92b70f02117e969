import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createLocalBus } from "../../src/bus/local.ts";
import { createCommits } from "../../src/chat/commits.ts";
import type { RoomName } from "../../src/domain/ids.ts";
import type { Message } from "../../src/domain/message.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import { draft, drafts, range, room } from "../contract/drafting.ts";
import { type GatedRepository, gated } from "../fixture/gated.ts";
import { openSqlite, scratch, silentLog } from "../fixture/sqlite.ts";

let folder: Awaited<ReturnType<typeof scratch>>;
let repository: GatedRepository;
beforeEach(async () => {
  folder = await scratch();
  repository = gated(await openSqlite(folder.path));
});
afterEach(async () => {
  await repository.close();
  await folder[Symbol.asyncDispose]();
});

function committing(
  queueMs: number = LIMITS.commitQueueMs,
  store: Pick<GatedRepository, "append"> = repository,
) {
  const published: Message[][] = [];
  const doubted: RoomName[] = [];
  const metrics = createMetrics();
  const bus = createLocalBus({ log: silentLog });
  bus.subscribe(({ entries }) => published.push([...entries]));
  const commits = createCommits({
    repository: store,
    bus,
    queueMs,
    monotonicNow: () => performance.now(),
    log: silentLog,
    metrics,
    onUnknownOutcome: (rooms) => doubted.push(...rooms),
  });
  return { commits, bus, metrics, published, doubted };
}

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => "committed",
    (error: unknown) => (error instanceof ChatError ? error.code : error),
  );

describe("commit", () => {
  test("waits for nobody when it is alone", async () => {
    const { commits } = committing();
    await commits.commit(draft("a"));
    await commits.commit(draft("a"));
    expect(repository.batches).toEqual([1, 1]);
  });

  test("puts into one batch what came in one tick, and what came during a commit", async () => {
    const { commits } = committing();
    const writing = repository.hold("append", "before");
    const first = drafts("a", 3).map((one) => commits.commit(one));
    await writing.reached;
    const second = drafts("a", 5).map((one) => commits.commit(one));
    writing.release();
    const committed = await Promise.all([...first, ...second]);
    expect(repository.batches).toEqual([3, 5]);
    expect(committed.map(({ message }) => Number(message.seq))).toEqual(range(1, 8));
  });

  test("keeps a batch within its messages and its bytes, but never waits for a smaller one", async () => {
    const { commits } = committing();
    const many = drafts("a", LIMITS.batchMessagesMax + 10).map((one) => commits.commit(one));
    const half = { textBytes: LIMITS.batchBytesMax / 2 };
    const heavy = [half, half, half, { textBytes: LIMITS.batchBytesMax * 2 }].map((size) =>
      commits.commit({ ...draft("b"), ...size }),
    );
    await Promise.all([...many, ...heavy]);
    // The ten small ones and the first half fit, the second half would be too much.
    expect(repository.batches).toEqual([LIMITS.batchMessagesMax, 11, 2, 1]);
  });

  test("answers each draft with its own result, and publishes what is stored, new or not, before it answers", async () => {
    const { commits, bus, published } = committing();
    const told: string[] = [];
    bus.subscribe(({ entries }) => told.push(`published ${entries.length}`));
    const sent = [
      draft("a", { client: "c", text: "one" }),
      draft("a", { client: "c", text: "one" }),
      draft("a", { client: "c", text: "two" }),
      draft("b", { text: "three" }),
    ].map((one) => commits.commit(one));
    const outcomes = await Promise.allSettled(
      sent.map((promise, index) => promise.finally(() => told.push(`answered ${index}`))),
    );
    expect(
      outcomes.map((outcome) =>
        outcome.status === "fulfilled"
          ? [outcome.value.message.text, Number(outcome.value.message.seq), outcome.value.duplicate]
          : (outcome.reason as ChatError).code,
      ),
    ).toEqual([["one", 1, false], ["one", 1, true], "conflict", ["three", 1, false]]);
    expect(published.flat().map(({ text }) => text)).toEqual(["one", "one", "three"]);
    expect(told[0]).toBe("published 3");
    expect(told).toHaveLength(5);
  });

  test("refuses a batch that the store refused, doubts its rooms, and goes on with the next", async () => {
    const { commits, doubted, published, metrics } = committing();
    repository.fail("append", new ChatError("storage_unavailable"));
    repository.fail("append", new TypeError("nobody foresaw this"));
    const writing = Promise.all(
      [draft("a"), draft("b"), draft("a")].map((one) => codeOf(commits.commit(one))),
    );
    expect(await writing).toEqual(["storage_unavailable", "storage_unavailable", "storage_unavailable"]);
    expect(doubted).toEqual([room("a"), room("b")]);
    expect(await codeOf(commits.commit(draft("c")))).toBe("internal");
    expect(doubted).toEqual([room("a"), room("b"), room("c")]);
    expect(Number((await commits.commit(draft("a"))).message.seq)).toBe(1);
    expect(published.flat()).toHaveLength(1);
    expect(metrics.snapshot()).toMatchObject({ store_failures_total: 2, messages_refused_total: 4 });
  });

  test("doubts the room of an outcome that is unknown, and none where a draft was certainly not stored", async () => {
    const error = new ChatError("storage_unavailable");
    const { commits, doubted, published, metrics } = committing(LIMITS.commitQueueMs, {
      append: async () => [
        { kind: "rejected", error },
        { kind: "unknown", error },
        { kind: "rejected", error: new ChatError("conflict") },
      ],
    });
    const codes = [draft("a"), draft("b"), draft("c")].map((one) => codeOf(commits.commit(one)));
    expect(await Promise.all(codes)).toEqual(["storage_unavailable", "storage_unavailable", "conflict"]);
    expect(doubted).toEqual([room("b")]);
    expect(published.flat()).toEqual([]);
    expect(metrics.snapshot()).toMatchObject({ store_failures_total: 1, messages_refused_total: 3 });
  });

  test("counts a failure of the store of which it is certain that nothing was stored, and no conflict", async () => {
    const refusals = [new ChatError("storage_unavailable"), new ChatError("conflict")];
    const { commits, doubted, metrics } = committing(LIMITS.commitQueueMs, {
      append: async () => [{ kind: "rejected", error: refusals.shift() ?? new ChatError("internal") }],
    });
    expect(await codeOf(commits.commit(draft("a")))).toBe("storage_unavailable");
    expect(await codeOf(commits.commit(draft("a")))).toBe("conflict");
    expect(doubted).toEqual([]);
    expect(metrics.snapshot()).toMatchObject({ store_failures_total: 1, messages_refused_total: 2 });
  });

  test("counts a batch that failed as one failure, however many parts its answers come in", async () => {
    const { commits, doubted, metrics } = committing();
    repository.fail("append", new ChatError("storage_unavailable"));
    const many = drafts("a", 300).map((one) => codeOf(commits.commit(one)));
    expect(new Set(await Promise.all(many))).toEqual(new Set(["storage_unavailable"]));
    expect(doubted).toEqual([room("a")]);
    expect(metrics.snapshot()).toMatchObject({ store_failures_total: 1, messages_refused_total: 300 });
  });

  test("is no error when a listener fails after the commit", async () => {
    const { commits, bus } = committing();
    bus.subscribe(() => {
      throw new Error("deaf");
    });
    expect(await codeOf(commits.commit(draft("a")))).toBe("committed");
  });

  test("refuses at once beyond the queue's ceilings, and takes more when the queue is shorter", async () => {
    const { commits } = committing();
    const writing = repository.hold("append", "before");
    const first = commits.commit(draft("a"));
    await writing.reached;
    const whole = commits.commit({ ...draft("a"), textBytes: LIMITS.commitQueueBytesMax });
    expect(() => commits.commit(draft("a"))).toThrow(
      expect.objectContaining({ code: "overloaded", details: { retryAfterMs: expect.any(Number) } }),
    );
    writing.release();
    await Promise.all([first, whole]);
    await commits.commit(draft("a"));
    const again = repository.hold("append", "before");
    const running = commits.commit(draft("a"));
    await again.reached;
    const queued = range(1, LIMITS.commitQueueMessagesMax).map(() => commits.commit(draft("a")));
    expect(() => commits.commit(draft("a"))).toThrow(expect.objectContaining({ code: "overloaded" }));
    again.release();
    await Promise.all([running, ...queued]);
    expect(Number((await repository.head(room("a"))).seq)).toBe(4 + LIMITS.commitQueueMessagesMax);
  });
});

describe("commit behind a store that stalls", () => {
  const QUEUE_MS = 150;

  test("refuses what has waited too long, which is then not stored, and counts it", async () => {
    const { commits, metrics, doubted } = committing(QUEUE_MS);
    const stalled = repository.hold("append", "before");
    const first = commits.commit(draft("a", { text: "first" }));
    await stalled.reached;
    const began = performance.now();
    const late = drafts("a", 1_500).map((one) => codeOf(commits.commit(one)));
    expect(new Set(await Promise.all(late))).toEqual(new Set(["overloaded"]));
    expect(performance.now() - began).toBeGreaterThanOrEqual(QUEUE_MS);
    expect(metrics.snapshot().sends_overloaded_total).toBe(1_500);
    stalled.release();
    expect(Number((await first).message.seq)).toBe(1);
    expect(Number((await commits.commit(draft("a", { text: "in time" }))).message.seq)).toBe(2);
    // Nothing was sent to the store for them: there is nothing to doubt, and nothing there.
    expect(doubted).toEqual([]);
    expect(Number((await repository.head(room("a"))).seq)).toBe(2);
    expect(repository.batches).toEqual([1, 1]);
  });

  test("refuses each in its own time, and gives the place in the queue back", async () => {
    const { commits } = committing(QUEUE_MS);
    const stalled = repository.hold("append", "before");
    const first = commits.commit(draft("a"));
    await stalled.reached;
    const whole = { ...draft("a"), textBytes: LIMITS.commitQueueBytesMax };
    for (let round = 0; round < 3; round++) {
      const late = codeOf(commits.commit(whole));
      expect(() => commits.commit(draft("a"))).toThrow(expect.objectContaining({ code: "overloaded" }));
      expect(await late).toBe("overloaded");
    }
    stalled.release();
    await first;
    expect(await codeOf(commits.commit(draft("a")))).toBe("committed");
  });

  test("settled waits for the batch that is with the store, though all behind it were refused", async () => {
    const { commits } = committing(QUEUE_MS);
    const stalled = repository.hold("append", "before");
    const answered: string[] = [];
    const first = commits.commit(draft("a")).then(() => answered.push("first"));
    await stalled.reached;
    const late = codeOf(commits.commit(draft("a"))).then(() => answered.push("late"));
    const settled = commits.settled().then(() => answered.push("settled"));
    await late;
    stalled.release();
    await Promise.all([first, settled]);
    expect(answered).toEqual(["late", "first", "settled"]);
  });
});

test("settled does not wait for what comes after it, however much that is", async () => {
  const { commits } = committing();
  let settled = false;
  const first = commits.commit(draft("a"));
  const waiting = commits.settled().then(() => {
    settled = true;
  });
  // A load that never lets the queue run dry.
  let last = first;
  for (let sent = 0; !settled && sent < 10_000; sent++) {
    const next = commits.commit(draft("a"));
    await last;
    last = next;
  }
  expect(settled).toBe(true);
  await Promise.all([waiting, last]);
});

test("settled resolves when every draft has its answer", async () => {
  const { commits } = committing();
  await commits.settled();
  const answered: number[] = [];
  const sent = range(1, 600).map((index) => commits.commit(draft("a")).then(() => answered.push(index)));
  await commits.settled();
  await Promise.resolve();
  expect(answered).toHaveLength(600);
  await Promise.all(sent);
});
