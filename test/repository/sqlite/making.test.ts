/** A new embedded store: whole or not there, with nothing of another's life, and never in the place of what is not ours. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { chmodSync, chownSync, closeSync, openSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import type { Epoch, RoomName } from "../../../src/domain/ids.ts";
import { createCompanion } from "../../../src/repository/sqlite/companion.ts";
import { nameOfFile } from "../../../src/repository/sqlite/folder.ts";
import { makeStore } from "../../../src/repository/sqlite/making.ts";
import { openLocked } from "../../../src/repository/sqlite/hold.ts";
import { openSqlite, scratch, sends } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;
const EPOCH = "epoch-1" as Epoch;
const NOBODY = 65_534;

const close = (descriptor: number | undefined) => {
  if (descriptor !== undefined) closeSync(descriptor);
};

/** Makes a store, and tells what its companion says then. */
function make(path: string) {
  const companion = openSync(`${path}.lock`, "w+");
  const made = makeStore(path, EPOCH, createCompanion(companion));
  const said = createCompanion(companion).read();
  closeSync(companion);
  return { made, said };
}

const inspected = (path: string) => {
  const database = new Database(path, { readonly: true });
  try {
    return {
      mode: database.query("PRAGMA journal_mode").values()[0]?.[0],
      epochs: database.query("SELECT epoch FROM store").values(),
      messages: database.query("SELECT count(*) FROM messages").values()[0]?.[0],
      check: database.query("PRAGMA integrity_check").values(),
    };
  } finally {
    database.close();
  }
};

test("makeStore puts a whole store in the place of an empty file, and leaves nothing beside it", async () => {
  await using place = await scratch();
  writeFileSync(place.path, "");
  // One whose maker died, with its journal.
  writeFileSync(`${place.path}-making`, "half of a store");
  writeFileSync(`${place.path}-making-journal`, "and what was to undo it");
  // What an operator may call a file of his own.
  writeFileSync(`${place.path}.new`, "yesterday's");
  const { made, said } = make(place.path);
  close(made);
  expect(readdirSync(place.folder).toSorted()).toEqual(["chat.db", "chat.db.lock", "chat.db.new"]);
  expect(said).toMatchObject({ epoch: EPOCH, file: nameOfFile(statSync(place.path)), last: null });
  expect(inspected(place.path)).toEqual({ mode: "wal", epochs: [[EPOCH]], messages: 0, check: [["ok"]] });
});

test("makeStore leaves what has anything in it", async () => {
  await using place = await scratch();
  writeFileSync(place.path, "x");
  expect(make(place.path)).toEqual({ made: undefined, said: null });
  expect(await Bun.file(place.path).text()).toBe("x");
  expect(make(join(place.folder, "nothing.db"))).toEqual({ made: undefined, said: null });
  expect(readdirSync(place.folder)).not.toContain("nothing.db");
});

test("makeStore gives the new file the mode of the empty one", async () => {
  await using place = await scratch();
  for (const mode of [0o600, 0o640, 0o666]) {
    writeFileSync(place.path, "");
    chmodSync(place.path, mode);
    close(make(place.path).made);
    expect(statSync(place.path).mode & 0o777).toBe(mode);
    expect(inspected(place.path)).toMatchObject({ mode: "wal", messages: 0, check: [["ok"]] });
  }
});

test("makeStore keeps an empty file of another owner, and SQLite makes the store in it", async () => {
  await using place = await scratch();
  writeFileSync(place.path, "");
  // Only a user who may give files away can have such a file: a group of the user's own is as good.
  const { uid, gid } = statSync(place.path);
  chownSync(place.path, uid, process.getgroups?.().find((group) => group !== gid) ?? NOBODY);
  const { ino } = statSync(place.path);
  expect(make(place.path)).toEqual({ made: undefined, said: null });
  expect([statSync(place.path).size, statSync(place.path).ino]).toEqual([0, ino]);
  const repository = await openSqlite(place.path);
  await repository.append(sends("a", 1, 1));
  await repository.close();
  expect(statSync(place.path).ino).toBe(ino);
  expect(inspected(place.path)).toMatchObject({ mode: "wal", messages: 1, check: [["ok"]] });
});

test("makeStore locks the new file before it has the store's name", async () => {
  await using place = await scratch();
  writeFileSync(place.path, "");
  const { made } = make(place.path);
  expect(() => openLocked(place.path)).toThrow("is locked by another process");
  close(made);
  close(openLocked(place.path));
});

test("openSqliteRepository takes nothing from the log of a store that is gone", async () => {
  await using place = await scratch();
  const gone = join(place.folder, "gone.db");
  const repository = await openSqlite(gone);
  await repository.append(sends("a", 1, 3));
  await cp(`${gone}-wal`, `${place.path}-wal`);
  await repository.close();
  const anew = await openSqlite(place.path);
  expect(Number((await anew.head(room)).seq)).toBe(0);
  expect(await anew.append(sends("a", 1, 1))).toMatchObject([{ kind: "stored", message: { seq: 1 } }]);
  await anew.close();
  expect(inspected(place.path)).toMatchObject({ messages: 1, check: [["ok"]] });
});
