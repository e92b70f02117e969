/** The machine under a service, as far as a fault can change it: its disk and its clock. */

import { mkdir, open, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { diskFaults } from "../../fixture/disk.ts";
import { temporaryFolder } from "../../fixture/program.ts";
import { failPower, type Loss, type Lost, settle } from "./power.ts";

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
  /** The power fails, once the services are dead: of what no good sync followed, the loss decides what is taken back. */
  losePower(loss: Loss): Promise<Lost>;
  /** An operator has put files into the folder, while no service runs: they are on the disk. */
  settleDisk(): Promise<void>;
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
      const model = join(folder, "disk");
      await mkdir(model);
      await writeFile(shift, new BigInt64Array(1));
      // In place: the service has the file mapped, and would die of one that is empty for a moment.
      const setClock = async (seconds: number) => {
        const file = await open(shift, "r+");
        await file.write(new BigInt64Array([BigInt(seconds)]), 0, 8, 0);
        await file.close();
      };
      return {
        // In this order: the model of the disk hears what a broken disk refuses.
        env: {
          LD_PRELOAD: `${power}:${disk}:${clock}`,
          DISK_FAULT: flag,
          POWER_DISK: model,
          CLOCK_SHIFT: shift,
        },
        setClock,
        async setDisk(fault) {
          if (fault === null) await rm(flag, { force: true });
          else await writeFile(flag, DISK_FAULTS[fault]);
        },
        losePower: (loss) => failPower(folder, model, loss),
        settleDisk: () => settle(folder, model),
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
