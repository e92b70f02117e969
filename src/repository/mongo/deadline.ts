/** How long an operation may take, and what is said when it takes longer. */

export interface Deadline {
  /** Rejects when the time is over. */
  readonly reached: Promise<never>;
  /** The whole time again, from now on. */
  restart(): void;
  clear(): void;
}

export function createDeadline(ms: number, late: () => Error): Deadline {
  const { promise, reject } = Promise.withResolvers<never>();
  const start = () => setTimeout(() => reject(late()), ms);
  let timer = start();
  return {
    reached: promise,
    restart() {
      clearTimeout(timer);
      timer = start();
    },
    clear: () => clearTimeout(timer),
  };
}

/** What the promise gives, or that fault when it takes longer. */
export function within<T>(promise: Promise<T>, ms: number, late: () => Error): Promise<T> {
  const deadline = createDeadline(ms, late);
  return Promise.race([promise, deadline.reached]).finally(deadline.clear);
}
