/**
 * One read for all who ask the same at about the same time: after a break all members of a room come back and ask where it
 * stands, and a server that is asked a thousand times answers the appends behind them late. Whoever asks before a read has
 * begun shares it. Who comes later waits for the next: unlike Go's `singleflight`, which lets callers join what is under
 * way, so that what a read sees is never older than the question.
 */

import { ChatError } from "../../errors.ts";

export interface SharedRead {
  /** Resolves when what was begun before about the same thing has ended, or has taken its time. */
  rest(): Promise<void>;
  /** From now on nobody joins. To be called some time after the read was asked for, before the server is. */
  begin(): void;
}

/**
 * How long a read waits for one like it, in milliseconds: a server that is quick answers in less, and one that is not gets
 * no more than so many a second. One that hangs keeps nobody else from being told so in time.
 */
const REST_MS = 100;

/** Reads for those who share them, of whom so many may wait. Beyond, whoever asks is refused as `overloaded`. */
export function createSharedReads(
  waitersMax: number,
): <T>(key: string, read: (mine: SharedRead) => Promise<T>) => Promise<T> {
  /** Such as have not begun, and such as have, the latest for each key. */
  const [open, begun] = [new Map<string, Promise<unknown>>(), new Map<string, Promise<unknown>>()];
  let waiters = 0;

  function start<T>(key: string, read: (mine: SharedRead) => Promise<T>): Promise<T> {
    const reading: Promise<T> = read({
      rest: () => ended(begun.get(key)),
      begin() {
        open.delete(key);
        begun.set(key, reading);
      },
    }).finally(() => {
      for (const reads of [open, begun]) if (reads.get(key) === reading) reads.delete(key);
    });
    open.set(key, reading);
    return reading;
  }

  return async (key, read) => {
    if (waiters >= waitersMax) throw new ChatError("overloaded");
    waiters += 1;
    try {
      return await ((open.get(key) as ReturnType<typeof read> | undefined) ?? start(key, read));
    } finally {
      waiters -= 1;
    }
  };
}

function ended(former: Promise<unknown> | undefined): Promise<void> {
  if (former === undefined) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, REST_MS);
    const go = () => {
      clearTimeout(timer);
      resolve();
    };
    former.then(go, go);
  });
}
