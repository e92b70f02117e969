/** Numbering an older program's messages: by time, after what is there, again and again, and beside a running service. */

import { describe, expect, test } from "bun:test";
import { ObjectId } from "mongodb";
import { migrateMongo, type MigrationReport } from "../../../src/repository/mongo/migrate.ts";
import { chance, drafts, range, room, seq, stored, user, WIDE } from "../../contract/drafting.ts";
import { sharedMongo } from "../../fixture/mongodb.ts";
import { mongoDatabaseOf, newEpoch, type OpenedMongo } from "./opening.ts";

const CLI = `${import.meta.dir}/../../../src/cli.ts`;

interface Migrated extends OpenedMongo {
  readonly uri: string;
  migrate(dryRun?: boolean): Promise<MigrationReport>;
}

const withDatabase = (body: (mongo: Migrated) => Promise<void>) => async () => {
  const uri = await sharedMongo();
  const mongo = mongoDatabaseOf(uri);
  const migrate = (dryRun = false) =>
    migrateMongo({ uri, databaseName: mongo.databaseName, dryRun, newEpoch });
  try {
    await body({ ...mongo, uri, migrate });
  } finally {
    await mongo.db.dropDatabase();
    await mongo.dispose();
  }
};

/** As an older program wrote them: text in some offset, in no order; every seventh is a date. */
const olderMessages = (name: string, count: number, seed = 1) => {
  const { below } = chance(seed);
  return range(1, count).map((n) => {
    const time = new Date(Date.UTC(2020, 0, 1) + below(count) * 1_000);
    const offset = below(3) - 1;
    const shifted = new Date(time.getTime() + offset * 3_600_000).toISOString().slice(0, -1);
    const zone = offset === 0 ? "Z" : `${offset < 0 ? "-" : "+"}01:00`;
    return {
      room: name,
      user_id: "ann",
      message: `${name} old ${n}`,
      timestamp: n % 7 === 0 ? time : `${shifted}${zone}`,
    };
  });
};

/** The room as it must be: 1, 2, 3, …, the older ones by time and id, with dates. */
async function expectNumbered(
  { messages }: OpenedMongo,
  name: string,
  count: number,
  oursBefore = 0,
): Promise<void> {
  const rows = await messages.find({ room: name }).sort({ seq: 1 }).toArray();
  expect(rows.map((row) => row.seq)).toEqual(range(1, count));
  const older = rows.slice(oursBefore).filter((row) => row._id instanceof ObjectId);
  for (const row of older) {
    expect(row.timestamp).toBeInstanceOf(Date);
    expect(row.received_at).toEqual(row.timestamp);
  }
  const order = older.map((row) => `${row.received_at.toISOString()} ${row._id}`);
  expect(order).toEqual(order.toSorted());
}

describe("migrateMongo", () => {
  test(
    "numbers by time after the room's head, gives dates, and leaves what it cannot read",
    withDatabase(async (mongo) => {
      const repository = await mongo.open();
      await repository.append(drafts("a", 3));
      await mongo.messages.insertMany([...olderMessages("a", 40), ...olderMessages("b", 20)]);
      const unreadable = [
        { room: "a", user_id: "ann", message: "no time" },
        { room: "a", user_id: "ann", message: "bad time", timestamp: "yesterday" },
        { room: "a", user_id: "ann", message: "year 0", timestamp: "0000-05-05T00:00:00Z" },
        { room: " ", user_id: "ann", message: "no room", timestamp: new Date() },
        { room: "a", user_id: "ann", timestamp: new Date() },
      ];
      await mongo.messages.insertMany(unreadable.map((row) => ({ ...row })));
      expect(await mongo.migrate(true)).toEqual({ numbered: 60, rooms: 2, dated: 60, unreadable: 5 });
      expect(await mongo.messages.countDocuments({ seq: { $gt: 0 } })).toBe(3);
      expect(await mongo.migrate()).toEqual({ numbered: 60, rooms: 2, dated: 60, unreadable: 5 });
      await mongo.messages.find({ seq: { $exists: false } }).forEach((row) => {
        const { _id, ...rest } = row;
        expect(unreadable.map((each) => JSON.stringify(each))).toContain(JSON.stringify(rest));
      });
      await mongo.messages.deleteMany({ seq: { $exists: false } });
      await expectNumbered(mongo, "a", 43, 3);
      await expectNumbered(mongo, "b", 20);
      const page = await repository.readAfter(room("a"), seq(0), WIDE);
      expect(page.messages.length).toBe(43);
      expect(stored((await repository.append(drafts("a", 1)))[0])).toMatchObject({ seq: 44 });
      const past = await repository.readByUser({ userId: user("ann"), before: null, bounds: WIDE });
      expect(past.messages.length).toBe(64);
    }),
  );

  test(
    "changes nothing the second time",
    withDatabase(async (mongo) => {
      await mongo.messages.insertMany([...olderMessages("a", 30), { room: "a", message: "no user" }]);
      await mongo.migrate();
      const before = await mongo.messages.find().sort({ _id: 1 }).toArray();
      expect(await mongo.migrate()).toEqual({ numbered: 0, rooms: 0, dated: 0, unreadable: 1 });
      expect(await mongo.messages.find().sort({ _id: 1 }).toArray()).toEqual(before);
    }),
  );

  test(
    "run by two at once beside a service that appends leaves 1, 2, 3, without a hole",
    withDatabase(async (mongo) => {
      const repository = await mongo.open();
      await mongo.messages.insertMany(olderMessages("a", 150));
      let migrating = true;
      const acked: number[] = [];
      const appending = (async () => {
        for (let batch = 0; migrating || batch < 3; batch++)
          for (const result of await repository.append(drafts("a", 1 + (batch % 3))))
            acked.push(stored(result).seq);
      })();
      const reports = await Promise.all([mongo.migrate(), mongo.migrate()]).finally(() => {
        migrating = false;
        return appending;
      });
      expect(reports.reduce((sum, { numbered }) => sum + numbered, 0)).toBe(150);
      await expectNumbered(mongo, "a", 150 + acked.length);
    }),
    20_000,
  );

  test(
    "killed in the middle and run again ends the same",
    withDatabase(async (mongo) => {
      await mongo.messages.insertMany([...olderMessages("a", 150), ...olderMessages("b", 30)]);
      const env = { ...process.env, MONGODB_URI: mongo.uri, MONGODB_DB_NAME: mongo.databaseName };
      const child = Bun.spawn(["bun", CLI, "migrate"], { env, stdout: "ignore", stderr: "ignore" });
      while ((await mongo.messages.countDocuments({ seq: { $gt: 0 } })) < 40) await Bun.sleep(1);
      child.kill("SIGKILL");
      await child.exited;
      const done = await mongo.messages.countDocuments({ seq: { $gt: 0 } });
      expect(done).toBeLessThan(180);
      const { numbered, dated, unreadable } = await mongo.migrate();
      // The one that was under way when its sender died may have landed after the count.
      expect(180 - done - numbered).toBeWithin(0, 2);
      expect([dated, unreadable]).toEqual([0, 0]);
      await expectNumbered(mongo, "a", 150);
      await expectNumbered(mongo, "b", 30);
    }),
    20_000,
  );
});
