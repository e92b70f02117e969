/** A file's lock: one holder, whatever name leads to the file, until the descriptor is closed. */

import { expect, test } from "bun:test";
import { closeSync, linkSync, mkdtempSync, openSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lockFile } from "../../src/runtime/libc.ts";

test("lockFile has one holder of a file under all its names, until its descriptor is closed", () => {
  const folder = mkdtempSync(join(tmpdir(), "file-lock-"));
  try {
    const [path, second, third] = ["a", "b", "c"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    const holder = openSync(path, "w");
    expect(lockFile(holder)).toBe(true);
    linkSync(path, second);
    renameSync(path, third);
    for (const name of [second, third]) {
      const other = openSync(name, "r+");
      expect(lockFile(other)).toBe(false);
      // Unlike a POSIX lock it is not lost when another descriptor of the file is closed.
      closeSync(other);
    }
    closeSync(holder);
    const next = openSync(second, "r+");
    expect(lockFile(next)).toBe(true);
    closeSync(next);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
