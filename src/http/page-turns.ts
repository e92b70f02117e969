/**
 * Turns for long pages: such a page takes a millisecond of the event loop to read and encode, and the messages of all
 * members wait meanwhile. So after so many bytes of them everything else is served before another page is made.
 */

import { LIMITS } from "../limits.ts";
import type { Metrics } from "../observe/metrics.ts";
import { createTurns } from "../runtime/turns.ts";
import { isLongPage, pagesOverloaded } from "./page-answers.ts";

export interface PageTurns {
  /**
   * Makes a page: `read`, then `encode`, each in a tick in which there is still time for it; at once where no long pages are
   * made. Refuses with `overloaded` when too many wait.
   */
  make<P>(read: () => Promise<P>, encode: (page: P) => string): Promise<string>;
}

export function createPageTurns({ metrics }: { readonly metrics: Metrics }): PageTurns {
  const turns = createTurns({
    bytesPerTick: LIMITS.pageTurnBytes,
    waitersMax: LIMITS.pageTurnWaitersMax,
    refusal: () => pagesOverloaded(metrics),
  });
  return {
    async make(read, encode) {
      const hasWaited = turns.isBusy();
      if (hasWaited) await turns.next();
      // How long a page will be that has waited is not known: it takes its share in any case.
      let bytes = hasWaited ? LIMITS.longPageBytes : 0;
      try {
        const page = await read();
        // A store over a network gives the pages of many at once.
        if (turns.isSpent()) await turns.next();
        const json = encode(page);
        if (isLongPage(json)) bytes = json.length;
        return json;
      } finally {
        turns.spend(bytes);
      }
    },
  };
}
