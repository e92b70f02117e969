/**
 * Pages of history as they went out, kept for the next same request: encoded once, and good as long as nothing has changed
 * in the room or of the user that they show. A page that was asked for only once is not kept: a reader of a whole history
 * would push out the pages that others ask for again and again.
 */

import { LIMITS } from "../limits.ts";
import type { PageSubject } from "../repository/repository.ts";

export interface PageCache {
  /** The answer to this very request, when it would be the same now. */
  find(target: string): string | undefined;
  /**
   * Remembers an answer that was asked for before.
   * @param revision of the subject, taken before the page was read; null: it is not known when it changes
   */
  keep(target: string, subject: PageSubject, revision: number | null, json: string): void;
}

interface Kept {
  readonly subject: PageSubject;
  readonly revision: number;
  readonly json: string;
}

/** @param revisionOf see MessageRepository.revision */
export function createPageCache(revisionOf: (subject: PageSubject) => number | null): PageCache {
  /** The least recently asked first. */
  const kept = new Map<string, Kept>();
  let chars = 0;
  /** Asked for once lately. */
  const asked = new Set<string>();

  const weight = (target: string, json: string) => target.length + json.length;

  function drop(target: string) {
    const found = kept.get(target);
    if (found === undefined) return;
    kept.delete(target);
    chars -= weight(target, found.json);
  }

  return {
    find(target) {
      const found = kept.get(target);
      if (found === undefined) return undefined;
      if (revisionOf(found.subject) !== found.revision) {
        drop(target);
        asked.add(target);
        return undefined;
      }
      // A Map keeps the order of insertion: putting it in anew makes it the most recent.
      kept.delete(target);
      kept.set(target, found);
      return found.json;
    },

    keep(target, subject, revision, json) {
      if (revision === null || target.length > LIMITS.pageTargetCharsMax) return;
      if (weight(target, json) > LIMITS.pageCacheChars / 16) return;
      if (!asked.delete(target)) {
        if (asked.size >= LIMITS.pagesAskedOnceMax) asked.clear();
        asked.add(target);
        return;
      }
      drop(target);
      kept.set(target, { subject, revision, json });
      chars += weight(target, json);
      for (const [oldest] of kept) {
        if (chars <= LIMITS.pageCacheChars) break;
        drop(oldest);
      }
    },
  };
}
