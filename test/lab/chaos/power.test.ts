/** The disk of the harness, used by programs that write through the C library (Python) and by themselves (Bun). */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { temporaryFolder } from "../../fixture/program.ts";
import { PYTHON } from "../../fixture/python.ts";
import { type Machine, type Machines, openMachines } from "./machine.ts";
import type { Loss } from "./power.ts";

let machines: Machines;
beforeAll(async () => {
  machines = await openMachines();
});
afterAll(() => machines.remove());

const PAGE = 4_096;
const EVERYTHING: Loss = { page: () => true, size: () => true, name: () => true };
const NOTHING: Loss = { page: () => false, size: () => false, name: () => false };

/** Programs that begin and end on one machine, each with the database's folder as its own. */
async function openDesk() {
  const { path: folder, remove } = await temporaryFolder();
  const machine: Machine = await machines.make(folder);
  async function run(command: readonly string[]): Promise<string> {
    const env = { ...(process.env as Record<string, string>), ...machine.env };
    const child = Bun.spawn([...command], { cwd: folder, env, stdout: "pipe", stderr: "pipe" });
    const [said, wrong] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    if ((await child.exited) !== 0) throw new Error(wrong);
    return said;
  }
  const path = (name = "chat.db") => join(folder, name);
  return {
    machine,
    path,
    /** Through the C library. `w(number, letter)` fills a page, `sync()` says whether that went well. */
    python: (steps: string, name = "chat.db") =>
      run([
        PYTHON,
        "-c",
        `import os
fd = os.open("${name}", os.O_RDWR | os.O_CREAT)
def w(number, letter, fd=fd): os.pwrite(fd, letter.encode() * ${PAGE}, number * ${PAGE})
def sync(fd=fd):
    try: os.fdatasync(fd)
    except OSError: print("failed", end="")
def folder(): os.fsync(os.open(".", os.O_RDONLY))
${steps}`,
      ]),
    /** By bare system calls. */
    bun: (steps: string) =>
      run([
        process.execPath,
        "-e",
        `const fs = require("node:fs");
const fd = fs.openSync("chat.db", "r+");
const w = (number, letter) => fs.writeSync(fd, Buffer.alloc(${PAGE}, letter), 0, ${PAGE}, number * ${PAGE});
${steps}`,
      ]),
    /** One letter for each page, `.` where it is zeros. */
    async pages(name = "chat.db"): Promise<string> {
      const bytes = await readFile(path(name));
      return Array.from({ length: Math.ceil(bytes.length / PAGE) }, (_, number) =>
        String.fromCharCode(bytes[number * PAGE] || 46),
      ).join("");
    },
    [Symbol.asyncDispose]: remove,
  };
}

test("losePower takes back what no sync followed, and nothing that one did", async () => {
  await using desk = await openDesk();
  await desk.python(`for n in range(4): w(n, "a")
sync(); folder()
w(1, "b"); w(5, "b")`);
  expect(await desk.pages()).toBe("abaa.b");
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("aaaa");
});

test("losePower takes back any pages that the loss names, not only the last ones", async () => {
  await using desk = await openDesk();
  await desk.python(`for n in range(6): w(n, "a")
sync(); folder()
for n in range(8): w(n, "b")`);
  let page = 0;
  const lost = await desk.machine.losePower({ ...NOTHING, page: () => page++ % 2 === 0 });
  expect(await desk.pages()).toBe("ababab.b");
  expect(lost).toEqual({ taken: 4, unsynced: 9, images: 1 });
});

test("a failed sync makes what it was to write look clean, for later syncs and for the next process too", async () => {
  await using desk = await openDesk();
  await desk.python(`for n in range(4): w(n, "a")\nsync(); folder()`);
  await desk.machine.setDisk("syncFails");
  expect(await desk.python(`w(1, "b"); w(2, "b"); sync()`)).toBe("failed");
  await desk.machine.setDisk(null);
  // Another process reads it well, adds to it, and its sync succeeds.
  expect(await desk.python(`w(3, "c"); sync(); print(os.pread(fd, 1, ${PAGE}).decode(), end="")`)).toBe("b");
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("aaac");
});

test("a page that is written again after a failed sync is on the disk once a sync succeeds, be it the same bytes", async () => {
  await using desk = await openDesk();
  await desk.python(`for n in range(4): w(n, "a")\nsync(); folder()`);
  await desk.machine.setDisk("syncFails");
  await desk.python(`w(1, "b"); w(2, "b"); sync()`);
  await desk.machine.setDisk(null);
  await desk.python(`w(2, "b"); sync()`);
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("aaba");
});

