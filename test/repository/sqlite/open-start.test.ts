/** What stops the embedded store at its start, each with one line; what a file may suffer while it runs; migrations. */

import { Database } from "bun:sqlite";
import { expect, spyOn, test } from "bun:test";
import { mkdir, open as openFile, rename, symlink, unlink } from "node:fs/promises";
import { join } from "node:path";
import type { RoomName, Seq } from "../../../src/domain/ids.ts";
import { ChatError } from "../../../src/errors.ts";
import { LIMITS } from "../../../src/limits.ts";
import { MIGRATIONS, migrate } from "../../../src/repository/sqlite/schema.ts";
import { openSqlite, rejection, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;

const startFault = (path: string) =>
  openSqlite(path).then(
    async (repository) => {
      await repository.close();
      return "it opened";
    },
    (error: Error) => error.message,
  );

async function filled(path: string, messages = 10, textBytes = 0) {
  const repository = await openSqlite(path);
  for (let from = 1; from <= messages; from += LIMITS.batchMessagesMax)
    await repository.append(
      sends("a", from, Math.min(LIMITS.batchMessagesMax, messages + 1 - from), textBytes),
    );
  await repository.close();
}

async function overwrite(path: string, at: number, bytes: number) {
  const file = await openFile(path, "r+");
  await file.write(Buffer.alloc(bytes, 0xa5), 0, bytes, at);
  await file.close();
}

test("openSqliteRepository makes the folder, and gives the file's true path as its place", async () => {
  await using place = await scratch();
  const path = join(place.folder, "deep", "er", "chat.db");
  const repository = await openSqlite(path);
  expect([repository.kind, repository.shared, repository.place]).toEqual(["sqlite", false, path]);
  await repository.close();
});

test("openSqliteRepository refuses what is no database of ours with one line", async () => {
  await using place = await scratch();
  const { folder, path } = place;

  await Bun.write(path, "this is no database at all, but long enough to look at ".repeat(40));
  expect(await startFault(path)).toBe(`SQLite file ${path} is not a database`);
  expect(await Bun.file(path).text()).toStartWith("this is no database");

  const corrupt = join(folder, "corrupt.db");
  await filled(corrupt);
  await overwrite(corrupt, 4_096, 3 * 4_096);
  expect(await startFault(corrupt)).toBe(`SQLite file ${corrupt} is corrupt`);

  const foreign = join(folder, "foreign.db");
  const other = new Database(foreign);
  other.run("CREATE TABLE theirs (x)");
  other.close();
  expect(await startFault(foreign)).toBe(`SQLite file ${foreign} belongs to another program`);

  const newer = join(folder, "newer.db");
  await filled(newer);
  const future = new Database(newer);
  future.run("PRAGMA user_version = 99");
  future.close();
  expect(await startFault(newer)).toBe(
    `SQLite file ${newer} has schema 99, this program knows only up to ${MIGRATIONS.at(-1)?.version}: use a newer program`,
  );

  const directory = join(folder, "directory");
  await mkdir(directory);
  expect(await startFault(directory)).toStartWith(`SQLite file ${directory} is a folder`);

  const under = join(path, "sub", "chat.db");
  expect(await startFault(under)).toStartWith(`SQLite file ${under}: its folder cannot be made`);
  for (const fault of [corrupt, foreign, newer, directory])
    expect(await startFault(fault)).not.toContain("\n");
});

test("openSqliteRepository refuses a file and a folder that may only be read", async () => {
  await using place = await scratch();
  await filled(place.path);
  await Bun.$`chmod 755 ${place.folder}`;
  // A user that may write anywhere must not be the one that tries: the child gives its rights away.
  const refused = async () => {
    await using child = sqliteChild(process.getuid?.() === 0 ? "nobody" : "hold", place.path);
    return (await child.next()).refused;
  };
  await Bun.$`chmod 555 ${place.folder}`;
  expect(await refused()).toMatch(/^SQLite file .* cannot be (opened|written): [^\n]*$/);
  await Bun.$`chmod 777 ${place.folder} && chmod 666 ${place.path}.lock && chmod 444 ${place.path}`;
  expect(await refused()).toMatch(/^SQLite file .* cannot be opened: [^\n]*not accessible$/);
});

test("openSqliteRepository refuses a file that is in use, by this process or another, until that one ends", async () => {
  await using place = await scratch();
  const line = `SQLite file ${place.path} is locked by another process`;
  {
    await using holder = sqliteChild("hold", place.path);
    expect(await holder.next()).toEqual({ open: true });
    expect(await startFault(place.path)).toBe(line);
    const alias = join(place.folder, "alias");
    await Bun.$`ln -s ${place.folder} ${alias}`;
    expect(await startFault(join(alias, "chat.db"))).toBe(line);
    // It is killed here: the kernel frees the lock.
  }
  const repository = await openSqlite(place.path);
  expect(await startFault(place.path)).toBe(line);
  await using second = sqliteChild("hold", place.path);
  expect(await second.next()).toEqual({ refused: line });
  // The refusals have not loosened the first one's hold on the file.
  await repository.append(sends("a", 1, 1));
  await repository.close();
  expect(await startFault(place.path)).toBe("it opened");
});

test("reads and appends of a corrupt file are unavailable, and the process lives", async () => {
  await using place = await scratch();
  // Larger than what is verified at the start.
  const messages = LIMITS.verifiedAtStartBytes / 4_000;
  await filled(place.path, messages, 8_000);
  await overwrite(place.path, LIMITS.verifiedAtStartBytes / 2, 400_000);
  const repository = await openSqlite(place.path);
  const outcomes = new Set<string>();
  for (let after = 0; after < messages; after += 50) {
    const bounds = { messagesMax: 50, textBytesMax: 10_000_000 };
    await repository.readAfter(room, after as Seq, bounds).then(
      () => outcomes.add("read"),
      (error: unknown) => outcomes.add(error instanceof ChatError ? error.code : String(error)),
    );
  }
  expect(outcomes).toEqual(new Set(["read", "storage_unavailable"]));
  const [result] = await repository.append(sends("b", 1, 1));
  expect(result).toMatchObject({ kind: "stored", message: { seq: 1 } });
  await repository.close();
});

test("append waits for a foreign writer without stopping the event loop", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  const shell = new Database(place.path);
  shell.run("BEGIN IMMEDIATE");
  const appended = repository.append(sends("a", 1, 1));
  let ticks = 0;
  await new Promise<void>((resolve) => {
    const ticker = setInterval(() => {
      if (++ticks < 10) return;
      clearInterval(ticker);
      resolve();
    }, 1);
  });
  expect(await Promise.race([appended, Promise.resolve("waiting")])).toBe("waiting");
  shell.run("ROLLBACK");
  shell.close();
  expect(await appended).toMatchObject([{ kind: "stored" }]);
  await repository.close();
});

