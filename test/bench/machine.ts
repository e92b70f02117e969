/** What the figures were taken on, and what the system says about a process. */

import {
  closeSync,
  fdatasyncSync,
  openSync,
  readFileSync,
  realpathSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { mkdir, mkdtemp } from "node:fs/promises";
import { availableParallelism, cpus, release, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import bunEngine from "@socket.io/bun-engine/package.json";
import socketIo from "socket.io/package.json";

/** Ticks of /proc's clocks a second; 100 on every Linux that Bun runs on (sysconf(_SC_CLK_TCK)). */
const TICKS_PER_SECOND = 100;

/** User and system time of all threads of the process, in seconds; null where there is no /proc. */
export function cpuSecondsOf(pid: number): number | null {
  try {
    // The second field is a name in parentheses, and may hold spaces: utime and stime are the 12th and 13th after it.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch {
    return null;
  }
}

/** What all cores together have worked for anybody, in seconds; null where there is no /proc. */
export function busySeconds(): number | null {
  try {
    const fields = readFileSync("/proc/stat", "utf8").split("\n", 1)[0]?.trim().split(/ +/).slice(1) ?? [];
    // user nice system idle iowait irq softirq: all but the two in which a core had nothing to do.
    const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = fields.map(Number);
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND;
  } catch {
    return null;
  }
}

/** Memory of the process that is in RAM; null where there is no /proc. */
export function residentBytesOf(pid: number): number | null {
  try {
    const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return kilobytes === undefined ? null : Number(kilobytes) * 1_024;
  } catch {
    return null;
  }
}

/** Puts a command on one core, where the system has `taskset` and a core to choose; else leaves it as it is. */
export function onCore(core: number, command: readonly string[]): string[] {
  return canPin() ? ["taskset", "-c", String(core), ...command] : [...command];
}

export const canPin = () => Bun.which("taskset") !== null && availableParallelism() > 1;

/** The type of the file system that holds the folder; "unknown" where there is no /proc. */
export function fileSystemOf(folder: string): string {
  try {
    const path = `${realpathSync(folder)}/`;
    let best = { point: "", type: "unknown" };
    for (const line of readFileSync("/proc/self/mounts", "utf8").split("\n")) {
      const [, point = "", type = ""] = line.split(" ");
      const prefix = point.endsWith("/") ? point : `${point}/`;
      if (point !== "" && path.startsWith(prefix) && point.length >= best.point.length)
        best = { point, type };
    }
    return best.type;
  } catch {
    return "unknown";
  }
}

/** How many files this process, and each that it starts, may have open. */
export function descriptors(): number {
  const said = Bun.spawnSync(["sh", "-c", "ulimit -n"]).stdout.toString().trim();
  return said === "unlimited" ? Number.POSITIVE_INFINITY : Number(said);
}

export const IN_MEMORY: ReadonlySet<string> = new Set(["tmpfs", "ramfs"]);

/** A folder for the stores: on a disk, as an fsync in memory costs nothing and would flatter whoever syncs most. */
export async function storeFolder(): Promise<string> {
  const temporary = tmpdir();
  if (!IN_MEMORY.has(fileSystemOf(temporary))) return mkdtemp(join(temporary, "chat-bench-"));
  const cache = resolve(import.meta.dir, "../../.cache");
  await mkdir(cache, { recursive: true });
  return mkdtemp(join(cache, "chat-bench-"));
}

/** The median time of an fdatasync after 4 kB more, in milliseconds: what each durable commit waits for. */
export function syncMs(folder: string): number {
  const path = join(folder, "sync-probe");
  const file = openSync(path, "w");
  const page = Buffer.alloc(4_096, 1);
  const times = Array.from({ length: 101 }, () => {
    writeSync(file, page);
    const began = performance.now();
    fdatasyncSync(file);
    return performance.now() - began;
  }).sort((a, b) => a - b);
  closeSync(file);
  unlinkSync(path);
  return times[50] as number;
}

export interface Machine {
  readonly bun: string;
  readonly socketIo: string;
  readonly bunEngine: string;
  readonly system: string;
  readonly processor: string;
  readonly cores: number;
  readonly pinned: boolean;
  readonly fileSystem: string;
  readonly syncMs: number;
}

export const describeMachine = (folder: string): Machine => ({
  bun: Bun.version,
  socketIo: socketIo.version,
  bunEngine: bunEngine.version,
  system: `${process.platform} ${release()} ${process.arch}`,
  processor: cpus()[0]?.model.trim() ?? "unknown",
  cores: availableParallelism(),
  pinned: canPin(),
  fileSystem: fileSystemOf(folder),
  syncMs: syncMs(folder),
});
