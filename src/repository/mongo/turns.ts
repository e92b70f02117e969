/** Turns at a MongoDB: so many reads at a time, the others wait in order, up to a ceiling. */

import { ChatError } from "../../errors.ts";

export interface Turns {
  /**
   * Resolves with what gives the turn back, once it is one's own. Throws `overloaded` when too many wait already; rejects
   * when nobody waits for the read any more.
   */
  take(ended: AbortSignal): Promise<() => void>;
}

export function createTurns(runningMax: number, waitingMax: number): Turns {
  let running = 0;
  const waiting = new Set<() => void>();

  const giveBack = () => {
    const [next] = waiting;
    if (next === undefined) running--;
    else {
      waiting.delete(next);
      next();
    }
  };

  return {
    async take(ended) {
      ended.throwIfAborted();
      if (running < runningMax) {
        running++;
        return giveBack;
      }
      if (waiting.size >= waitingMax) throw new ChatError("overloaded");
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      waiting.add(resolve);
      const leave = () => {
        if (waiting.delete(resolve)) reject(ended.reason);
      };
      ended.addEventListener("abort", leave, { once: true });
      await promise;
      return giveBack;
    },
  };
}
