/** The embedded store keeps the contract. What only SQLite promises is in sqlite-*.test.ts. */

import { Database } from "bun:sqlite";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Epoch } from "../../src/domain/ids.ts";
import { createLog } from "../../src/observe/log.ts";
import { openSqliteRepository } from "../../src/repository/sqlite.ts";
import { repositoryContract } from "../contract/repository.contract.ts";

const log = createLog({ level: "error", pretty: false, write: (line) => console.error(line), now: Date.now });

repositoryContract("sqlite", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sqlite-contract-"));
  const path = join(folder, "chat.db");
  const open = () => openSqliteRepository({ path, log, newEpoch: () => Bun.randomUUIDv7() as Epoch });
  let repository = await open();
  return {
    repository,
    async reopen() {
      await repository.close();
      repository = await open();
      return repository;
    },
    async truncate(room, beforeSeq) {
      const operator = new Database(path);
      operator.run("PRAGMA busy_timeout = 1000");
      operator
        .prepare("DELETE FROM messages WHERE seq < ?2 AND room_id = (SELECT id FROM rooms WHERE name = ?1)")
        .run(room, beforeSeq);
      operator.close();
    },
    async dispose() {
      await repository.close();
      await rm(folder, { recursive: true });
    },
  };
});
