/** The MongoDB store on a real server: the contract, and what only a store shared with other programs must keep. */

import { MongoClient } from "mongodb";
import type { Epoch } from "../../src/domain/ids.ts";
import { createLog } from "../../src/observe/log.ts";
import { openMongoRepository } from "../../src/repository/mongo.ts";
import { repositoryContract } from "../contract/repository.contract.ts";
import { freshDatabase, sharedMongo } from "../fixture/mongodb.ts";

const log = createLog({
  level: "error",
  pretty: false,
  write: (line) => process.stderr.write(line),
  now: Date.now,
});
const newEpoch = () => Bun.randomUUIDv7() as string as Epoch;

repositoryContract(
  "mongodb",
  async () => {
    const uri = await sharedMongo();
    const databaseName = freshDatabase();
    const open = () => openMongoRepository({ uri, databaseName, log, newEpoch });
    const repository = await open();
    const opened = [repository];
    const client = new MongoClient(uri);
    return {
      repository,
      async reopen() {
        await opened.at(-1)?.close();
        const next = await open();
        opened.push(next);
        return next;
      },
      async truncate(room, beforeSeq) {
        await client
          .db(databaseName)
          .collection("messages")
          .deleteMany({ room, seq: { $gt: 0, $lt: beforeSeq } });
      },
      async dispose() {
        await Promise.all(opened.map((each) => each.close()));
        await client.db(databaseName).dropDatabase();
        await client.close();
      },
    };
  },
  {
    "rooms whose messages are all gone number on":
      "numbers come from what is kept: whoever deletes messages leaves each room its newest one",
  },
);
