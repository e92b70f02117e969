/** What a soak measured, judged against named thresholds, and how it is shown. */

import type { Sample } from "./samples.ts";
import { drift, floorOf, growth, median, quantile } from "./trend.ts";

/** One look at everything, and what came in since the last one. */
export interface Moment extends Sample {
  /** Seconds since the load began. */
  readonly at: number;
  readonly walBytes: number;
  /** How long acks and `GET /` took since the last look, in milliseconds. */
  readonly acks: readonly number[];
  readonly gets: readonly number[];
  /** How late this process's own timers were, in milliseconds: how much others disturb the machine. */
  readonly lags: readonly number[];
}

export type Store = "sqlite" | "mongodb";

/** The process with nobody connected, before the load and after it. */
export interface Idle {
  readonly descriptors: number;
  readonly threads: number;
  readonly residentBytes: number;
  /** How often a second its threads wait anew: timers that were left behind wake it. */
  readonly waitsPerSecond: number;
}

export const THRESHOLDS = {
  /** The share of the time in which memory is not judged yet. */
  warmUpShare: 0.2,
  /** What is left behind the warm-up must be this long for a slope or a drift to say anything. */
  trendSeconds: 200,
  /** Memory's floor of each stretch is fitted. */
  stretchSeconds: 30,
  memoryMbPerHour: 48,
  /** Below this rise over the whole fit a slope is the collector's noise. */
  memoryNoiseMb: 12,
  descriptorsPerHour: 30,
  descriptorsNoise: 10,
  /** How much slower the last third may be than the first, beside an absolute allowance. */
  latencyFactor: 2,
  ackP50AllowanceMs: 5,
  ackP99AllowanceMs: 50,
  getP99AllowanceMs: 50,
  /** What may remain beyond the start when everyone has gone; MongoDB's driver keeps the connections it once needed. */
  idleDescriptors: { sqlite: 4, mongodb: 40 },
  idleThreads: 4,
  idleWaitsPerSecond: 20,
  /** LIMITS.walBytesMax and a batch. */
  walBytes: 72_000_000,
} as const;

const MB = 1_000_000;

export interface Judged {
  readonly faults: readonly string[];
  /** Whether it was long enough for slopes and drifts to be judged. */
  readonly hasTrend: boolean;
  readonly memory: { mbPerHour: number; totalMb: number; firstMb: number; lastMb: number; mostMb: number };
  readonly descriptors: { perHour: number; most: number };
}

