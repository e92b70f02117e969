/** A backup: everything that was acked, in one verified file, or no file. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { copyFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { backUp } from "../../../src/repository/sqlite/backup.ts";
import { openSqlite, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const failure = (work: () => unknown) => {
  try {
    work();
    return "it went on";
  } catch (error) {
    return (error as Error).message;
  }
};

test("backUp writes what a service has acked until then, while it goes on, for the owner only", async () => {
  await using place = await scratch();
  const to = join(place.folder, "backup");
  await using store = sqliteChild("commanded", place.path);
  await store.next();
  expect(await store.ask("append 1 300")).toEqual({ kinds: ["stored"] });
  expect(backUp(place.path, to)).toEqual({ path: to, messages: 300, bytes: statSync(to).size });
  expect(statSync(to).mode & 0o777).toBe(0o600);
  const copy = new Database(to, { readonly: true });
  expect(copy.query("PRAGMA integrity_check").values()).toEqual([["ok"]]);
  copy.close();
  expect(await store.ask("append 301 1")).toEqual({ kinds: ["stored"] });
  expect(readdirSync(place.folder).filter((name) => name.startsWith("backup"))).toEqual(["backup"]);
});

test("backUp has what a killed process has left in the log", async () => {
  await using place = await scratch();
  {
    await using store = sqliteChild("commanded", place.path);
    await store.next();
    await store.ask("append 1 30");
  }
  expect(backUp(place.path, join(place.folder, "backup")).messages).toBe(30);
  const repository = await openSqlite(place.path);
  expect(await repository.append(sends("a", 30, 2))).toMatchObject([
    { kind: "duplicate" },
    { kind: "stored" },
  ]);
  await repository.close();
});

test("backUp replaces nothing, and leaves no file where it fails", async () => {
  await using place = await scratch();
  const to = join(place.folder, "backup");
  expect(failure(() => backUp(place.path, to))).toBe(`SQLite file ${place.path} does not exist`);
  const repository = await openSqlite(place.path);
  for (let sent = 1; sent < 2_000; sent += 500) await repository.append(sends("a", sent, 500, 1_000));
  await repository.close();
  writeFileSync(to, "another's");
  expect(failure(() => backUp(place.path, to))).toBe(
    `${to} exists already: a backup does not replace a file`,
  );
  expect(await Bun.file(to).text()).toBe("another's");

  const corrupt = join(place.folder, "corrupt.db");
  copyFileSync(place.path, corrupt);
  const file = await open(corrupt, "r+");
  await file.write(Buffer.alloc(400_000, 0xa5), 0, 400_000, 200_000);
  await file.close();
  const before = readdirSync(place.folder).length;
  expect(failure(() => backUp(corrupt, `${to}-2`))).toBe(`SQLite file ${corrupt} is corrupt`);
  expect(failure(() => backUp(place.path, join(place.folder, "no", "backup")))).toMatch(
    /^[^\n]*cannot be[^\n]*$/,
  );
  const others = readdirSync(place.folder).filter((name) => !/-(wal|shm)$/.test(name));
  expect(others).toHaveLength(before);
});
