/**
 * Another client of the database, which does there what the service does. Where both wait, the database is what is stuck; where
 * only the service waits, the service is.
 */

import { MongoClient } from "mongodb";

export interface Witness {
  /**
   * Where the database keeps it waiting for too long now: when it asked what has no answer yet, by `performance.now()`. Null
   * where the database answers.
   */
  waitingSince(): number | null;
  /** How often the database has answered it. */
  answers(): number;
  end(): Promise<void>;
}

/** A database that takes longer for a small write and a read is out of reach: the service has less patience for a whole send. */
const ANSWER_MS = 2_000;
const ASK_AGAIN_MS = 100;

export interface WitnessOptions {
  readonly uri: string;
  readonly databaseName: string;
  readonly room: string;
  /** Before it asks for the first time: most recoveries end sooner. */
  readonly afterMs: number;
  /** The database answers again; it did not from the question of that moment on. */
  readonly onBack: (since: number) => void;
}

export function callWitness({ uri, databaseName, room, afterMs, onBack }: WitnessOptions): Witness {
  let [isEnded, answers] = [false, 0];
  let waitingSince: number | null = null;
  let wake = () => {};
  const rest = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  async function ask(client: MongoClient): Promise<void> {
    const messages = client
      .db(databaseName)
      .collection<{ _id: string; room?: string; seq?: number }>("messages");
    const writeConcern = { w: "majority", journal: true } as const;
    // No document has this name: the update waits for the collection as an insert does, and leaves nothing there.
    await messages.updateOne({ _id: "the witness" }, { $set: { seen: true } }, { writeConcern });
    await messages.findOne(
      { room, seq: { $gt: 0 } },
      { sort: { seq: -1 }, readConcern: { level: "majority" } },
    );
  }

  /** By its own clock: what the driver does about an answer that does not come is its own affair, and takes longer. */
  async function askInTime(client: MongoClient): Promise<void> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(new Error("no answer in time")), ANSWER_MS);
    try {
      await Promise.race([ask(client), late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  async function watch(): Promise<void> {
    for (await rest(afterMs); !isEnded; await rest(ASK_AGAIN_MS)) {
      const client = new MongoClient(uri, {
        ...{ retryReads: false, retryWrites: false },
        ...{ serverSelectionTimeoutMS: ANSWER_MS, connectTimeoutMS: ANSWER_MS, socketTimeoutMS: ANSWER_MS },
      });
      let asked = performance.now();
      try {
        while (!isEnded) {
          asked = performance.now();
          await askInTime(client);
          answers += 1;
          const since = waitingSince;
          waitingSince = null;
          if (since !== null) onBack(since);
          await rest(ASK_AGAIN_MS);
        }
      } catch {
        waitingSince ??= asked;
      } finally {
        await client.close().catch(() => {});
      }
    }
  }

  const watching = watch();
  return {
    waitingSince: () => waitingSince,
    answers: () => answers,
    async end() {
      isEnded = true;
      wake();
      await watching;
    },
  };
}
