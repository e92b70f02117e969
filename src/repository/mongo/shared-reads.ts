/**
 * One read for all callers that ask the same at about the same time: after a break all members of a room come back and ask
 * where it stands, and a server that is asked a thousand times answers the appends behind them late. A caller that asks before
 * a read has begun shares it. One that asks later waits for the next: unlike Go's `singleflight`, which lets callers join what
 * is under way, so that a read never shows less than what was there when its callers asked. To do without it, open.ts would
 * call `read` where it calls `readShared`; nothing else knows of it.
 */

import { ChatError } from "../../errors.ts";
import { within } from "./deadline.ts";

export interface SharedRead {
  /** Resolves when the read of the same key that began before has ended, or after REST_MS. */
  rest(): Promise<void>;
  /** From now on no caller joins. To be called some time after the read was asked for, before the server is. */
  begin(): void;
  /** Has `hear` called whenever another caller joins: that caller has its whole time before it. */
  onJoin(hear: () => void): void;
}

/**
 * How long a read waits for the one before it, in milliseconds: a server that is quick answers in less, and one that is not gets
 * no more than ten a second of each key. A read that hangs keeps no later caller from being told so in time.
 */
const REST_MS = 100;

interface Shared {
  readonly result: Promise<unknown>;
  joined(): void;
}

/**
 * @param waitersMax callers that may wait; the next one is refused as `overloaded`
 * @param waitMs how long each of them waits, however long the read that it shares goes on for others
 */
export function createSharedReads(
  waitersMax: number,
  waitMs: number,
): <T>(key: string, read: (mine: SharedRead) => Promise<T>) => Promise<T> {
  /** Reads that have not begun, and reads that have: the latest for each key. */
  const [open, begun] = [new Map<string, Shared>(), new Map<string, Shared>()];
  let waiters = 0;

  function start<T>(key: string, read: (mine: SharedRead) => Promise<T>): Shared {
    let joined = () => {};
    const result = read({
      rest: () => ended(begun.get(key)?.result),
      begin() {
        open.delete(key);
        begun.set(key, shared);
      },
      onJoin(hear) {
        joined = hear;
      },
    }).finally(() => {
      for (const reads of [open, begun]) if (reads.get(key) === shared) reads.delete(key);
    });
    const shared: Shared = { result, joined: () => joined() };
    open.set(key, shared);
    return shared;
  }

  return async (key, read) => {
    if (waiters >= waitersMax) throw new ChatError("overloaded");
    waiters += 1;
    try {
      const former = open.get(key);
      former?.joined();
      const shared = former ?? start(key, read);
      const late = () => new ChatError(open.get(key) === shared ? "overloaded" : "storage_unavailable");
      return await within(shared.result as ReturnType<typeof read>, waitMs, late);
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