test("append after close stores nothing, and says so", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.close();
  expect(rejection(await repository.append(sends("a", 1, 1)))).toMatch(/^storage_unavailable: .* not store/);
});

test("append that was begun is finished by close", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  const appended = repository.append(sends("a", 1, 5));
  const closed = repository.close();
  expect((await appended).map((result) => result.kind)).toEqual(Array(5).fill("stored"));
  await closed;
  const reopened = await openSqlite(place.path);
  expect(Number((await reopened.head(room)).seq)).toBe(5);
  await reopened.close();
});

test("migrate brings an old file up step by step, each step whole or not at all", async () => {
  await using place = await scratch();
  await filled(place.path);
  const db = new Database(place.path);
  const version = () => Number(db.prepare("PRAGMA user_version").values()[0]?.[0]);
  const newest = MIGRATIONS.at(-1)?.version ?? 0;
  expect(version()).toBe(newest);
  const next = [
    ...MIGRATIONS,
    { version: newest + 1, sql: "CREATE TABLE extra (x) STRICT; ALTER TABLE rooms ADD COLUMN y INTEGER" },
    { version: newest + 2, sql: "CREATE TABLE half (x INTEGER) STRICT; INSERT INTO missing VALUES (1)" },
  ];
  expect(() => migrate(db, place.path, next.slice(0, -1))).toThrow();
  expect(version()).toBe(newest);
  const sound = next.map((step) =>
    step.version === newest + 1 ? { ...step, sql: step.sql.replace("(x)", "(x INTEGER)") } : step,
  );
  expect(() => migrate(db, place.path, sound)).toThrow("no such table");
  expect(version()).toBe(newest + 1);
  const tables = db.prepare("SELECT name FROM sqlite_schema WHERE name IN ('extra', 'half')").values();
  expect(tables).toEqual([["extra"]]);
  migrate(db, place.path, sound.slice(0, -1));
  expect(db.prepare("SELECT count(*) FROM messages").values()).toEqual([[10]]);
  db.close();
  expect(await startFault(place.path)).toContain(`has schema ${newest + 1}`);
});

