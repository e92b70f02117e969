/** A cost at growing sizes, and whether it grows faster than a logarithm. Pure. */

import { median } from "../statistics.ts";

export interface Point {
  /** The size: more than 1. */
  readonly n: number;
  readonly cost: number;
}

export interface Judgement {
  /** The line of least squares: cost = atOne + perDecade × log10(n). */
  readonly atOne: number;
  readonly perDecade: number;
  /** The point that comes nearest to what it may cost, or exceeds it most. */
  readonly worst: Point & { readonly allowed: number };
  readonly bendsUpward: boolean;
  /** Sizes whose cost is no number: nothing is said of them. */
  readonly unmeasured: readonly number[];
}

/** So many times what a logarithm allows is still taken for noise. */
const TOLERANCE = 1.6;
/** The same where a point is held against the one before it alone, which may have been cheap by chance. */
const STEP_TOLERANCE = 2;

/**
 * The steepest logarithm through a point is the one through (1, 0). Each point is held against those through the points
 * before it, by their median: one that was cheap by chance does not condemn the next. And against that through the point
 * just before it, with more for chance: else a dear beginning would hide what bends after it.
 * @param all by growing size, at least two
 */
export function judge(all: readonly Point[]): Judgement {
  if (all.length < 2) throw new RangeError("a curve has two points or more");
  const points = all.filter(({ cost }) => Number.isFinite(cost));
  const unmeasured = all.filter(({ cost }) => !Number.isFinite(cost)).map(({ n }) => n);
  if (points.length < 2) {
    const { n } = all.at(-1) as Point;
    const worst = { n, cost: Number.NaN, allowed: Number.NaN };
    return { atOne: Number.NaN, perDecade: Number.NaN, worst, bendsUpward: false, unmeasured };
  }
  const held = points.slice(1).map(({ n, cost }, index) => {
    const steepest = points
      .slice(0, index + 1)
      .map((before) => before.cost * (Math.log(n) / Math.log(before.n)));
    const allowed = Math.min(median(steepest) * TOLERANCE, (steepest.at(-1) as number) * STEP_TOLERANCE);
    return { n, cost, allowed };
  });
  const worst = held.reduce((most, point) =>
    point.cost / point.allowed > most.cost / most.allowed ? point : most,
  );
  return { ...fit(points), worst, bendsUpward: worst.cost > worst.allowed, unmeasured };
}

function fit(points: readonly Point[]): Pick<Judgement, "atOne" | "perDecade"> {
  const xs = points.map(({ n }) => Math.log10(n));
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [mean(xs), mean(points.map(({ cost }) => cost))];
  const covariance = mean(points.map(({ cost }, index) => (cost - y) * ((xs[index] as number) - x)));
  const perDecade = covariance / mean(xs.map((value) => (value - x) ** 2));
  return { perDecade, atOne: y - perDecade * x };
}
