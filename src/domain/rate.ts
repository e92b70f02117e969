/** A token bucket: so many a second, some saved up for a burst. Pure; the clock is an argument. */

export interface Rate {
  /** Tokens a second. */
  readonly perSecond: number;
  /** Tokens that may be saved up. */
  readonly burst: number;
}

/** What is left, and when that was true (milliseconds of any clock that never goes back). */
export interface Bucket {
  tokens: number;
  at: number;
}

export const fullBucket = (rate: Rate, now: number): Bucket => ({ tokens: rate.burst, at: now });

/** Takes one token and returns 0, or takes none and returns how many milliseconds until there is one. */
export function takeToken(bucket: Bucket, rate: Rate, now: number): number {
  const earned = (Math.max(0, now - bucket.at) * rate.perSecond) / 1_000;
  bucket.tokens = Math.min(rate.burst, bucket.tokens + earned);
  bucket.at = now;
  if (bucket.tokens >= 1) {
    bucket.tokens -= 1;
    return 0;
  }
  return Math.ceil(((1 - bucket.tokens) * 1_000) / rate.perSecond);
}