/** Another process that reads in one transaction until it is disposed of. */
async function foreignReader(path: string) {
  const script = `const { Database } = await import("bun:sqlite");
    const db = new Database(${JSON.stringify(path)}, { readonly: true });
    db.run("BEGIN");
    console.log(db.query("SELECT count(*) FROM messages").values()[0][0]);
    for await (const _ of Bun.stdin.stream());
    db.close();`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdin: "pipe", stdout: "pipe" });
  await child.stdout.getReader().read();
  return {
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await child.exited;
    },
  };
}

test("append goes on and the store recovers and starts while a foreign process reads", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.append(sends("a", 1, 10));
  {
    await using _reader = await foreignReader(place.path);
    await repository.append(sends("a", 11, 10));
    // A passing fault: a foreign writer that stays for longer than an append waits.
    const shell = new Database(place.path);
    shell.run("BEGIN IMMEDIATE");
    expect(rejection(await repository.append(sends("a", 21, 1)))).toBe(
      "storage_unavailable: The store cannot be written; this attempt did not store the message.",
    );
    expect(repository.status().up).toBe(false);
    shell.run("ROLLBACK");
    shell.close();
    while (!repository.status().up) await new Promise((resume) => setTimeout(resume, 5));
    expect(await repository.append(sends("a", 21, 1))).toMatchObject([{ kind: "stored" }]);
    await repository.close();
    // It kept the log; the next start goes on with it.
    const reopened = await openSqlite(place.path);
    expect(Number((await reopened.head(room)).seq)).toBe(21);
    expect(await reopened.append(sends("a", 22, 1))).toMatchObject([{ kind: "stored" }]);
    await reopened.close();
  }
  const last = await openSqlite(place.path);
  expect(Number((await last.head(room)).seq)).toBe(22);
  await last.close();
}, 20_000);

test("openSqliteRepository makes the file that a link points at, and locks that one", async () => {
  await using place = await scratch();
  const link = join(place.folder, "link.db");
  await symlink(place.path, link);
  const repository = await openSqlite(link);
  expect(repository.place).toBe(place.path);
  expect(await startFault(place.path)).toBe(`SQLite file ${place.path} is locked by another process`);
  await repository.close();
});

test("openSqliteRepository refuses to write where it cannot have a write-ahead log", async () => {
  await using place = await scratch();
  const query = Database.prototype.query;
  // What SQLite answers where the folder's file system has no shared memory.
  const elsewhere = function (this: Database, sql: string) {
    return query.call(this, sql === "PRAGMA journal_mode = WAL" ? "PRAGMA journal_mode = DELETE" : sql);
  };
  using _spy = spyOn(Database.prototype, "query").mockImplementation(elsewhere as typeof query);
  expect(await startFault(place.path)).toBe(
    `SQLite file ${place.path} cannot have a write-ahead log where it lies`,
  );
});

test("status tells of a path that cannot be followed any more, and the process goes on", async () => {
  await using place = await scratch();
  const folder = join(place.folder, "deep");
  const repository = await openSqlite(join(folder, "chat.db"));
  const away = join(place.folder, "away");
  await rename(folder, away);
  await symlink(folder, folder);
  while (repository.status().up) await new Promise((resume) => setTimeout(resume, 20));
  expect(rejection(await repository.append(sends("a", 1, 1)))).toMatch(/^storage_unavailable: .* not store/);
  await unlink(folder);
  await rename(away, folder);
  while (!repository.status().up) await new Promise((resume) => setTimeout(resume, 20));
  expect(await repository.append(sends("a", 1, 1))).toMatchObject([{ kind: "stored", message: { seq: 1 } }]);
  await repository.close();
}, 20_000);

test("status tells of a file that was moved away, nothing is acked into it, and it goes on when it is back", async () => {
  await using place = await scratch();
  const repository = await openSqlite(place.path);
  await repository.append(sends("a", 1, 1));
  const away = join(place.folder, "away.db");
  await rename(place.path, away);
  while (repository.status().up) await new Promise((resume) => setTimeout(resume, 20));
  expect(repository.status()).toEqual({
    up: false,
    reason: "the file was moved or replaced while it was open",
  });
  expect(rejection(await repository.append(sends("a", 2, 1)))).toMatch(/^storage_unavailable: .* not store/);
  await rename(away, place.path);
  while (!repository.status().up) await new Promise((resume) => setTimeout(resume, 20));
  expect(await repository.append(sends("a", 2, 1))).toMatchObject([{ kind: "stored", message: { seq: 2 } }]);
  await repository.close();
}, 20_000);
