/** What is done to the names of the open files: nothing that was acked is lost, and the refusal says why. */

import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { copyFile, rename, rm } from "node:fs/promises";
import type { RoomName } from "../../../src/domain/ids.ts";
import type { ChatError } from "../../../src/errors.ts";
import { openSqlite, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;

const seqOf = async (path: string) => {
  const repository = await openSqlite(path);
  const { seq } = await repository.head(room);
  await repository.close();
  return Number(seq);
};

test.each([
  ["its log is removed", ["-wal"], /lost its log/],
  ["its log and the index of it are removed", ["-wal", "-shm"], /lost its log/],
  ["the index of its log is removed", ["-shm"], /lost the index/],
])("append saves all that was acked into the file when %s, and goes on", async (_what, suffixes, reason) => {
  await using place = await scratch();
  {
    await using store = sqliteChild("commanded", place.path);
    await store.next();
    expect(await store.ask("append 1 10")).toEqual({ kinds: ["stored"] });
    for (const suffix of suffixes) await rm(place.path + suffix);
    expect(await store.ask("append 11 1")).toEqual({ refused: "storage_unavailable" });
    expect((await store.ask("status")).reason).toMatch(reason);
    // It is in the file before anything else is done: without its log the file alone has it.
    await copyFile(place.path, `${place.path}.alone`);
    expect(await seqOf(`${place.path}.alone`)).toBe(11);
    expect(await store.ask("up")).toEqual({ up: true });
    expect(await store.ask("append 11 2")).toEqual({ kinds: ["duplicate", "stored"] });
    // It is killed here.
  }
  expect(await seqOf(place.path)).toBe(12);
});

test("append takes nothing from a log that was put in the place of its own", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.append(sends("a", 1, 10));
  await copyFile(`${place.path}-wal`, `${place.path}.old-wal`);
  await repository.append(sends("a", 11, 10));
  await rename(`${place.path}.old-wal`, `${place.path}-wal`);
  const refused = await repository.append(sends("a", 21, 1)).catch((error: ChatError) => error.code);
  expect(refused).toBe("storage_unavailable");
  // Its old copy would hide what came later: it is left for the operator, and used neither now nor at a start.
  let status = repository.status();
  for (; status.up || !status.reason.includes("the log beside it"); status = repository.status())
    await new Promise((resume) => setTimeout(resume, 5));
  await repository.close();
  expect(await openSqlite(place.path).catch((error: Error) => error.message)).toContain(
    `remove ${place.path}-wal and ${place.path}-shm`,
  );
  await rm(`${place.path}-wal`);
  await rm(`${place.path}-shm`, { force: true });
  expect(await seqOf(place.path)).toBe(21);
});

test("close saves into the file what a log without its name has", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.append(sends("a", 1, 10));
  await rm(`${place.path}-wal`);
  await repository.close();
  expect(existsSync(`${place.path}-wal`)).toBe(false);
  expect(await seqOf(place.path)).toBe(10);
});

test("append saves into a file that was moved what its log has, and refuses until it is back", async () => {
  await using place = await scratch();
  const moved = `${place.path}.moved`;
  await using store = sqliteChild("commanded", place.path);
  await store.next();
  expect(await store.ask("append 1 10")).toEqual({ kinds: ["stored"] });
  await rename(place.path, moved);
  expect(await store.ask("append 11 1")).toEqual({ refused: "storage_unavailable" });
  expect(await store.ask("status")).toEqual({
    up: false,
    reason: "the file was moved or replaced while it was open",
  });
  await copyFile(moved, `${place.path}.alone`);
  expect(await seqOf(`${place.path}.alone`)).toBe(11);
  expect(await store.ask("append 12 1")).toEqual({ rejected: "storage_unavailable" });
  await rename(moved, place.path);
  expect(await store.ask("up")).toEqual({ up: true });
  expect(await store.ask("append 12 1")).toEqual({ kinds: ["stored"] });
  expect(await store.ask("read")).toMatchObject({ seq: 12 });
});
