/** Work of which only so much runs at once: the rest waits, in the order in which it came. */

export function createPermits(runningMax: number): <T>(work: () => Promise<T>) => Promise<T> {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (work) => {
    // A permit is handed from one to the next: `running` counts it on.
    if (running >= runningMax) await new Promise<void>((resume) => waiting.push(resume));
    else running += 1;
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) running -= 1;
      else next();
    }
  };
}
