/** Open loops: sends go out by a timetable, and latency is counted from when each was due. */

import type { Pace, PacedMeasurement } from "../paced-generator.ts";
import { generate, serving, storeFaults } from "../run.ts";
import type { Kind } from "../scenario.ts";

export interface Timetable {
  /** In the one room; each gets every message and sends its part of them. */
  readonly members: number;
  readonly sendsPerSecond: number;
  /** What a figure is asked of. */
  readonly latencyOf: "ack" | "delivery";
  /** Instead of the bench's own time: a p99 wants many samples beyond it. */
  readonly measureMs?: number;
}

export function paced({ members, sendsPerSecond, latencyOf, measureMs: ownMs }: Timetable): Kind {
  const other = latencyOf === "ack" ? "delivery" : "ack";
  const lasting = ownMs === undefined ? "" : `, for ${ownMs / 1_000} s`;
  return {
    how: `one room of ${members}, ${sendsPerSecond} sends a second by a timetable${lasting}`,
    figures: [
      { name: `p99 ms ${latencyOf}`, digits: 2, compared: "subject by it" },
      { name: `p50 ms ${latencyOf}`, digits: 2, compared: "subject by it" },
      { name: `p99 ms ${other}`, digits: 2 },
      { name: `p50 ms ${other}`, digits: 2 },
      // What of the latencies is the generator's own.
      { name: "p99 ms sent late", digits: 2 },
    ],
    async measure(contender, options) {
      const faults: string[] = [];
      const { seed, warmUpMs, measureMs } = { ...options, ...(ownMs !== undefined && { measureMs: ownMs }) };
      const measurement = await serving(
        { contender, options },
        ({ port, pid }) => {
          const asked: Pace = {
            ...{ hostname: "127.0.0.1", port, serverPid: pid },
            ...{ members, sendsPerSecond, seed, warmUpMs, measureMs },
          };
          return generate<PacedMeasurement>("paced-generator.ts", asked);
        },
        (path, { storedMessages }) => void faults.push(...storeFaults(contender, path, storedMessages)),
      );
      for (const [kind, count] of Object.entries(measurement.faults))
        if (count > 0) faults.push(`${kind} ${count}`);
      const { ack, delivery, late, seconds, serverCpuSeconds, othersShare } = measurement;
      return {
        contender,
        figures: {
          ...{ "p99 ms ack": ack.p99, "p50 ms ack": ack.p50 },
          ...{ "p99 ms delivery": delivery.p99, "p50 ms delivery": delivery.p50 },
          "p99 ms sent late": late.p99,
        },
        shares: {
          server: serverCpuSeconds === null ? null : serverCpuSeconds / seconds,
          // It never rests, so its CPU time says nothing: how late it sent does.
          generator: null,
          others: othersShare,
        },
        faults,
      };
    },
  };
}
