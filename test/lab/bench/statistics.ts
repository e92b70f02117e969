/** Medians and ratios of rounds. */

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low, high] = [sorted[sorted.length % 2 === 0 ? middle - 1 : middle], sorted[middle]];
  return low === undefined || high === undefined ? Number.NaN : (low + high) / 2;
}

export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

export const spread = (values: readonly number[]): Spread => ({
  median: median(values),
  least: Math.min(...values),
  most: Math.max(...values),
});

/** Left by right, round by round: what disturbed a round disturbed both. */
export const ratios = (left: readonly number[], right: readonly number[]): Spread =>
  spread(left.map((value, round) => value / (right[round] as number)));

/**
 * How late a loop would have come to each of the ticks, given how late it came to those that it did not miss: during a stall
 * of 20 ms it owes 20 of a timer of 1 ms, and the timer tells of one.
 * @param delays in milliseconds, of a timer that is due every millisecond
 */
export const delaysOfAllTicks = (delays: readonly number[]): number[] =>
  delays.flatMap((delay) =>
    delay < 1 ? [delay] : Array.from({ length: Math.ceil(delay) }, (_, missed) => delay - missed),
  );

/** The value below which that share of the values lies. */
export const quantile = (sorted: ArrayLike<number>, share: number): number =>
  sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? Number.NaN;
