/** How long a stretch of time was, and how much of it the program under test could not use: others had cores and disk. */

import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { crowding } from "./watch.ts";

export interface Stretch {
  readonly wallMs: number;
  /**
   * What is left without the time in which somebody on the way of an answer stood in line for a core, as Linux counts it for
   * each thread, in which anybody waited for the disk, and in which a stand-in was at work. A program that sleeps, or waits
   * for what does not come, stands in no line: however busy the machine is, its delay is its own.
   */
  readonly ownMs: number;
}

export interface OnTheWay {
  /** The program under test, and whoever asks it and looks at the clock. */
  readonly programs: readonly number[];
  /** In the place of something quicker: also what they do takes time that is nobody's fault. */
  readonly standIns: readonly number[];
}

interface Thread {
  readonly ranMs: number;
  readonly inLineMs: number;
}

/** Begins now; each look at it says how long it is. */
export function beginStretch({ programs, standIns }: OnTheWay): () => Stretch {
  const began = performance.now();
  const [programsBefore, standInsBefore] = [programs.map(threadsOf), standIns.map(threadsOf)];
  const takenBefore = takenMs();
  const isCounted = [...programsBefore, ...standInsBefore].every(({ size }) => size > 0);
  return () => {
    const wallMs = performance.now() - began;
    if (!isCounted) return { wallMs, ownMs: wallMs / crowding() };
    // A program's work is done by one thread at a time, nearly: the one that waited longest stands for it.
    const most = (pid: number, before: ReadonlyMap<string, Thread>, of: (thread: Thread) => number) =>
      Math.max(
        0,
        ...[...threadsOf(pid)].map(([id, now]) => {
          const former = before.get(id);
          return of(now) - (former === undefined ? 0 : of(former));
        }),
      );
    const inLine = programs.map((pid, index) =>
      most(pid, programsBefore[index] ?? new Map(), ({ inLineMs }) => inLineMs),
    );
    const atWork = standIns.map((pid, index) =>
      most(pid, standInsBefore[index] ?? new Map(), ({ ranMs, inLineMs }) => ranMs + inLineMs),
    );
    const lost = [...inLine, ...atWork, takenMs() - takenBefore].reduce((sum, ms) => sum + ms, 0);
    return { wallMs, ownMs: Math.max(0, wallMs - lost) };
  };
}

/** Empty where the program is gone, or the system counts nothing. */
function threadsOf(pid: number): Map<string, Thread> {
  const threads = new Map<string, Thread>();
  for (const id of entriesOf(`/proc/${pid}/task`)) {
    try {
      const [ran, inLine] = readFileSync(`/proc/${pid}/task/${id}/schedstat`, "utf8").split(" ");
      threads.set(id, { ranMs: Number(ran) / 1e6, inLineMs: Number(inLine) / 1e6 });
    } catch {
      // It ended meanwhile.
    }
  }
  return threads;
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

const TICK_MS = 10;

/** So far: what the host of a virtual machine took from each of its cores, and how long somebody waited for a disk. */
function takenMs(): number {
  const [cores = ""] = textOf("/proc/stat").split("\n", 1);
  const stolenTicks = Number(cores.trim().split(/ +/)[8] ?? 0);
  const diskMicros = Number(/^some .*total=(\d+)/m.exec(textOf("/proc/pressure/io"))?.[1] ?? 0);
  return (stolenTicks * TICK_MS) / availableParallelism() + diskMicros / 1_000;
}

/** Empty where the system does not tell. */
function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
