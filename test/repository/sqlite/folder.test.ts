/** What tells one file from another, and what Linux tells of an open file's mount, read without mounting anything. */

import { expect, test } from "bun:test";
import { closeSync, openSync } from "node:fs";
import { isSameFile, mountIdOf, parseMountId } from "../../../src/repository/sqlite/folder.ts";

test("parseMountId reads what Linux tells of a descriptor, and nothing where it tells nothing", () => {
  expect(parseMountId("pos:\t0\nflags:\t02100000\nmnt_id:\t1230\nino:\t15\n")).toBe(1230);
  expect(
    parseMountId("pos:\t0\nflags:\t02100000\nmnt_id:\t29\nlock:\t1: FLOCK ADVISORY WRITE 1 fe:01:15 0 EOF\n"),
  ).toBe(29);
  expect(parseMountId("pos:\t0\nflags:\t02100000\n")).toBeUndefined();
});

test("mountIdOf is one number for the files of a mount, and another one elsewhere", () => {
  const open = [`${import.meta.dir}/folder.test.ts`, import.meta.dir, "/proc/self/status"].map((path) =>
    openSync(path, "r"),
  );
  const [file, folder, elsewhere] = open.map(mountIdOf);
  for (const descriptor of open) closeSync(descriptor);
  expect(file).toBe(folder);
  expect([typeof file, file === elsewhere]).toEqual(["number", false]);
});

test("isSameFile takes files of one number on two file systems for two", () => {
  expect(isSameFile({ dev: 1, ino: 7 }, { dev: 1, ino: 7 })).toBe(true);
  expect(isSameFile({ dev: 1, ino: 7 }, { dev: 1, ino: 8 })).toBe(false);
  expect(isSameFile({ dev: 1, ino: 7 }, { dev: 2, ino: 7 })).toBe(false);
});
