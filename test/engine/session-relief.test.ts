/** Whether a session takes a long answer now, and when it does again. */

import { afterEach, expect, test } from "bun:test";
import type { EngineSession, Receiver } from "../../src/engine/session.ts";
import { openPolling, openRawSocket, startEngine } from "../fixture/engine.ts";

const OUTBOUND_MAX = 400_000;
/** More than the share of it that may be unread. */
const LONG = `4${"x".repeat(150_000)}`;
const NEVER_MS = 60_000;

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

function startHost() {
  const arrivals: ((session: EngineSession) => void)[] = [];
  const silent: Receiver = { onText() {}, onBinary() {}, onUpgrade() {}, onClose() {} };
  const host = startEngine({
    outboundBytesMax: OUTBOUND_MAX,
    accept(session) {
      arrivals.shift()?.(session);
      return silent;
    },
  });
  undo.push(host.stop);
  return { ...host, nextSession: () => new Promise<EngineSession>((resolve) => arrivals.push(resolve)) };
}

test("takesMore of a polling session waits until its client has fetched what was written", async () => {
  const host = startHost();
  const arriving = host.nextSession();
  const polling = await openPolling(host.url);
  const session = await arriving;
  expect(session.takesMore(NEVER_MS)).toBe(true);
  session.sendText(LONG);
  const waiting = session.takesMore(NEVER_MS);
  expect(waiting).toBeInstanceOf(Promise);
  expect(await session.takesMore(1)).toBe(false);
  await (await polling.poll()).text();
  expect(await waiting).toBe(true);
  expect(session.takesMore(NEVER_MS)).toBe(true);
});

test("takesMore of a WebSocket waits until its client has read most of what was written", async () => {
  const host = startHost();
  const arriving = host.nextSession();
  const raw = await openRawSocket(host.port);
  undo.push(() => raw.tcp.destroy());
  const session = await arriving;
  expect(session.takesMore(NEVER_MS)).toBe(true);
  raw.tcp.pause();
  let sent = 0;
  while (session.takesMore(1) === true) {
    session.sendText(LONG);
    sent += 1;
    await new Promise((resume) => setImmediate(resume));
  }
  const waiting = [session.takesMore(NEVER_MS), session.takesMore(NEVER_MS)];
  raw.tcp.resume();
  expect(await Promise.all(waiting)).toEqual([true, true]);
  await raw.heardAtLeast(1 + sent);
});

test("takesMore is false when the session ends meanwhile, and after its end", async () => {
  const host = startHost();
  const arriving = host.nextSession();
  await openPolling(host.url);
  const session = await arriving;
  session.sendText(LONG);
  const waiting = session.takesMore(NEVER_MS);
  session.endForAbuse("a test");
  expect(await waiting).toBe(false);
  expect(session.takesMore(NEVER_MS)).toBe(false);
});
