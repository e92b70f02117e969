/** Chance that a seed repeats: what a plan does, and when, follows from one printed number. */

export interface Chance {
  /** A whole number from `min` to `max`, both included. */
  whole(min: number, max: number): number;
  /** True once in so many times. */
  onceIn(times: number): boolean;
  oneOf<T>(choices: readonly T[]): T;
}

/** Mulberry32: 32 bits of state are plenty for plans, and every number is a seed. */
export function createChance(seed: number): Chance {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const whole = (min: number, max: number) => min + Math.floor(next() * (max - min + 1));
  return {
    whole,
    onceIn: (times) => whole(1, times) === 1,
    oneOf: <T>(choices: readonly T[]) => choices[whole(0, choices.length - 1)] as T,
  };
}
