/**
 * Turns for work that keeps the event loop for long, such as encoding hundreds of messages: so many bytes of it a tick, then
 * everything else is served before the next piece of work goes on.
 */

export interface Turns {
  /** Whether this tick's share is used up. */
  isSpent(): boolean;
  /** Whether work has to wait for its turn, because the share is used up or others wait already. */
  isBusy(): boolean;
  /** Resolves in a tick that has time, in the order of the calls. Throws the refusal when too many wait. */
  next(): Promise<void>;
  /** So much was done, and others may go on. To be called at least once for each piece of work, also for one that failed. */
  spend(bytes: number): void;
}

export interface TurnsOptions {
  readonly bytesPerTick: number;
  readonly waitersMax: number;
  readonly refusal: () => Error;
}

export function createTurns({ bytesPerTick, waitersMax, refusal }: TurnsOptions): Turns {
  let spentBytes = 0;
  let isEnding = false;
  /** In the order in which they came. As long as there are any, a new tick is on its way. */
  const waiting: (() => void)[] = [];

  const isSpent = () => spentBytes >= bytesPerTick;

  function endTick() {
    if (isEnding) return;
    isEnding = true;
    setImmediate(() => {
      isEnding = false;
      spentBytes = 0;
      wakeNext();
    });
  }

  function wakeNext() {
    const next = waiting.shift();
    if (next === undefined) return;
    // The others' turns come, however long this one takes.
    endTick();
    next();
  }

  return {
    isSpent,
    isBusy: () => isSpent() || waiting.length > 0,
    next() {
      if (waiting.length >= waitersMax) throw refusal();
      return new Promise((resume) => {
        waiting.push(resume);
        endTick();
      });
    },
    spend(bytes) {
      if (bytes > 0) {
        spentBytes += bytes;
        endTick();
      }
      if (!isSpent()) wakeNext();
    },
  };
}