export function judge(moments: readonly Moment[], before: Idle, after: Idle, store: Store): Judged {
  const faults: string[] = [];
  const last = moments.at(-1)?.at ?? 0;
  const settled = moments.filter(({ at }) => at >= THRESHOLDS.warmUpShare * last);
  const floor = (of: (moment: Moment) => number) =>
    floorOf(
      settled.map((moment) => ({ at: moment.at, value: of(moment) })),
      THRESHOLDS.stretchSeconds,
    );

  const memoryFloor = floor(({ residentBytes }) => residentBytes / MB);
  const memory = growth(memoryFloor);
  const hasTrend = last - (settled[0]?.at ?? last) >= THRESHOLDS.trendSeconds;
  if (hasTrend && memory.perHour > THRESHOLDS.memoryMbPerHour && memory.total > THRESHOLDS.memoryNoiseMb)
    faults.push(
      `memory grows by ${memory.perHour.toFixed(1)} MB an hour (${memory.total.toFixed(1)} MB seen)`,
    );

  const descriptors = growth(floor((moment) => moment.descriptors));
  if (
    hasTrend &&
    descriptors.perHour > THRESHOLDS.descriptorsPerHour &&
    descriptors.total > THRESHOLDS.descriptorsNoise
  )
    faults.push(`descriptors grow by ${descriptors.perHour.toFixed(1)} an hour`);

  const driftOf = (of: (moment: Moment) => number) =>
    drift(
      settled
        .map((moment) => ({ at: moment.at, value: of(moment) }))
        .filter(({ value }) => !Number.isNaN(value)),
    );
  const latency = (
    name: string,
    {
      share,
      allowanceMs,
      of,
    }: { share: number; allowanceMs: number; of: (moment: Moment) => readonly number[] },
  ) => {
    const { early, late } = driftOf((moment) => quantile(of(moment), share));
    const lag = driftOf(({ lags }) => quantile(lags, share));
    // As far as this process's own timers came later too, others took the machine.
    const own = late - Math.max(0, lag.late - lag.early);
    if (hasTrend && own > THRESHOLDS.latencyFactor * early + allowanceMs)
      faults.push(`${name} went from ${early.toFixed(1)} to ${late.toFixed(1)} ms`);
  };
  const acks = ({ acks: times }: Moment) => times;
  latency("ack p50", { share: 0.5, allowanceMs: THRESHOLDS.ackP50AllowanceMs, of: acks });
  latency("ack p99", { share: 0.99, allowanceMs: THRESHOLDS.ackP99AllowanceMs, of: acks });
  latency("GET / p99", { share: 0.99, allowanceMs: THRESHOLDS.getP99AllowanceMs, of: ({ gets }) => gets });

  const wal = Math.max(...moments.map(({ walBytes }) => walBytes));
  if (wal > THRESHOLDS.walBytes) faults.push(`the write-ahead log grew to ${(wal / MB).toFixed(1)} MB`);

  if (after.descriptors > before.descriptors + THRESHOLDS.idleDescriptors[store])
    faults.push(`descriptors: ${before.descriptors} before, ${after.descriptors} when all had gone`);
  if (after.threads > before.threads + THRESHOLDS.idleThreads)
    faults.push(`threads: ${before.threads} before, ${after.threads} when all had gone`);
  if (after.waitsPerSecond > before.waitsPerSecond + THRESHOLDS.idleWaitsPerSecond)
    faults.push(
      `timers: woken ${before.waitsPerSecond.toFixed(0)} times a second before, ${after.waitsPerSecond.toFixed(0)} when all had gone`,
    );

  return {
    faults,
    hasTrend,
    memory: {
      mbPerHour: memory.perHour,
      totalMb: memory.total,
      firstMb: memoryFloor[0]?.value ?? Number.NaN,
      lastMb: memoryFloor.at(-1)?.value ?? Number.NaN,
      mostMb: Math.max(...moments.map(({ residentBytes }) => residentBytes / MB)),
    },
    descriptors: { perHour: descriptors.perHour, most: Math.max(...moments.map((one) => one.descriptors)) },
  };
}

export interface SoakResult {
  readonly faults: readonly string[];
  readonly moments: readonly Moment[];
  readonly summary: Readonly<Record<string, unknown>>;
}

const TABLE_ROWS = 10;

/** The run in ten stretches, a line each; then what was found. */
export function show({ faults, moments, summary }: SoakResult): string {
  const stretch = Math.max(1, Math.ceil(moments.length / TABLE_ROWS));
  const rows = [
    "| minute | RSS MB (least–most) | fds | threads | ack p50 / p99 ms | GET / p50 / p99 ms | WAL MB | own lag p99 ms |",
    "|---|---|---|---|---|---|---|---|",
  ];
  for (let from = 0; from < moments.length; from += stretch) {
    const part = moments.slice(from, from + stretch);
    const most = (of: (moment: Moment) => number) => Math.max(...part.map(of));
    const all = (of: (moment: Moment) => readonly number[]) => part.flatMap(of);
    const two = (values: readonly number[]) =>
      `${median(values).toFixed(1)} / ${quantile(values, 0.99).toFixed(1)}`;
    rows.push(
      `| ${((part[0]?.at ?? 0) / 60).toFixed(1)} | ${Math.min(...part.map((one) => one.residentBytes / MB)).toFixed(0)}–${most((one) => one.residentBytes / MB).toFixed(0)} | ${most((one) => one.descriptors)} | ${most((one) => one.threads)} | ${two(all(({ acks }) => acks))} | ${two(all(({ gets }) => gets))} | ${most((one) => one.walBytes / MB).toFixed(1)} | ${quantile(
        all(({ lags }) => lags),
        0.99,
      ).toFixed(1)} |`,
    );
  }
  const lines = Object.entries(summary).map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  const verdict = faults.length === 0 ? ["no fault"] : faults.map((fault) => `FAULT ${fault}`);
  return [...rows, "", ...lines, ...verdict].join("\n");
}
