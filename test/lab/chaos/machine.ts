/** The machine under a service, as far as a fault can change it: its disk and its clock. */

import { mkdir, open, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { diskFaults } from "../../fixture/disk.ts";
import { temporaryFolder } from "../../fixture/program.ts";

/** How a disk can fail; the letters are those of disk-faults.c. */
export const DISK_FAULTS = {
  full: "w",
  torn: "p",
  readOnly: "r",
  writeError: "i",
  syncFails: "s",
  syncSlow: "l",
  syncHangs: "h",
} as const;
export type DiskFault = keyof typeof DISK_FAULTS;

export interface Machine {
  /** What a service must be started with to run on this machine. */
  readonly env: Readonly<Record<string, string>>;
  /** Seconds that the time of day is ahead (behind, below zero) from now on. */
  setClock(seconds: number): Promise<void>;
  /** The latest fault wins; null makes the disk whole. */
  setDisk(fault: DiskFault | null): Promise<void>;
  /**
   * What the database's files lose when the power fails, once the service is dead: for each file the last writes that no
   * sync has followed, as many as `share` says (1: all of them). Resolves with how many writes were lost, and of how many
   * files any were remembered.
   */
  losePower(share: () => number): Promise<{ readonly writes: number; readonly files: number }>;
}

export interface Machines {
  /** A machine with faults of its own, whose files lie in that folder. */
  make(folder: string): Promise<Machine>;
  remove(): Promise<void>;
}

/** Compiles the libraries that make machines fail, once for a run. */
export async function openMachines(): Promise<Machines> {
  const { path, remove } = await temporaryFolder();
  const { LD_PRELOAD: disk } = await diskFaults(path, {});
  const [power, clock] = await Promise.all([compile(path, "power-faults"), compile(path, "clock-faults")]);
  return {
    async make(folder) {
      const [shift, flag] = [join(folder, "clock-shift"), join(folder, "disk-fault")];
      const undo = join(folder, "undo");
      await mkdir(undo);
      await writeFile(shift, new BigInt64Array(1));
      // In place: the service has the file mapped, and would die of one that is empty for a moment.
      const setClock = async (seconds: number) => {
        const file = await open(shift, "r+");
        await file.write(new BigInt64Array([BigInt(seconds)]), 0, 8, 0);
        await file.close();
      };
      return {
        // In this order: what a broken disk refuses never gets as far as its cache.
        env: {
          LD_PRELOAD: `${disk}:${power}:${clock}`,
          DISK_FAULT: flag,
          POWER_UNDO: undo,
          CLOCK_SHIFT: shift,
        },
        setClock,
        async setDisk(fault) {
          if (fault === null) await rm(flag, { force: true });
          else await writeFile(flag, DISK_FAULTS[fault]);
        },
        async losePower(share) {
          const names = await readdir(undo);
          let writes = 0;
          for (const name of names) writes += await takeBack(join(undo, name), share());
          return { writes, files: names.length };
        },
      };
    },
    remove,
  };
}

async function compile(folder: string, name: string): Promise<string> {
  const library = join(folder, `${name}.so`);
  const source = join(import.meta.dir, `${name}.c`);
  const gcc = Bun.spawn(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], { stderr: "pipe" });
  if ((await gcc.exited) !== 0) throw new Error(`gcc failed: ${await new Response(gcc.stderr).text()}`);
  return library;
}

const PATH_BYTES = 512;
const ENTRY_BYTES = 24;

/** Takes back that share of the remembered writes, the last one first, and forgets the rest: they reached the disk. */
async function takeBack(undo: string, share: number): Promise<number> {
  const bytes = await readFile(undo);
  await rm(undo);
  const path = bytes.toString("utf8", 0, bytes.indexOf(0));
  const writes: { offset: number; size: number; former: Buffer }[] = [];
  for (let at = PATH_BYTES; at + ENTRY_BYTES <= bytes.length;) {
    const length = Number(bytes.readBigInt64LE(at + 8));
    const former = bytes.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + length);
    // The process died in the middle of remembering: the write itself was never made.
    if (former.length < length) break;
    writes.push({
      offset: Number(bytes.readBigInt64LE(at)),
      size: Number(bytes.readBigInt64LE(at + 16)),
      former,
    });
    at += ENTRY_BYTES + length;
  }
  const lost = writes.slice(writes.length - Math.ceil(writes.length * share));
  if (lost.length === 0 || !(await stat(path).catch(() => null))) return 0;
  const file = await open(path, "r+");
  for (const { offset, size, former } of lost.reverse()) {
    if (former.length > 0) await file.write(former, 0, former.length, offset);
    await file.truncate(size);
  }
  await file.close();
  // It holds nothing that a reader of the log could not find out again, and knows of frames that are gone.
  await rm(`${path.replace(/-wal$/, "")}-shm`, { force: true });
  return lost.length;
}
