/** How long a stretch of time was, and how much of it the program under test could not use: others had cores and disk. */

import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { crowding } from "./watch.ts";

export interface Stretch {
  readonly wallMs: number;
  /**
   * What is left without the moments in which somebody on the way of an answer stood in line for a core, as Linux counts it
   * for each thread, in which anybody waited for the disk, or in which a stand-in alone was at work. A moment is excused
   * once, however many waited in it. A program that sleeps, or waits for what does not come, stands in no line: however busy
   * the machine is, its delay is its own.
   */
  readonly ownMs: number;
}

export interface OnTheWay {
  /** The program under test, and the harness, which asks it and looks at the clock. */
  readonly programs: readonly number[];
  /** Programs in the place of quicker ones: time in which only they work is not the service's either. */
  readonly standIns: readonly number[];
}

interface Thread {
  readonly ranMs: number;
  readonly inLineMs: number;
}

/** Some turns of a core long, so that waits at different times are told apart. */
const SLICE_MS = 25;

export interface OpenStretch {
  /** What lies between that moment and now is not the program's: it could not do anything. */
  excuse(from: number): void;
  /** Once. */
  end(): Stretch;
}

/** Begins now. */
export function beginStretch({ programs, standIns }: OnTheWay): OpenStretch {
  const began = performance.now();
  const excused = createMoments(began);
  const known = new Map([...programs, ...standIns].map((pid) => [pid, threadsOf(pid)]));
  const isCounted = [...known.values()].every(({ size }) => size > 0);
  let [from, takenBefore] = [began, takenMs()];

  /** Since the last time. A program's work is done by one thread at a time, nearly: the busiest one stands for it. */
  const since = (pid: number): Thread => {
    const [before, now] = [known.get(pid) ?? new Map<string, Thread>(), threadsOf(pid)];
    known.set(pid, now);
    const most = (of: (thread: Thread) => number) =>
      Math.max(0, ...[...now].map(([id, thread]) => of(thread) - of(before.get(id) ?? NEW)));
    return { ranMs: most(({ ranMs }) => ranMs), inLineMs: most(({ inLineMs }) => inLineMs) };
  };

  function slice(): void {
    const [to, taken] = [performance.now(), takenMs()];
    const own = programs.map(since);
    const idleMs = Math.max(0, to - from - own.reduce((sum, { ranMs }) => sum + ranMs, 0));
    const aloneMs = standIns.map(since).map(({ ranMs, inLineMs }) => Math.min(ranMs, idleMs) + inLineMs);
    // Linux counts a wait when it has ended: it lies before this moment, and may be longer than the slice.
    excused.add(Math.max(0, taken - takenBefore, ...own.map(({ inLineMs }) => inLineMs), ...aloneMs), to);
    [from, takenBefore] = [to, taken];
  }

  const timer = isCounted ? setInterval(slice, SLICE_MS) : undefined;
  timer?.unref();
  return {
    excuse(from) {
      const to = performance.now();
      excused.add(to - from, to);
    },
    end() {
      clearInterval(timer);
      const wallMs = performance.now() - began;
      if (isCounted) slice();
      const ownMs = Math.max(0, wallMs - excused.sum());
      return { wallMs, ownMs: isCounted ? ownMs : ownMs / crowding() };
    },
  };
}

const NEW: Thread = { ranMs: 0, inLineMs: 0 };

/** Stretches of time, each moment of which counts once. They are added in the order in which they end. */
export function createMoments(began: number) {
  const all: { readonly from: number; readonly to: number }[] = [];
  return {
    /** The last `ms` before `to`; what lies before the beginning is left out. */
    add(ms: number, to: number): void {
      let from = Math.max(began, to - ms);
      if (from >= to) return;
      for (let last = all.at(-1); last !== undefined && last.to >= from; last = all.at(-1)) {
        from = Math.min(from, last.from);
        all.pop();
      }
      all.push({ from, to });
    },
    sum: () => all.reduce((sum, { from, to }) => sum + to - from, 0),
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
