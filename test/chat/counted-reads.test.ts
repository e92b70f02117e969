import { expect, test } from "bun:test";
import { countReads } from "../../src/chat/counted-reads.ts";
import { ChatError } from "../../src/errors.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import { room } from "../contract/drafting.ts";
import { gated } from "../fixture/gated.ts";
import { openSqlite, scratch } from "../fixture/sqlite.ts";

test("countReads counts what a store refused, by its kind, and passes on what it answered", async () => {
  await using folder = await scratch();
  const store = gated(await openSqlite(folder.path));
  const metrics = createMetrics();
  const counted = countReads(store, metrics);
  store.fail("head", new ChatError("overloaded"));
  store.fail("head", new ChatError("storage_unavailable"));
  store.fail("heads", new TypeError("nobody foresaw this"));
  await expect(counted.head(room("a"))).rejects.toMatchObject({ code: "overloaded" });
  await expect(counted.head(room("a"))).rejects.toMatchObject({ code: "storage_unavailable" });
  await expect(counted.heads([room("a")])).rejects.toBeInstanceOf(TypeError);
  expect(await counted.head(room("a"))).toEqual(await store.head(room("a")));
  expect(await counted.readRooms({ before: null, roomsMax: 1 })).toEqual({ rooms: [], more: false });
  expect(metrics.snapshot()).toMatchObject({ reads_overloaded_total: 1, reads_failed_total: 2 });
  await counted.close();
});
