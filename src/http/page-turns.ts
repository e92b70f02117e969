/**
 * Turns of the event loop for long pages: such a page takes a millisecond to read and encode, and the messages of all
 * members wait meanwhile. So after so many bytes of them the loop goes round before another page is made.
 */

import { LIMITS } from "../limits.ts";
import type { Metrics } from "../observe/metrics.ts";
import { isLongPage, pagesOverloaded } from "./page-answers.ts";

export interface PageTurns {
  /**
   * Makes a page: `read`, then `encode`, each in a turn in which there is still time for it; at once where no long pages are
   * made. Refuses with `overloaded` when too many wait.
   */
  make<P>(read: () => Promise<P>, encode: (page: P) => string): Promise<string>;
}

export function createPageTurns({ metrics }: { readonly metrics: Metrics }): PageTurns {
  /** What long pages took of this turn. */
  let spentBytes = 0;
  let isEnding = false;
  /** In the order in which they came. */
  const waiting: (() => void)[] = [];

  const isSpent = () => spentBytes >= LIMITS.pageTurnBytes;

  function endTurn() {
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
    // However long it takes, or never comes back: the others' turns come.
    endTurn();
    next();
  }

  function turn(): Promise<void> {
    if (waiting.length >= LIMITS.pageTurnWaitersMax) throw pagesOverloaded(metrics);
    return new Promise((resume) => waiting.push(resume));
  }

  function spend(bytes: number) {
    if (bytes > 0) {
      spentBytes += bytes;
      endTurn();
    }
    if (!isSpent()) wakeNext();
  }

  return {
    async make(read, encode) {
      const hasWaited = isSpent() || waiting.length > 0;
      if (hasWaited) await turn();
      // Nobody knew how long the page would be that was waited for: it takes its share in any case.
      let bytes = hasWaited ? LIMITS.longPageBytes : 0;
      try {
        const page = await read();
        // A store over a network gives the pages of many at once.
        if (isSpent()) await turn();
        const json = encode(page);
        if (isLongPage(json)) bytes = json.length;
        return json;
      } finally {
        spend(bytes);
      }
    },
  };
}
