/** What everyone pays who stores each message by itself: a transaction and an fsync before each ack, on the loop. */

import { Database } from "bun:sqlite";
import type { Epoch } from "../../../../src/domain/ids.ts";
import { createAppender } from "../../../../src/repository/sqlite/append.ts";
import { createReads } from "../../../../src/repository/sqlite/reads.ts";
import { migrate } from "../../../../src/repository/sqlite/schema.ts";
import { storePath } from "./serving.ts";
import { createStockIo } from "./stock-io.ts";

const db = new Database(storePath(), { create: true, readwrite: true });
db.run("PRAGMA journal_mode = WAL");
migrate(db, storePath());
db.run("PRAGMA synchronous = FULL");
const epoch = Bun.randomUUIDv7() as string as Epoch;
const appender = createAppender(db, epoch);
const reads = createReads(db, epoch);

const stock = createStockIo();
stock.serve({
  reads: {
    head: async (room) => reads.head(room),
    readAfter: async (...query) => reads.readAfter(...query),
  },
  async commit(draft) {
    const [result] = (await appender.commit([draft])).results;
    if (result?.kind !== "stored") throw new Error("not stored");
    stock.deliver([result.message]);
    return result.message;
  },
  close() {
    appender.finalize();
    reads.finalize();
    db.close();
  },
});
