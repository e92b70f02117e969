/**
 * Somebody else at the database, who does what the service does there. Where both wait, the database is what is stuck;
 * where only the service waits, the service is.
 */

import { MongoClient } from "mongodb";

export interface Witness {
  /** Whether the database keeps it waiting for too long now. */
  isWaiting(): boolean;
  /** How often the database has answered it. */
  answers(): number;
  end(): Promise<void>;
}

/** A database that takes longer for a small write is out of reach: the service has less patience for a whole send. */
const ANSWER_MS = 2_000;
const ASK_AGAIN_MS = 100;

export interface WitnessOptions {
  readonly uri: string;
  readonly databaseName: string;
  readonly room: string;
  /** Before it asks for the first time: usually nobody needs it. */
  readonly afterMs: number;
  /** The database answers again, after it has kept it waiting for too long. */
  readonly onBack: () => void;
}

export function callWitness({ uri, databaseName, room, afterMs, onBack }: WitnessOptions): Witness {
  let [isEnded, isWaiting, answers] = [false, false, 0];
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
    // Nobody's document, found by nobody: it waits for the collection as an insert does, and leaves nothing there.
    await messages.updateOne({ _id: "the witness" }, { $set: { seen: true } }, { writeConcern });
    await messages.findOne(
      { room, seq: { $gt: 0 } },
      { sort: { seq: -1 }, readConcern: { level: "majority" } },
    );
  }

  async function watch(): Promise<void> {
    for (await rest(afterMs); !isEnded; await rest(ASK_AGAIN_MS)) {
      const client = new MongoClient(uri, {
        serverSelectionTimeoutMS: ANSWER_MS,
        connectTimeoutMS: ANSWER_MS,
        socketTimeoutMS: ANSWER_MS,
      });
      try {
        while (!isEnded) {
          await ask(client);
          answers += 1;
          if (isWaiting) onBack();
          isWaiting = false;
          await rest(ASK_AGAIN_MS);
        }
      } catch {
        isWaiting = true;
      } finally {
        await client.close().catch(() => {});
      }
    }
  }

  const watching = watch();
  return {
    isWaiting: () => isWaiting,
    answers: () => answers,
    async end() {
      isEnded = true;
      wake();
      await watching;
    },
  };
}
