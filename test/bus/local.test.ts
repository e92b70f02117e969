import { expect, test } from "bun:test";
import { createLocalBus } from "../../src/bus/local.ts";
import type { Epoch, RoomName, Seq, UserId } from "../../src/domain/ids.ts";
import type { Message } from "../../src/domain/message.ts";
import { toMillis } from "../../src/domain/time.ts";
import { createLog } from "../../src/observe/log.ts";

const message: Message = {
  id: "m1",
  room: "lobby" as RoomName,
  seq: 1 as Seq,
  userId: "ada" as UserId,
  text: "hi",
  timestamp: toMillis(0),
  receivedAt: toMillis(0),
};

const epoch = "one" as Epoch;

function bus() {
  const lines: string[] = [];
  const log = createLog({ level: "info", pretty: false, write: (line) => lines.push(line), now: () => 0 });
  return { lines, bus: createLocalBus({ log }) };
}

test("publish tells every listener before it returns", () => {
  const heard: Message[] = [];
  const { bus: local } = bus();
  local.subscribe(({ entries }) => heard.push(...entries));
  local.subscribe(({ entries }) => heard.push(...entries));
  local.publish({ epoch, entries: [message] });
  expect(heard).toEqual([message, message]);
});

test("publish survives a listener that throws, and says so", () => {
  const heard: Message[] = [];
  const { bus: local, lines } = bus();
  local.subscribe(() => {
    throw new Error("deaf");
  });
  local.subscribe(({ entries }) => heard.push(...entries));
  local.publish({ epoch, entries: [message] });
  expect(heard).toEqual([message]);
  expect(lines.join()).toContain("deaf");
});

test("close ends the telling", async () => {
  const heard: Message[] = [];
  const { bus: local } = bus();
  local.subscribe(({ entries }) => heard.push(...entries));
  await local.close();
  local.publish({ epoch, entries: [message] });
  expect(heard).toEqual([]);
});
