/** Faults of MongoDB: a server that dies, stalls or fails at each step of an append, and other programs that change its data. */

import type { Collection, Db } from "mongodb";
import type { FailCommand } from "./database.ts";
import { delays, type Fault, hears, moreAcks } from "./fault.ts";
import type { Backup } from "./ledger.ts";

const MONGODB = ["mongodb"] as const;

const failing = (how: FailCommand): Fault => ({
  stores: MONGODB,
  grounds: ["database"],
  holdMs: [200, 1_500],
  async begin(stage) {
    // MongoDB counts how often it failed on purpose, its stand-in does not; the service says that it was failed.
    const felt = hears(stage, "store_down");
    const database = stage.database();
    await database.fail(how);
    return { felt, end: () => database.fail(null) };
  },
});

const NOT_WRITABLE_PRIMARY = 10_107;
const NOT_PRIMARY_NO_SECONDARY = 13_435;
const DUPLICATE_KEY = 11_000;

const ACKS_BEFORE = 30;

interface Meddler {
  /** What is kept of the data before more is said; what it keeps comes back. */
  readonly keeps: boolean;
  /** Whether rooms may go on with their numbers, so that members need not be told. */
  readonly mayGoOn: boolean;
  act(messages: Collection, db: Db, kept: readonly { _id: unknown }[]): Promise<unknown>;
}

/** Another program changes the data under members that are connected, while no speaker speaks. */
const meddling = ({ keeps, mayGoOn, act }: Meddler): Fault => ({
  stores: MONGODB,
  grounds: ["database", "process"],
  holdMs: [0, 200],
  async begin(stage) {
    const { ledger } = stage;
    const told = ledger.told();
    const [database, name] = [stage.database(), stage.databaseName()];
    let backup: Backup | null = null;
    let kept: { _id: unknown }[] = [];
    let isAtRest = await stage.hush();
    if (keeps && isAtRest) {
      await database.operate(async (client) => {
        kept = await client.db(name).collection("messages").find().toArray();
      });
      backup = ledger.backUp();
      stage.speakAgain();
      await moreAcks(stage, ACKS_BEFORE);
      isAtRest = await stage.hush();
    }
    if (isAtRest) {
      ledger.putBack(backup, mayGoOn);
      await database.operate((client) => {
        const db = client.db(name);
        return act(db.collection("messages"), db, kept);
      });
    }
    stage.speakAgain();
    const since = performance.now();
    return {
      felt: () => !isAtRest || ledger.told() > told || (mayGoOn && ledger.newestAckedAt() > since),
      end() {},
    };
  },
});

export const MONGO_FAULTS = {
  databaseKilled: {
    stores: MONGODB,
    grounds: ["database"],
    holdMs: [0, 1_500],
    async begin(stage) {
      const database = stage.database();
      const felt = hears(stage, "store_down");
      await database.kill();
      return { felt, end: () => database.restart() };
    },
  },
  databaseStalled: {
    stores: MONGODB,
    grounds: ["database"],
    holdMs: [300, 6_000],
    async begin(stage) {
      const database = stage.database();
      database.pause();
      return { felt: delays(stage, Number.POSITIVE_INFINITY), end: () => database.resume() };
    },
  },
  insertLost: failing({ failCommands: ["insert"], closeConnection: true }),
  insertNotPrimary: failing({ failCommands: ["insert"], errorCode: NOT_WRITABLE_PRIMARY }),
  insertUnconfirmed: failing({
    failCommands: ["insert"],
    writeConcernError: { code: 64, errmsg: "waiting for replication timed out" },
  }),
  insertSteppedDown: failing({
    failCommands: ["insert"],
    writeConcernError: { code: 91, errmsg: "shutting down" },
  }),
  insertDuplicate: failing({ failCommands: ["insert"], errorCode: DUPLICATE_KEY }),
  findLost: failing({ failCommands: ["find"], closeConnection: true }),
  findNotPrimary: failing({ failCommands: ["find"], errorCode: NOT_PRIMARY_NO_SECONDARY }),
  verifyLost: failing({ failCommands: ["listCollections"], closeConnection: true }),
  endsLost: failing({ failCommands: ["aggregate"], closeConnection: true }),
  endsNotPrimary: failing({ failCommands: ["aggregate"], errorCode: NOT_PRIMARY_NO_SECONDARY }),
  everythingLost: failing({
    failCommands: ["insert", "find", "listCollections", "aggregate"],
    closeConnection: true,
  }),

  // Two services write the same rooms from the plan's first message on; one of them is killed.
  race: {
    stores: MONGODB,
    grounds: ["process"],
    holdMs: [300, 1_200],
    async begin({ serviceAt, posted }, { pick }) {
      const service = serviceAt(pick);
      await service.kill("SIGKILL");
      return { felt: posted, end: () => service.restart() };
    },
  },

  roomsEmptied: meddling({
    ...{ keeps: false, mayGoOn: true },
    act: (messages) => messages.deleteMany({}),
  }),
  collectionDropped: meddling({ ...{ keeps: false, mayGoOn: false }, act: (messages) => messages.drop() }),
  databaseDropped: meddling({ ...{ keeps: false, mayGoOn: false }, act: (_, db) => db.dropDatabase() }),
  // As `mongorestore --drop` does it.
  collectionPutBack: meddling({
    ...{ keeps: true, mayGoOn: false },
    async act(messages, _, kept) {
      await messages.drop();
      await messages.insertMany(kept as never);
    },
  }),
} as const satisfies Record<string, Fault>;
