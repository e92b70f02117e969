/** The MongoDB store on a replica set whose primary changes: what only the old one had is gone, and leaves no hole. */

import { describe, expect, test } from "bun:test";
import type { Document } from "mongodb";
import { migrateMongo } from "../../../src/repository/mongo/migrate.ts";
import { draft, drafts, range, room, seq, seqs, stored, WIDE } from "../../contract/drafting.ts";
import { type LaggingReplica, startLaggingReplica } from "../../fixture/mongo-replica.ts";
import { sharedMongo } from "../../fixture/mongodb.ts";
import { mongoDatabaseOf, newEpoch, type OpenedMongo } from "./opening.ts";

type StepIn = (command: Document) => Promise<void> | void;

interface Replica extends LaggingReplica {
  /** From now on this comes before each command of the service. */
  stepIn(before: StepIn): void;
  /** The database past the lagging majority, and a service that looks through it. */
  readonly direct: OpenedMongo;
  readonly mongo: OpenedMongo;
}

const withReplica = (body: (replica: Replica) => Promise<void>) => async () => {
  const uri = await sharedMongo();
  let stepIn: StepIn = () => {};
  const lagging = await startLaggingReplica(Number(new URL(uri).port), (command) => stepIn(command));
  const direct = mongoDatabaseOf(uri);
  const mongo = mongoDatabaseOf(lagging.uri, direct.databaseName);
  try {
    await body({
      ...lagging,
      direct,
      mongo,
      stepIn(before) {
        stepIn = before;
      },
    });
  } finally {
    stepIn = () => {};
    await mongo.dispose();
    await direct.db.dropDatabase();
    await direct.dispose();
    lagging.stop();
  }
};

/** Another service's message that the primary has, and no other node yet. */
const insertUnreplicated = async ({ direct, unreplicated }: Replica, name: string, number: number) => {
  const _id = Bun.randomUUIDv7() as never;
  const now = new Date(2_000_000_000_000);
  const row = { room: name, seq: number, user_id: "bob", message: "other", timestamp: now, received_at: now };
  unreplicated.add(_id);
  await direct.messages.insertOne({ _id, ...row });
  return _id;
};

const numbersOf = async ({ messages }: OpenedMongo, name: string) =>
  (await messages.find({ room: name }).sort({ seq: 1 }).toArray()).map((row) => row.seq);

describe("append to MongoDB", () => {
  test(
    "leaves no hole when the room's end is rolled back before the insert",
    withReplica(async (replica) => {
      const repository = await replica.mongo.open();
      await repository.append(drafts("a", 3));
      const lost = await insertUnreplicated(replica, "a", 4);
      replica.stepIn(async (command) => {
        if (command.insert !== "messages" || !replica.unreplicated.delete(lost)) return;
        await replica.direct.messages.deleteOne({ _id: lost });
      });
      expect(stored((await repository.append([draft("a")]))[0])).toMatchObject({ seq: 4 });
      expect(await numbersOf(replica.direct, "a")).toEqual(range(1, 4));
      const page = await repository.readAfter(room("a"), seq(0), WIDE);
      expect(seqs(page.messages).map(Number)).toEqual(range(1, 4));
    }),
  );

  test(
    "goes on after another's message once a majority has it, and asks with pauses meanwhile",
    withReplica(async (replica) => {
      const repository = await replica.mongo.open();
      await repository.append([...drafts("a", 3), ...drafts("b", 2)]);
      const coming = await insertUnreplicated(replica, "a", 4);
      let inserts = 0;
      let reads = 0;
      replica.stepIn((command) => {
        if (command.insert === "messages") inserts++;
        // A majority has it by the time that it is looked for the fourth time.
        else if (command.aggregate === "messages" && ++reads === 4) replica.unreplicated.delete(coming);
      });
      const said = [draft("b"), draft("a"), draft("a"), draft("b")];
      const results = (await repository.append(said)).map(stored);
      expect(results.map((message) => `${message.room}${message.seq}`)).toEqual(["b3", "a5", "a6", "b4"]);
      expect(await numbersOf(replica.direct, "a")).toEqual(range(1, 6));
      expect(await numbersOf(replica.direct, "b")).toEqual(range(1, 4));
      expect(inserts).toBeLessThanOrEqual(3);
      const times = results.map((message) => message.receivedAt);
      expect(times[2]).toBe(2_000_000_000_000 as never);
    }),
  );

  test(
    "reads the ends of all rooms at once, and inserts once",
    withReplica(async (replica) => {
      const repository = await replica.mongo.open();
      await repository.append([draft("r1")]);
      const sent: string[] = [];
      replica.stepIn((command) => {
        const name = Object.keys(command)[0] ?? "";
        if (command[name] === "messages") sent.push(name);
      });
      const results = await repository.append(range(1, 200).map((n) => draft(`r${n}`)));
      expect(results.map(stored).map((message) => Number(message.seq))).toEqual([
        2,
        ...range(2, 200).map(() => 1),
      ]);
      expect(sent).toEqual(["aggregate", "insert"]);
    }),
  );
});

describe("migrateMongo", () => {
  const older = (count: number) =>
    range(1, count).map((n) => ({
      room: "a",
      user_id: "ann",
      message: `old ${n}`,
      timestamp: new Date(Date.UTC(2020, 0, 1) + n),
    }));

  test(
    "leaves no hole when numbers that only the old primary had are rolled back",
    withReplica(async (replica) => {
      const { direct } = replica;
      const { databaseName } = direct;
      await direct.messages.insertMany(older(20));
      // What was numbered with `w: 1` since a majority last confirmed anything.
      const unconfirmed: unknown[] = [];
      let updates = 0;
      replica.stepIn(async (command) => {
        if (command.update !== "messages") return;
        if (++updates === 12 && unconfirmed.length > 0) {
          const filter = { _id: { $in: unconfirmed.splice(0) as never[] } };
          await direct.messages.updateMany(filter, { $unset: { seq: "" } });
        }
        if (command.writeConcern?.w === "majority") unconfirmed.length = 0;
        else unconfirmed.push(command.updates?.[0]?.q?._id);
      });
      const migrate = () => migrateMongo({ uri: replica.uri, databaseName, dryRun: false, newEpoch });
      await migrate();
      expect(updates).toBeGreaterThanOrEqual(20);
      await migrate();
      expect(await numbersOf(direct, "a")).toEqual(range(1, 20));
      const texts = (await direct.messages.find().sort({ seq: 1 }).toArray()).map((row) => row.message);
      expect(texts).toEqual(range(1, 20).map((n) => `old ${n}`));
    }),
  );

  test(
    "numbers after another's message only once a majority has it",
    withReplica(async (replica) => {
      const { direct } = replica;
      await (await replica.mongo.open()).append(drafts("a", 2));
      const coming = await insertUnreplicated(replica, "a", 3);
      await direct.messages.insertMany(older(3));
      let updates = 0;
      replica.stepIn(async (command) => {
        if (command.update !== "messages" || ++updates < 3) return;
        if (!replica.unreplicated.delete(coming)) return;
        await direct.messages.deleteOne({ _id: coming });
      });
      const { numbered } = await migrateMongo({
        uri: replica.uri,
        databaseName: direct.databaseName,
        dryRun: false,
        newEpoch,
      });
      expect(numbered).toBe(3);
      expect(await numbersOf(direct, "a")).toEqual(range(1, 5));
    }),
  );
});
