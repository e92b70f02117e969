/** What samples over time say: a slope that a few odd samples cannot move, and whether something drifts. Pure. */

export interface Point {
  /** Seconds since the start. */
  readonly at: number;
  readonly value: number;
}

/** The median; NaN of nothing. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The smallest value that so large a share of them does not exceed; NaN of nothing. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

/** Theil–Sen: the median of the slopes of all pairs, in units a second. 29 % of the points may be anything. */
export function slope(points: readonly Point[]): number {
  const slopes: number[] = [];
  for (const [index, a] of points.entries()) {
    for (const b of points.slice(index + 1)) {
      if (b.at !== a.at) slopes.push((b.value - a.value) / (b.at - a.at));
    }
  }
  return slopes.length === 0 ? 0 : median(slopes);
}

/** The lowest point of each stretch of so many seconds: what is left after the garbage was collected. */
export function floorOf(points: readonly Point[], stretchSeconds: number): Point[] {
  const lowest = new Map<number, Point>();
  for (const point of points) {
    const stretch = Math.floor(point.at / stretchSeconds);
    const known = lowest.get(stretch);
    if (known === undefined || point.value < known.value) lowest.set(stretch, point);
  }
  return [...lowest.values()];
}

export interface Growth {
  /** Units an hour. */
  readonly perHour: number;
  /** What the fitted line rose by between the first and the last point. */
  readonly total: number;
}

export function growth(points: readonly Point[]): Growth {
  const perSecond = slope(points);
  const seconds = (points.at(-1)?.at ?? 0) - (points[0]?.at ?? 0);
  return { perHour: perSecond * 3_600, total: perSecond * seconds };
}

export interface Drift {
  /** The median of the first third, and of the last. */
  readonly early: number;
  readonly late: number;
}

export function drift(points: readonly Point[]): Drift {
  const third = Math.max(1, Math.floor(points.length / 3));
  const values = points.map(({ value }) => value);
  return { early: median(values.slice(0, third)), late: median(values.slice(-third)) };
}
