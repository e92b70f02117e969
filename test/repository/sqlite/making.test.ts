/** A new embedded store: whole or not there, with nothing of another's life, and never in the place of what is not ours. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { chmodSync, linkSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import type { Epoch, RoomName } from "../../../src/domain/ids.ts";
import { makeStore } from "../../../src/repository/sqlite/making.ts";
import { openSqlite, scratch, sends } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;
const EPOCH = "life-1" as Epoch;

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
  makeStore(place.path, EPOCH);
  expect(readdirSync(place.folder).toSorted()).toEqual(["chat.db", "chat.db.new"]);
  expect(inspected(place.path)).toEqual({ mode: "wal", epochs: [[EPOCH]], messages: 0, check: [["ok"]] });
});

test("makeStore leaves what has anything in it", async () => {
  await using place = await scratch();
  writeFileSync(place.path, "x");
  makeStore(place.path, EPOCH);
  expect(await Bun.file(place.path).text()).toBe("x");
  makeStore(join(place.folder, "nothing.db"), EPOCH);
  expect(readdirSync(place.folder)).toEqual(["chat.db"]);
});

test("makeStore keeps an empty file that its owner made in some other way, and SQLite makes the store in it", async () => {
  await using place = await scratch();
  const secret = join(place.folder, "secret.db");
  writeFileSync(secret, "");
  chmodSync(secret, 0o600);
  const named = join(place.folder, "named.db");
  writeFileSync(named, "");
  linkSync(named, join(place.folder, "another name"));
  for (const path of [secret, named]) {
    const { ino, mode } = statSync(path);
    makeStore(path, EPOCH);
    expect([statSync(path).size, statSync(path).ino]).toEqual([0, ino]);
    const repository = await openSqlite(path);
    await repository.append(sends("a", 1, 1));
    await repository.close();
    expect([statSync(path).ino, statSync(path).mode]).toEqual([ino, mode]);
    expect(inspected(path)).toMatchObject({ mode: "wal", messages: 1, check: [["ok"]] });
  }
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
