/** Waiting by events: a condition is looked at again whenever anything has changed. */

import { availableParallelism, loadavg } from "node:os";

export interface Watch {
  /** Something changed: all that wait look again. */
  changed(): void;
  /** Resolves with true once the condition holds, with false when it does not within that time. */
  until(condition: () => boolean, withinMs: number): Promise<boolean>;
}

export function createWatch(): Watch {
  const looks = new Set<() => void>();
  return {
    changed() {
      for (const look of looks) look();
    },
    until(condition, withinMs) {
      if (condition()) return Promise.resolve(true);
      return new Promise((resolve) => {
        const end = (held: boolean) => {
          clearTimeout(timer);
          looks.delete(look);
          resolve(held);
        };
        const look = () => {
          if (condition()) end(true);
        };
        const timer = setTimeout(() => end(condition()), withinMs);
        looks.add(look);
      });
    },
  };
}

/**
 * How much longer than alone anything may take now: as many times as there are programs that want to run for each core.
 * At least 1, at most 5: a machine busier than that cannot tell slow from stuck.
 */
export const crowding = () => Math.min(5, Math.max(1, (loadavg()[0] ?? 1) / availableParallelism()));