test("the same bytes written again by bare system calls count for all that was lost of the file", async () => {
  await using desk = await openDesk();
  await desk.python(`for n in range(100): w(n, "a")\nsync(); folder()`);
  await desk.machine.setDisk("syncFails");
  await desk.python(`w(1, "b"); w(2, "b"); sync()`);
  await desk.machine.setDisk(null);
  await desk.bun(`fs.fdatasyncSync(fd); w(1, "b"); w(2, "b"); fs.fdatasyncSync(fd)`);
  await desk.machine.losePower(EVERYTHING);
  expect((await desk.pages()).slice(0, 4)).toBe("abba");
  // A cut is no such thing.
  await desk.machine.setDisk("syncFails");
  await desk.python(`w(1, "c"); sync()`);
  await desk.machine.setDisk(null);
  await desk.python(`os.ftruncate(fd, ${50 * PAGE}); sync()`);
  await desk.machine.losePower(EVERYTHING);
  const pages = await desk.pages();
  expect([pages.slice(0, 4), pages.length]).toEqual(["abba", 50]);
});

test("what Bun writes by itself is unsynced before a sync, and on the disk after one", async () => {
  await using desk = await openDesk();
  await desk.python(`for n in range(200): w(n, "a")\nsync(); folder()`);
  await desk.bun(`w(1, "b"); fs.fdatasyncSync(fd); w(2, "c")`);
  await desk.machine.losePower(EVERYTHING);
  expect((await desk.pages()).slice(0, 4)).toBe("abaa");
  await desk.machine.setDisk("syncFails");
  await desk.bun(`w(2, "d"); try { fs.fdatasyncSync(fd) } catch {}`);
  await desk.machine.setDisk(null);
  await desk.bun(`w(3, "e"); fs.fdatasyncSync(fd)`);
  await desk.machine.losePower(EVERYTHING);
  expect((await desk.pages()).slice(0, 5)).toBe("abaea");
});

test("two writers of one file that take turns are both seen", async () => {
  await using desk = await openDesk();
  // More than is compared whole.
  await desk.python(`import subprocess
def bun(number): subprocess.run(["${process.execPath}", "-e", """const fs = require("node:fs");
fs.writeSync(fs.openSync("chat.db", "r+"), Buffer.alloc(${PAGE}, "c"), 0, ${PAGE}, ${PAGE} * Number(process.argv[1]))""",
  str(number)], check=True)
for n in range(200): w(n, "a")
sync(); folder()
w(1, "b"); bun(100); w(2, "d"); sync()
bun(101); sync()
w(3, "e")`);
  await desk.machine.losePower(EVERYTHING);
  const pages = await desk.pages();
  expect([pages.slice(0, 5), pages.slice(99, 103)]).toEqual(["abdaa", "acca"]);
});

test("a file that was cut has its old size and its old pages back, or its new size, as the loss says", async () => {
  await using desk = await openDesk();
  const cut = `for n in range(4): w(n, "a")
sync(); folder()
os.ftruncate(fd, ${PAGE}); w(0, "b")`;
  await desk.python(cut);
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("aaaa");
  await desk.python(cut);
  await desk.machine.losePower({ ...NOTHING, page: () => true });
  expect(await desk.pages()).toBe("a");
  await desk.python(`os.ftruncate(fd, 0); w(2, "c"); sync(); os.ftruncate(fd, ${2 * PAGE}); sync()`);
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("..");
});

test("a sync that began earlier and ends later does not undo the one between", async () => {
  await using desk = await openDesk();
  await desk.python(`import threading, time
w(0, "a"); w(1, "a")
fault = os.environ["DISK_FAULT"]
open(fault, "w").write("l")
slow = threading.Thread(target=sync); slow.start()
time.sleep(0.02)
os.unlink(fault)
w(1, "b"); sync(); folder()
slow.join()
w(2, "c")`);
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("ab");
});

test("names of the database's files are durable once their folder is", async () => {
  await using desk = await openDesk();
  const make = (letter: string) => desk.python(`w(0, "${letter}"); sync()`, "chat.db-making");
  await make("a");
  await desk.python(`os.rename("chat.db-making", "chat.db"); folder()`, "chat.db-making");
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("a");
  await make("b");
  await desk.python(`os.rename("chat.db-making", "chat.db")`, "chat.db-making");
  expect(await desk.pages()).toBe("b");
  await desk.machine.losePower({ ...NOTHING, name: () => true });
  expect([await desk.pages(), existsSync(desk.path("chat.db-making"))]).toEqual(["a", false]);
  await desk.python(`os.unlink("chat.db")`);
  await desk.machine.losePower({ ...NOTHING, name: () => true });
  expect(await desk.pages()).toBe("a");
  // Another file of the same name, and perhaps of the same inode, has nothing of the former one's.
  await desk.python(`os.unlink("chat.db"); fd = os.open("chat.db", os.O_RDWR | os.O_CREAT)
w(1, "z", fd); folder()`);
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("");
});

test("settleDisk takes what an operator has put there for synced", async () => {
  await using desk = await openDesk();
  await desk.python(`w(0, "a"); sync(); folder()`);
  await writeFile(desk.path("a copy"), Buffer.alloc(2 * PAGE, "b"));
  await rename(desk.path("a copy"), desk.path());
  await desk.machine.settleDisk();
  await desk.machine.losePower(EVERYTHING);
  expect(await desk.pages()).toBe("bb");
  await rm(desk.path());
});
