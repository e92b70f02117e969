/** What a process costs, seen from outside: Linux's /proc, and the size of its log. */

import { readdir, readFile, stat } from "node:fs/promises";

export interface Sample {
  readonly residentBytes: number;
  readonly descriptors: number;
  readonly threads: number;
  /** Processor time so far, in seconds. */
  readonly cpuSeconds: number;
  /** How often each of its threads has gone to wait: what timers and I/O wake. */
  readonly waits: ReadonlyMap<string, number>;
}

/** The kernel counts processor time in hundredths of a second (proc(5), USER_HZ). */
const TICKS_A_SECOND = 100;

const field = (text: string, name: string) =>
  Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);

export async function sampleProcess(pid: number): Promise<Sample> {
  const folder = `/proc/${pid}`;
  const [status, times, descriptors, tasks] = await Promise.all([
    readFile(`${folder}/status`, "utf8"),
    readFile(`${folder}/stat`, "utf8"),
    readdir(`${folder}/fd`),
    readdir(`${folder}/task`),
  ]);
  const afterName = times.slice(times.lastIndexOf(")") + 2).split(" ");
  const waits = await Promise.all(
    // A thread may end between the two looks.
    tasks.map(async (task) => {
      const text = await readFile(`${folder}/task/${task}/status`, "utf8").catch(() => "");
      return [task, field(text, "voluntary_ctxt_switches")] as const;
    }),
  );
  return {
    residentBytes: 1_024 * field(status, "VmRSS"),
    descriptors: descriptors.length,
    threads: field(status, "Threads"),
    // utime and stime, the 14th and 15th field of all.
    cpuSeconds: (Number(afterName[11]) + Number(afterName[12])) / TICKS_A_SECOND,
    waits: new Map(waits),
  };
}

/** How often the threads that were there at both times have gone to wait between them. */
export function waitsBetween(first: Sample, second: Sample): number {
  let sum = 0;
  for (const [task, count] of second.waits) sum += count - (first.waits.get(task) ?? count);
  return sum;
}

/** 0 where there is no such file. */
export const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    ({ size }) => size,
    () => 0,
  );
