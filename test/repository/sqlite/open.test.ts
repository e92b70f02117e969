/** The embedded store keeps the contract. What only SQLite promises is in sqlite-*.test.ts. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Epoch, RoomName, UserId } from "../../../src/domain/ids.ts";
import type { ChatError } from "../../../src/errors.ts";
import { LIMITS } from "../../../src/limits.ts";
import { createLog } from "../../../src/observe/log.ts";
import { openSqliteRepository } from "../../../src/repository/sqlite/open.ts";
import type { UserPlace } from "../../../src/repository/repository.ts";
import { repositoryContract } from "../../contract/repository.contract.ts";
import { openSqlite, scratch, sends } from "../../fixture/sqlite.ts";

const log = createLog({ level: "error", pretty: false, write: (line) => console.error(line), now: Date.now });

repositoryContract("sqlite", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sqlite-contract-"));
  const path = join(folder, "chat.db");
  const open = () => openSqliteRepository({ path, log, newEpoch: () => Bun.randomUUIDv7() as Epoch });
  let repository = await open();
  return {
    repository,
    async reopen() {
      await repository.close();
      repository = await open();
      return repository;
    },
    async truncate(room, beforeSeq) {
      const operator = new Database(path);
      operator.run("PRAGMA busy_timeout = 1000");
      operator
        .prepare("DELETE FROM messages WHERE seq < ?2 AND room_id = (SELECT id FROM rooms WHERE name = ?1)")
        .run(room, beforeSeq);
      operator.close();
    },
    async dispose() {
      await repository.close();
      await rm(folder, { recursive: true });
    },
  };
});

test("readByUser finds a room's few messages among a user's many, in more steps than one", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  const room = "rare" as RoomName;
  const stepsWorth = LIMITS.pickedRowsMax + 100;
  for (const from of [1, stepsWorth + 1, 2 * stepsWorth + 1]) {
    await repository.append(sends(room, from, 3));
    for (let sent = 0; sent < stepsWorth; sent += LIMITS.batchMessagesMax)
      await repository.append(sends("busy", from + sent, LIMITS.batchMessagesMax));
  }
  const seqs: number[] = [];
  for (let before: UserPlace | null = null; ;) {
    const bounds = { messagesMax: 2, textBytesMax: 1_000 };
    const page = await repository.readByUser({ userId: "ann" as UserId, room, before, bounds });
    seqs.push(...page.messages.map((message) => Number(message.seq)));
    before = page.messages.at(-1) ?? null;
    if (!page.more) break;
  }
  expect(seqs.toSorted((a, b) => b - a)).toEqual([9, 8, 7, 6, 5, 4, 3, 2, 1]);
  await repository.close();
});

test("readByUser lets long searches wait for each other, refuses those beyond its ceiling, and nothing else", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.append(sends("rare", 1, 1));
  for (let sent = 0; sent < 2 * LIMITS.pickedRowsMax; sent += LIMITS.batchMessagesMax)
    await repository.append(sends("busy", 2 + sent, LIMITS.batchMessagesMax));
  const query = { userId: "ann" as UserId, before: null, bounds: { messagesMax: 1, textBytesMax: 1_000 } };
  const search = () =>
    repository.readByUser({ ...query, room: "rare" as RoomName }).then(
      ({ messages }) => messages.map((message) => Number(message.seq)),
      (error: ChatError) => [error.code, error.details.retryAfterMs],
    );
  const searches = Array.from({ length: LIMITS.searchesMax + 3 }, search);
  // What ends with its first step waits for nobody.
  const quick = await repository.readByUser({ ...query, room: "busy" as RoomName });
  expect(quick.messages).toHaveLength(1);
  const answers = await Promise.all(searches);
  expect(answers.slice(0, LIMITS.searchesMax)).toEqual(Array(LIMITS.searchesMax).fill([1]));
  expect(answers.slice(LIMITS.searchesMax)).toEqual(Array(3).fill(["overloaded", 1_000]));
  expect(await search()).toEqual([1]);
  await repository.close();
}, 20_000);
