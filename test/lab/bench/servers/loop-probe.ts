/**
 * Preloaded into a server: how late its event loop comes to a timer that is due every millisecond. At each SIGUSR2 it writes
 * what it saw since the last one to LOOP_PROBE_FILE.
 */

import { renameSync, writeFileSync } from "node:fs";
import { delaysOfAllTicks, quantile } from "../statistics.ts";

export interface LoopStalls {
  /** How many times it was asked before. */
  readonly windows: number;
  /** Of the ticks' delays, in milliseconds; a stall counts once for each millisecond of it. */
  readonly p50: number;
  readonly p99: number;
  readonly longest: number;
}

const file = process.env.LOOP_PROBE_FILE;
if (file === undefined) throw new Error("LOOP_PROBE_FILE names the file for what the probe saw");

let windows = 0;
let delays: number[] = [];
let tickedAt = performance.now();
setInterval(() => {
  const now = performance.now();
  delays.push(Math.max(now - tickedAt - 1, 0));
  tickedAt = now;
}, 1).unref();

process.on("SIGUSR2", () => {
  const sorted = delaysOfAllTicks(delays).sort((a, b) => a - b);
  const seen: LoopStalls = {
    windows,
    p50: quantile(sorted, 0.5),
    p99: quantile(sorted, 0.99),
    longest: sorted.at(-1) ?? 0,
  };
  windows += 1;
  delays = [];
  // A reader sees the whole of it or nothing.
  writeFileSync(`${file}.new`, JSON.stringify(seen));
  renameSync(`${file}.new`, file);
});
