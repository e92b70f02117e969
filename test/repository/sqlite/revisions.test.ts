/** What a page that is kept rests on: a revision never stays the same while a read would show something else. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import type { RoomName, UserId } from "../../../src/domain/ids.ts";
import { LIMITS } from "../../../src/limits.ts";
import type { MessageRepository } from "../../../src/repository/repository.ts";
import { openSqlite, scratch, sends } from "../../fixture/sqlite.ts";

const room = (name: string) => ({ kind: "room", name: name as RoomName }) as const;
const user = (name: string) => ({ kind: "user", name: name as UserId }) as const;
const bounds = { messagesMax: 10, textBytesMax: 1_000 };
const newest = (repository: MessageRepository, name: string) =>
  repository.readBefore(name as RoomName, null, bounds);

/** What an operator's shell does to the file while the service runs; it is looked for once a turn. */
async function meddle(path: string, sql: string) {
  await new Promise((resume) => setImmediate(resume));
  const shell = new Database(path);
  shell.run("PRAGMA busy_timeout = 1000");
  shell.run(sql);
  shell.close();
}

test("revision changes with a message of the room or the user, and of no other", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  const subjects = [room("lobby"), user("ann"), room("attic"), user("bob"), room("nowhere")];
  await repository.append([...sends("lobby", 1, 2), ...sends("attic", 1, 1)]);
  const before = subjects.map(repository.revision);
  expect(before.every((revision) => typeof revision === "number")).toBe(true);
  expect(subjects.map(repository.revision)).toEqual(before);

  const bobs = sends("attic", 2, 1).map((draft) => ({ ...draft, userId: "bob" as UserId }));
  await repository.append(bobs);
  const after = subjects.map(repository.revision);
  expect(after.map((revision, index) => revision !== before[index])).toEqual([
    false,
    false,
    true,
    true,
    false,
  ]);
  // A retry stores nothing: what was read is as good as before.
  await repository.append(bobs);
  expect(subjects.map(repository.revision)).toEqual(after);
  await repository.close();
  expect(repository.revision(room("lobby"))).toBeNull();
});

test("revision changes everywhere when somebody else writes the file", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.append(sends("lobby", 1, 3));
  const subjects = [room("lobby"), user("ann"), room("nowhere")];
  const before = subjects.map(repository.revision);
  await meddle(place.path, "DELETE FROM messages WHERE seq < 3");
  const after = subjects.map(repository.revision);
  expect(after.map((revision, index) => revision !== before[index])).toEqual([true, true, true]);
  expect((await newest(repository, "lobby")).messages.map(({ seq }) => Number(seq))).toEqual([3]);
  await repository.close();
});

test("revision of a page that was read while another's write was not yet to be seen does not last", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.append(sends("lobby", 1, 3));
  // Until the sync has ended reads show the room as it was before this append.
  const appending = repository.append(sends("attic", 1, 1));
  await meddle(place.path, "DELETE FROM messages WHERE seq < 3 AND user_id = 'ann'");
  const revision = repository.revision(room("lobby"));
  const shown = (await newest(repository, "lobby")).messages.length;
  await appending;
  const isSame = repository.revision(room("lobby")) === revision;
  const showsNow = (await newest(repository, "lobby")).messages.length;
  expect(isSame && shown !== showsNow).toBe(false);
  expect(showsNow).toBe(1);
  await repository.close();
});

test("revision forgets single rooms beyond its ceiling, and never what changed", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.append(sends("lobby", 1, 1));
  let last = repository.revision(room("lobby"));
  for (let first = 0; first <= LIMITS.revisionsMax; first += LIMITS.batchMessagesMax) {
    const drafts = Array.from(
      { length: LIMITS.batchMessagesMax },
      (_, index) => sends(`room ${first + index}`, 1, 1)[0],
    );
    await repository.append(drafts as ReturnType<typeof sends>);
  }
  await repository.append(sends("lobby", 2, 1));
  expect(repository.revision(room("lobby"))).not.toBe(last);
  last = repository.revision(room("lobby"));
  await repository.append(sends("lobby", 3, 1));
  expect(repository.revision(room("lobby"))).not.toBe(last);
  await repository.close();
});
