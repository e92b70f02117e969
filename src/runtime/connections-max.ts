/** How many connections the system lets this process have: each is a descriptor (a session that polls has two), and some are needed for other things. */

import { LIMITS } from "../limits.ts";

/** @param processLimits the text of Linux's /proc/self/limits; undefined where there is none */
export function connectionsMaxOf(processLimits: string | undefined): number {
  // Soft limit, hard limit, unit: the soft one is what opening a descriptor fails at.
  const soft = /^Max open files +(\d+) /m.exec(processLimits ?? "")?.[1];
  if (soft === undefined) return LIMITS.connectionsMax;
  const descriptors = Number(soft);
  const kept = Math.min(LIMITS.descriptorsKept, Math.ceil(descriptors / 2));
  return Math.min(LIMITS.connectionsMax, descriptors - kept);
}

/** For this process now. */
export async function readConnectionsMax(): Promise<number> {
  const limits = await Bun.file("/proc/self/limits")
    .text()
    .catch(() => undefined);
  return connectionsMaxOf(limits);
}
