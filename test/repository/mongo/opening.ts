/** Opening MongoDB stores in tests: a database of its own for each, and everything closed afterwards. */

import { type Collection, type Db, type Document, MongoClient } from "mongodb";
import type { Epoch } from "../../../src/domain/ids.ts";
import { createLog } from "../../../src/observe/log.ts";
import { openMongoRepository } from "../../../src/repository/mongo/open.ts";
import type { MessageRepository } from "../../../src/repository/repository.ts";
import { freshDatabase } from "../../fixture/mongodb.ts";

export const newEpoch = () => Bun.randomUUIDv7() as string as Epoch;

/** What a repository logged, to be looked into; a failure on purpose must not fill the output. */
export function keptLog() {
  const lines: string[] = [];
  const write = (line: string) => lines.push(line);
  return { lines, log: createLog({ level: "info", pretty: false, write, now: Date.now }) };
}

export interface OpenedMongo {
  readonly databaseName: string;
  /** The database past the repository, as another program sees it. */
  readonly db: Db;
  readonly messages: Collection<Document>;
  /** Another service on the same database. */
  open(): Promise<MessageRepository>;
  dispose(): Promise<void>;
}

/** A database of its own on that server, or that one. */
export function mongoDatabaseOf(uri: string, databaseName = freshDatabase()): OpenedMongo {
  const { log } = keptLog();
  const client = new MongoClient(uri, { serverSelectionTimeoutMS: 5_000, appName: "test" });
  const db = client.db(databaseName);
  const opened: MessageRepository[] = [];
  return {
    databaseName,
    db,
    messages: db.collection("messages"),
    async open() {
      const repository = await openMongoRepository({ uri, databaseName, log, newEpoch });
      opened.push(repository);
      return repository;
    },
    async dispose() {
      await Promise.all(opened.map((repository) => repository.close()));
      await client.close();
    },
  };
}
