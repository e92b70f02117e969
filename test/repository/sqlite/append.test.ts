/** The write transaction by itself: all of it, or nothing. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import type { Epoch } from "../../../src/domain/ids.ts";
import { LIMITS } from "../../../src/limits.ts";
import { createAppender } from "../../../src/repository/sqlite/append.ts";
import { migrate } from "../../../src/repository/sqlite/schema.ts";
import { sends } from "../../fixture/sqlite.ts";

test("commit stores nothing where its caller has given up before the COMMIT, and goes on after that", async () => {
  const db = new Database(":memory:");
  migrate(db, ":memory:");
  const appender = createAppender(db, "epoch-1" as Epoch);
  const stored = () => db.query("SELECT count(*) FROM messages").values()[0]?.[0];
  const givenUp = () => {
    // All is inserted by now.
    expect(stored()).toBe(LIMITS.batchMessagesMax);
    throw new Error("given up");
  };
  await expect(appender.commit(sends("a", 1, LIMITS.batchMessagesMax), givenUp)).rejects.toThrow("given up");
  expect(stored()).toBe(0);
  const { results } = await appender.commit(sends("a", 1, 1));
  expect(results).toMatchObject([{ kind: "stored", message: { seq: 1 } }]);
  appender.finalize();
  db.close();
});
