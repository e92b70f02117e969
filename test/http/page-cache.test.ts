/** The pages that are kept: the same answer only while nothing has changed, and never more than there is room for. */

import { expect, test } from "bun:test";
import type { RoomName } from "../../src/domain/ids.ts";
import { createPageCache, type PageCache } from "../../src/http/page-cache.ts";
import { LIMITS } from "../../src/limits.ts";

const lobby = { kind: "room", name: "lobby" as RoomName } as const;

/** A cache in which keeping once is enough: what is kept has been asked for before. */
function askedBefore(revisionOf: () => number | null): PageCache {
  const pages = createPageCache(revisionOf);
  return {
    ...pages,
    keep(...page) {
      pages.keep(...page);
      pages.keep(...page);
    },
  };
}

test("keep remembers what is asked for a second time, and again at once after a change", () => {
  let revision = 1;
  const pages = createPageCache(() => revision);
  pages.keep("/a?", lobby, 1, "page");
  expect(pages.find("/a?")).toBeUndefined();
  pages.keep("/a?", lobby, 1, "page");
  expect(pages.find("/a?")).toBe("page");
  revision = 2;
  expect(pages.find("/a?")).toBeUndefined();
  pages.keep("/a?", lobby, 2, "page of now");
  expect(pages.find("/a?")).toBe("page of now");
  // A request is forgotten once so many others have come.
  pages.keep("/b?", lobby, 2, "page");
  for (let n = 0; n < LIMITS.pagesAskedOnceMax; n += 1) pages.keep(`/${n}`, lobby, 2, "page");
  pages.keep("/b?", lobby, 2, "page");
  expect(pages.find("/b?")).toBeUndefined();
});

test("find gives what was kept, until its subject has another revision", () => {
  let revision: number | null = 7;
  const pages = askedBefore(() => revision);
  expect(pages.find("/a?")).toBeUndefined();
  pages.keep("/a?", lobby, 7, "page");
  expect(pages.find("/a?")).toBe("page");
  expect(pages.find("/a?limit=1")).toBeUndefined();
  revision = null;
  expect(pages.find("/a?")).toBeUndefined();
  revision = 7;
  expect(pages.find("/a?")).toBeUndefined();
});

test("keep takes no page whose revision is not known, nor one that was read before a change", () => {
  const pages = askedBefore(() => 8);
  pages.keep("/a?", lobby, null, "page");
  pages.keep("/b?", lobby, 7, "page");
  expect([pages.find("/a?"), pages.find("/b?")]).toEqual([undefined, undefined]);
});

test("keep lets the least recently asked go when there is no room, and takes no giant", () => {
  const pages = askedBefore(() => 1);
  const page = "x".repeat(LIMITS.pageCacheChars / 16 - 10);
  for (let n = 0; n < 16; n += 1) pages.keep(`/${n}`, lobby, 1, page);
  expect(pages.find("/0")).toBe(page);
  pages.keep("/16", lobby, 1, page);
  expect(pages.find("/1")).toBeUndefined();
  expect(pages.find("/0")).toBe(page);
  // Kept twice is kept once.
  pages.keep("/0", lobby, 1, page);
  pages.keep("/0", lobby, 1, page);
  expect(pages.find("/16")).toBe(page);
  pages.keep("/giant", lobby, 1, "x".repeat(LIMITS.pageCacheChars / 16));
  expect(pages.find("/giant")).toBeUndefined();
});

test("keep takes no page that was asked for in very many words, and does not remember that it was", () => {
  const pages = askedBefore(() => 1);
  const longest = "/".repeat(LIMITS.pageTargetCharsMax);
  pages.keep(longest, lobby, 1, "page");
  pages.keep(`${longest}/`, lobby, 1, "page");
  expect([pages.find(longest), pages.find(`${longest}/`)]).toEqual(["page", undefined]);
});
