/** What the figures were taken on, and what the system says about a process. */

import { Database } from "bun:sqlite";
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
import { ownFolder } from "./belongings.ts";

const ROOT = resolve(import.meta.dir, "../../..");

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

/** The cores of a list as Linux writes them: "0-2,5". */
export function coresIn(list: string): number[] {
  return list.split(",").flatMap((part) => {
    const [first = Number.NaN, last = first] = part.split("-").map((digits) => Number.parseInt(digits, 10));
    return first <= last ? Array.from({ length: last - first + 1 }, (_, index) => first + index) : [];
  });
}

let allowed: readonly number[] | undefined;

/** The cores that this process was started with, whatever it was put on since. */
function allowedCores(): readonly number[] {
  if (allowed !== undefined) return allowed;
  try {
    const status = readFileSync("/proc/self/status", "utf8");
    allowed = coresIn(/^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1] ?? "");
  } catch {
    allowed = Array.from({ length: availableParallelism() }, (_, index) => index);
  }
  return allowed;
}

const canPin = () => Bun.which("taskset") !== null && allowedCores().length > 1;

/** The generator has one core for itself, the server another: the first two that there are. */
const coreOf = (whose: "server" | "generator") => String(allowedCores()[whose === "server" ? 1 : 0]);

/** Puts a command on a core, where the system has `taskset` and cores to choose from; else leaves it as it is. */
export function onCoreOf(whose: "server" | "generator", command: readonly string[]): string[] {
  return canPin() ? ["taskset", "-c", coreOf(whose), ...command] : [...command];
}

/** Leaves the server's core to the server; what this process starts from now on stays with it where it is not put elsewhere. */
export function stayWithGenerators(): void {
  if (canPin()) Bun.spawnSync(["taskset", "-a", "-p", "-c", coreOf("generator"), String(process.pid)]);
}

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

/** A folder for the stores: on a disk, as an fsync in memory costs nothing and would flatter the server that syncs most. */
export async function storeFolder(): Promise<ReturnType<typeof ownFolder>> {
  const temporary = tmpdir();
  const isOnDisk = !IN_MEMORY.has(fileSystemOf(temporary));
  const place = isOnDisk ? temporary : join(ROOT, ".cache");
  await mkdir(place, { recursive: true });
  return ownFolder(await mkdtemp(join(place, "chat-bench-")));
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
  /** The commit that was measured, and whether the tree held anything else; null outside of a clone. */
  readonly commit: string | null;
  readonly dirty: boolean | null;
  readonly bun: string;
  /** Null where nobody asked for it, or where there is none. */
  readonly node: string | null;
  readonly sqlite: string;
  readonly socketIo: string;
  readonly bunEngine: string;
  readonly system: string;
  readonly processor: string;
  readonly cores: number;
  readonly pinned: boolean;
  /** `ulimit -n`; null where there is no limit. */
  readonly openFiles: number | null;
  readonly fileSystem: string;
  readonly syncMs: number;
}

/** What the command printed; null where it is missing or fails. */
function said(...command: readonly string[]): string | null {
  if (Bun.which(command[0] ?? "") === null) return null;
  const { success, stdout } = Bun.spawnSync([...command], { cwd: ROOT, stderr: "ignore" });
  return success ? stdout.toString().trim() : null;
}

function sqliteVersion(): string {
  const db = new Database(":memory:");
  try {
    return String(db.query("SELECT sqlite_version()").values()[0]?.[0]);
  } finally {
    db.close();
  }
}

/** @param parts `node`: whether anybody is measured who runs on it */
export function describeMachine(folder: string, { node = false } = {}): Machine {
  const commit = said("git", "rev-parse", "--short", "HEAD");
  const changes = said("git", "status", "--porcelain");
  const openFiles = descriptors();
  return {
    commit,
    dirty: commit === null || changes === null ? null : changes !== "",
    bun: Bun.version,
    node: node ? said("node", "--version") : null,
    sqlite: sqliteVersion(),
    socketIo: socketIo.version,
    bunEngine: bunEngine.version,
    system: `${process.platform} ${release()} ${process.arch}`,
    processor: cpus()[0]?.model.trim() ?? "unknown",
    cores: allowedCores().length,
    pinned: canPin(),
    openFiles: Number.isFinite(openFiles) ? openFiles : null,
    fileSystem: fileSystemOf(folder),
    syncMs: syncMs(folder),
  };
}
