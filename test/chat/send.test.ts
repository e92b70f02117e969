import { afterEach, beforeEach, expect, test } from "bun:test";
import { ANONYMOUS, type Viewer } from "../../src/auth/viewer.ts";
import { createLocalBus } from "../../src/bus/local.ts";
import { createAdmission } from "../../src/chat/admission.ts";
import { createCommits } from "../../src/chat/commits.ts";
import { createSend } from "../../src/chat/send.ts";
import type { Session } from "../../src/chat/session.ts";
import type { Rate } from "../../src/domain/rate.ts";
import { ChatError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import type { SendMessage } from "../../src/protocol/events.ts";
import { at, client, range, room, user } from "../contract/drafting.ts";
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

/** A sender whose clock stands at `at(0)`. */
function sending({ rate = null, inFlightMax = 100 }: { rate?: Rate | null; inFlightMax?: number } = {}) {
  const metrics = createMetrics();
  const admission = createAdmission({ rate, inFlightMax, monotonicNow: () => 0, metrics });
  const commits = createCommits({
    repository,
    bus: createLocalBus({ log: silentLog }),
    queueMs: LIMITS.commitQueueMs,
    monotonicNow: () => performance.now(),
    log: silentLog,
    metrics,
    onUnknownOutcome: () => {},
  });
  const newMessageId = (now: number) => Bun.randomUUIDv7("hex", now);
  const send = createSend({ admission, commits, now: () => at(0), newMessageId });
  const session = (viewer: Viewer = ANONYMOUS): Session => ({
    id: "connection",
    viewer,
    allowance: admission.allowance(),
    rooms: new Set([room("lobby")]),
    ended: false,
  });
  return { send, session };
}

const saying = (parts: Partial<SendMessage> = {}): SendMessage => ({
  room: room("lobby"),
  userId: user("ada"),
  text: "hello",
  textBytes: 5,
  timestamp: undefined,
  clientId: null,
  ...parts,
});

const refusal = (promise: Promise<unknown>) =>
  promise.then(
    () => "sent",
    (error: unknown) => (error instanceof ChatError ? error : String(error)),
  );

test("fromSession stamps a message with its receipt, and keeps the sender's own time", async () => {
  const { send, session } = sending();
  const { message, duplicate } = await send.fromSession(session(), saying());
  expect(message).toMatchObject({
    seq: 1,
    timestamp: at(0),
    receivedAt: at(0),
    userId: user("ada"),
  } as object);
  expect(duplicate).toBe(false);
  const told = saying({ timestamp: at(-5_000), clientId: client("c") });
  expect((await send.fromSession(session(), told)).message.timestamp).toBe(at(-5_000));
  const again = await send.fromSession(session(), { ...told, timestamp: at(-1) });
  expect(again).toMatchObject({ duplicate: true, message: { seq: 2, timestamp: at(-5_000) } } as object);
});

test("fromSession refuses a room that was not joined, fromCaller needs no membership", async () => {
  const { send, session } = sending();
  const elsewhere = saying({ room: room("elsewhere") });
  expect(await refusal(send.fromSession(session(), elsewhere))).toMatchObject({ code: "not_in_room" });
  expect(Number((await repository.head(room("elsewhere"))).seq)).toBe(0);
  expect((await send.fromCaller(session(), elsewhere)).message).toMatchObject({ seq: 1 } as object);
});

test("a sender names itself, or its token does, and nobody else", async () => {
  const { send, session } = sending();
  expect(await refusal(send.fromSession(session(), saying({ userId: undefined })))).toMatchObject({
    code: "invalid_payload",
    details: { issues: [{ path: "user_id", message: "is required" }] },
  });
  const bob = session({ kind: "user", userId: user("bob") });
  expect(await refusal(send.fromSession(bob, saying()))).toMatchObject({ code: "forbidden" });
  const { message } = await send.fromSession(bob, saying({ userId: undefined }));
  expect(message.userId).toBe(user("bob"));
});

test("fromSession counts what is unanswered, and refuses beyond it until an answer comes", async () => {
  const { send, session } = sending({ inFlightMax: 3 });
  const connection = session();
  const writing = repository.hold("append", "before");
  const sent = range(1, 3).map(() => send.fromSession(connection, saying()));
  await writing.reached;
  expect(connection.allowance.inFlight).toBe(3);
  expect(await refusal(send.fromSession(connection, saying()))).toMatchObject({ code: "overloaded" });
  expect(await refusal(send.fromSession(session(), saying({ room: room("x") })))).toMatchObject({
    code: "not_in_room",
  });
  writing.release();
  await Promise.all(sent);
  expect(connection.allowance.inFlight).toBe(0);
  repository.fail("append", new ChatError("storage_unavailable"));
  expect(await refusal(send.fromSession(connection, saying()))).toMatchObject({
    code: "storage_unavailable",
  });
  expect(connection.allowance.inFlight).toBe(0);
  expect(await refusal(send.fromSession(connection, saying()))).toBe("sent");
});

test("each connection has a rate of its own, and is told when to come back", async () => {
  const { send, session } = sending({ rate: { perSecond: 10, burst: 2 } });
  const [first, second] = [session(), session()];
  await Promise.all([send.fromSession(first, saying()), send.fromSession(first, saying())]);
  expect(await refusal(send.fromSession(first, saying()))).toMatchObject({
    code: "rate_limited",
    details: { retryAfterMs: 100 },
  });
  expect(await refusal(send.fromSession(second, saying()))).toBe("sent");
});
