/** Fair turns for reads of MongoDB: a fixed number run at a time, the others wait in order, up to a ceiling. */

import { ChatError } from "../../errors.ts";

export interface Turns {
  /**
   * Resolves when it is the caller's turn, with a function that gives the turn back. Throws `overloaded` when too many wait already; rejects
   * when the caller has stopped waiting for the read.
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
