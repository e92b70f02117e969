/** One file, one process: whatever names and mounts lead to the file, and whatever is done to its names. */

import { expect, test } from "bun:test";
import { chmodSync, closeSync, linkSync, mkdirSync, openSync, statSync, writeFileSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { checkMount } from "../../../src/repository/sqlite/folder.ts";
import { openLocked } from "../../../src/repository/sqlite/hold.ts";
import { openSqlite, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const refusal = (path: string) =>
  openSqlite(path).then(
    async (repository) => {
      await repository.close();
      return "it opened";
    },
    (error: Error) => error.message,
  );

test("openSqliteRepository refuses a file that has two names, whichever is used", async () => {
  await using place = await scratch();
  await (await openSqlite(place.path)).close();
  const second = join(place.folder, "second.db");
  linkSync(place.path, second);
  for (const path of [place.path, second])
    expect(await refusal(path)).toBe(
      `SQLite file ${path} has 2 names (hard links), and its log belongs to one: remove the other names, or copy the file`,
    );
  await rm(second);
  expect(await refusal(place.path)).toBe("it opened");
});

test("openSqliteRepository refuses a file that another process holds by a name that it no longer has", async () => {
  await using place = await scratch();
  await using holder = sqliteChild("hold", place.path);
  expect(await holder.next()).toEqual({ open: true });
  const moved = join(place.folder, "moved.db");
  await rename(place.path, moved);
  expect(await refusal(moved)).toBe(`SQLite file ${moved} is locked by another process`);
  await rename(moved, place.path);
});

test("openSqliteRepository refuses a file that is mounted without its folder", async () => {
  await using place = await scratch();
  const [outside, inside] = [join(place.folder, "outside.db"), join(place.folder, "data", "chat.db")];
  writeFileSync(outside, "");
  mkdirSync(join(place.folder, "data"));
  writeFileSync(inside, "");
  const reason = `is mounted without its folder, and its log must lie beside it: mount the folder instead, as in -v ./data:${join(place.folder, "data")}`;
  // What is seen of it from outside is a file of another mount.
  const elsewhere = openSync("/proc/self/status", "r");
  expect(() => checkMount(inside, elsewhere)).toThrow(reason);
  closeSync(elsewhere);
  // And in a mount namespace of its own, as a container has it.
  const child = `${import.meta.dir}/../../fixture/sqlite-child.ts`;
  const script = `mount --bind "$0" "$1" && exec "$2" "$3" hold "$1" < /dev/null`;
  const isRoot = process.getuid?.() === 0;
  const unshare = ["unshare", ...(isRoot ? [] : ["--map-root-user"]), "--mount", "sh", "-c", script];
  const tried = Bun.spawnSync([...unshare.slice(0, -3), "true"]);
  if (tried.exitCode !== 0)
    throw new Error(
      `this test mounts a file: run it as root, or allow unprivileged user namespaces (${tried.stderr.toString().trim()})`,
    );
  const mounted = Bun.spawn([...unshare, outside, inside, process.execPath, child], { stderr: "pipe" });
  const said = await new Response(mounted.stdout).text();
  expect(await new Response(mounted.stderr).text()).toBe("");
  expect(JSON.parse(said)).toEqual({
    refused: `SQLite file ${inside} ${reason}`,
  });
});

test("openLocked refuses a file whose name was given to another one before it was locked", async () => {
  await using place = await scratch();
  const script = `
    const { renameSync, writeFileSync } = require("node:fs");
    const path = ${JSON.stringify(place.path)};
    for (;;) {
      writeFileSync(path + ".next", "");
      renameSync(path + ".next", path);
    }`;
  const replacer = new Worker(script, { eval: true });
  try {
    // The name is replaced between the opening and the lock every few attempts.
    const replaced = "was replaced while it was opened: start again";
    let said = "";
    for (let attempt = 0; attempt < 200_000 && said !== replaced; attempt++)
      try {
        closeSync(openLocked(place.path));
      } catch (error) {
        said = (error as Error).message;
      }
    expect(said).toBe(replaced);
  } finally {
    await replacer.terminate();
  }
  closeSync(openLocked(place.path));
});

test("openSqliteRepository makes its folder and its files for their owner only, and leaves those that are there", async () => {
  await using place = await scratch();
  const folder = join(place.folder, "deep", "er");
  const path = join(folder, "chat.db");
  const repository = await openSqlite(path);
  await repository.append(sends("a", 1, 1));
  const modeOf = (name: string) => statSync(name).mode & 0o777;
  expect([join(place.folder, "deep"), folder].map(modeOf)).toEqual([0o700, 0o700]);
  const files = ["", "-wal", "-shm", ".lock"].map((suffix) => path + suffix);
  expect(files.map(modeOf)).toEqual(files.map(() => 0o600));
  await repository.close();
  chmodSync(path, 0o640);
  const again = await openSqlite(path);
  expect([path, `${path}-wal`].map(modeOf)).toEqual([0o640, 0o640]);
  await again.close();
});
