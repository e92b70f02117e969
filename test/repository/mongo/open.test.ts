/** The MongoDB store on a real server: the contract, and what only a store shared with other programs must keep. */

import { describe, expect, test } from "bun:test";
import type { ObjectId } from "mongodb";
import { openMongoRepository } from "../../../src/repository/mongo/open.ts";
import type { MessageRepository, PageBounds, UserPlace } from "../../../src/repository/repository.ts";
import { at, draft, drafts, range, room, seq, seqs, stored, user, WIDE } from "../../contract/drafting.ts";
import { repositoryContract } from "../../contract/repository.contract.ts";
import { sharedMongo } from "../../fixture/mongodb.ts";
import { keptLog, mongoDatabaseOf, newEpoch, type OpenedMongo } from "./opening.ts";

repositoryContract("mongodb", async () => {
  const mongo = mongoDatabaseOf(await sharedMongo());
  const repository = await mongo.open();
  let last = repository;
  return {
    repository,
    async reopen() {
      await last.close();
      last = await mongo.open();
      return last;
    },
    async truncate(name, beforeSeq) {
      await mongo.messages.deleteMany({ room: name, seq: { $gt: 0, $lt: beforeSeq } });
    },
    async dispose() {
      await mongo.db.dropDatabase();
      await mongo.dispose();
    },
  };
});

const withDatabase = (body: (mongo: OpenedMongo) => Promise<void>) => async () => {
  const mongo = mongoDatabaseOf(await sharedMongo());
  try {
    await body(mongo);
  } finally {
    await mongo.db.dropDatabase();
    await mongo.dispose();
  }
};

describe("append to MongoDB", () => {
  test(
    "writes documents as the wire has them, with BSON dates",
    withDatabase(async ({ open, messages }) => {
      const repository = await open();
      const said = draft("a", { text: "hello", client: "c1", receivedAt: 5, timestamp: 3 });
      await repository.append([said, draft("a", { receivedAt: 6 })]);
      const [first, second] = await messages.find().sort({ seq: 1 }).toArray();
      expect(first).toEqual({
        _id: said.id as unknown as ObjectId,
        room: "a",
        seq: 1,
        user_id: "ann",
        message: "hello",
        timestamp: new Date(at(3)),
        received_at: new Date(at(5)),
        client_id: "c1",
      });
      expect(Object.keys(second ?? {})).not.toContain("client_id");
      const dated = { seq: { $type: "int" }, timestamp: { $type: "date" }, received_at: { $type: "date" } };
      expect(await messages.countDocuments(dated)).toBe(2);
    }),
  );

  test(
    "of three services racing in the same rooms leaves 1, 2, 3, without a hole or a repeat",
    withDatabase(async ({ open, messages }) => {
      const services = await Promise.all([open(), open(), open()]);
      const batches = 12;
      const said = await Promise.all(
        services.map(async (repository, index) => {
          const results: { seq: number; text: string; id: string; room: string }[] = [];
          for (let batch = 0; batch < batches; batch++) {
            const part = { user: `u${index}`, receivedAt: batch };
            const mixed = [...drafts("a", 1 + (batch % 4), part), ...drafts("b", 2, part)];
            for (const result of await repository.append(mixed)) results.push(stored(result));
          }
          return results;
        }),
      );
      for (const name of ["a", "b"]) {
        const acked = said.flat().filter((message) => message.room === name);
        const kept = await messages.find({ room: name }).sort({ seq: 1 }).toArray();
        expect(kept.map((row) => row.seq)).toEqual(range(1, acked.length));
        expect(new Map(kept.map((row) => [String(row._id), row.seq]))).toEqual(
          new Map(acked.map((message) => [message.id, message.seq])),
        );
        const times = kept.map((row) => Number(row.received_at));
        expect(times).toEqual(times.toSorted((x, y) => x - y));
        for (const own of said) {
          const order = own.filter((message) => message.room === name).map((message) => message.seq);
          expect(order).toEqual(order.toSorted((x, y) => x - y));
        }
      }
    }),
  );

  test(
    "of one client id through three services at once stores it once",
    withDatabase(async ({ open, messages }) => {
      const services = await Promise.all([open(), open(), open()]);
      for (const round of range(1, 8)) {
        const retry = (index: number) => [
          ...drafts("a", index),
          draft("a", { client: `c${round}`, text: `t${round}`, receivedAt: round }),
        ];
        const answers = await Promise.all(
          services.map(async (repository, index) => (await repository.append(retry(index))).at(-1)),
        );
        expect(answers.map((answer) => answer?.kind).toSorted()).toEqual([
          "duplicate",
          "duplicate",
          "stored",
        ]);
        const told = answers.map((answer) => answer !== undefined && "message" in answer && answer.message);
        expect(new Set(told.map((message) => Bun.inspect(message))).size).toBe(1);
      }
      const kept = await messages.find({ room: "a" }).sort({ seq: 1 }).toArray();
      expect(kept.map((row) => row.seq)).toEqual(range(1, 8 * 4));
    }),
  );

  test(
    "refuses only the document that the server refuses, and leaves no hole",
    withDatabase(async ({ open, db, messages }) => {
      const repository = await open();
      await repository.append([draft("a")]);
      await db.command({ collMod: "messages", validator: { message: { $ne: "poison" } } });
      const texts = ["two", "poison", "three", "poison", "four"];
      const results = await repository.append(texts.map((text) => draft("a", { text })));
      expect(
        results.map((result) =>
          "error" in result ? `${result.kind} ${result.error.code}` : result.message.seq,
        ),
      ).toEqual([seq(2), "rejected storage_unavailable", seq(3), "rejected storage_unavailable", seq(4)]);
      expect((await messages.find({ room: "a" }).sort({ seq: 1 }).toArray()).map((row) => row.seq)).toEqual(
        range(1, 4),
      );
      expect(repository.status()).toEqual({ up: true });
    }),
  );

  test(
    "after the database was dropped has a new epoch, with its indexes",
    withDatabase(async ({ open, db, messages }) => {
      const [one, other] = await Promise.all([open(), open()]);
      await one.append(drafts("a", 3));
      const before = (await other.head(room("a"))).epoch;
      await db.dropDatabase();
      expect(stored((await one.append(drafts("a", 1)))[0])).toMatchObject({ seq: 1 });
      const after = await one.head(room("a"));
      expect(after).toMatchObject({ seq: 1, firstSeq: 1 });
      expect(after.epoch).not.toBe(before);
      expect(await other.head(room("a"))).toEqual(after);
      expect((await messages.indexes()).map((index) => index.name)).toContain("room_seq");
      await messages.drop();
      expect((await other.heads([room("a")])).seqs.map(Number)).toEqual([0]);
      expect((await one.head(room("a"))).epoch).not.toBe(after.epoch);
      expect((await messages.indexes()).map((index) => index.name)).toContain("room_user_client");
    }),
  );
});

describe("reads from MongoDB", () => {
  test(
    "are served by the indexes",
    withDatabase(async ({ open, messages }) => {
      const repository = await open();
      await repository.append(
        range(1, 40).flatMap((n) => drafts(`r${n % 4}`, 2, { client: `c${n}`, user: `u${n}` })),
      );
      const indexOf = async (filter: Record<string, unknown>, sort: Record<string, 1 | -1> = {}) =>
        JSON.stringify(await messages.find(filter).sort(sort).explain("queryPlanner"));
      const newest = await indexOf({ room: "r1", seq: { $gt: 0 } }, { seq: -1 });
      const page = await indexOf({ room: "r1", seq: { $gt: 7, $lte: 20 } }, { seq: 1 });
      for (const plan of [newest, page]) expect(plan).toContain('"indexName":"room_seq"');
      const named = { room: "r1", user_id: "u1", client_id: { $in: ["c1", "c5"], $gt: "" } };
      expect(await indexOf(named)).toContain('"indexName":"room_user_client"');
      const mine = { user_id: "u1", received_at: { $lte: new Date() } };
      expect(await indexOf(mine, { received_at: -1 })).toContain('"indexName":"user_received"');
      for (const received_at of [null, { $lt: "\u{10ffff}" }])
        expect(await indexOf({ user_id: "u1", received_at })).toContain('"indexName":"user_received"');
    }),
  );

  test(
    "of a room say which document another program made unreadable",
    withDatabase(async ({ open, messages }) => {
      const repository = await open();
      await repository.append(drafts("a", 2));
      await messages.insertOne({ room: "a", seq: 3, user_id: "ann", message: 7, timestamp: new Date() });
      const read = repository.readAfter(room("a"), seq(0), WIDE);
      await expect(read).rejects.toMatchObject({ code: "storage_unavailable" });
      expect(
        (await repository.readAfter(room("a"), seq(0), { ...WIDE, messagesMax: 1 })).messages.length,
      ).toBe(1);
    }),
  );
});

describe("messages of an older program", () => {
  const T = "2025-06-15T15:06:40";

  const walk = async (repository: MessageRepository, bounds: PageBounds, within?: string) => {
    const seen: { id: string; seq: number | null; receivedAt: number; text: string }[] = [];
    for (let before: UserPlace | null = null; ;) {
      const query = {
        userId: user("ann"),
        before,
        bounds,
        ...(within === undefined ? {} : { room: room(within) }),
      };
      const page = await repository.readByUser(query);
      seen.push(...page.messages);
      before = page.messages.at(-1) ?? null;
      if (!page.more) return seen;
      expect(page.messages.length).toBeGreaterThan(0);
    }
  };

  test(
    "are shown by user, without a number, at the time they say",
    withDatabase(async ({ open, messages }) => {
      const repository = await open();
      await repository.append([draft("a", { text: "ours" })]);
      const old = { room: "a", user_id: "ann" };
      const { insertedId } = await messages.insertOne({
        ...old,
        message: "text",
        timestamp: `${T}.250+01:00`,
      });
      await messages.insertOne({ ...old, message: "date", timestamp: new Date("2020-01-01T00:00:00Z") });
      // An older program's receipt as text: the message stands where its timestamp says.
      const earlier = { ...old, timestamp: "2019-06-01T00:00:00Z" };
      await messages.insertOne({ ...earlier, message: "text receipt", received_at: "2019-06-01T00:00:01Z" });
      const page = await repository.readByUser({ userId: user("ann"), before: null, bounds: WIDE });
      expect(page.messages.map(({ text, seq: number }) => [text, number])).toEqual([
        ["ours", seq(1)],
        ["text", null],
        ["date", null],
        ["text receipt", null],
      ]);
      expect(page.messages[1]).toMatchObject({
        id: insertedId.toHexString(),
        receivedAt: Date.parse(`${T}.250+01:00`),
        timestamp: Date.parse(`${T}.250+01:00`),
      });
      expect(await repository.head(room("a"))).toMatchObject({ seq: 1, firstSeq: 1 });
      expect((await repository.readRooms({ before: null, roomsMax: 9 })).rooms.length).toBe(1);
    }),
  );

  test(
    "are walked once each among ours, by time and id as text, whatever their ids are, unreadable ones passed over",
    withDatabase(async ({ open, messages }) => {
      const repository = await open();
      // All in the same few milliseconds: ties between text ids, ObjectIds and numbers decide the order.
      const times = [`${T}.000Z`, `${T}.001Z`, `${T}.002Z`];
      await repository.append(
        range(0, 29).map((n) => draft(`r${n % 2}`, { text: `ours ${n}`, receivedAt: Math.floor(n / 10) })),
      );
      const old = range(0, 44).map((n) => ({
        room: `r${n % 2}`,
        user_id: "ann",
        message: `old ${n}`,
        timestamp: n % 3 === 0 ? new Date(times[n % 3] ?? "") : (times[n % 3] ?? ""),
        ...(n % 5 === 0 ? { _id: `id-${n}` as unknown as ObjectId } : {}),
        ...(n % 5 === 1 ? { _id: n as unknown as ObjectId } : {}),
        ...(n % 5 === 2 ? { received_at: new Date(times[n % 3] ?? "") } : {}),
      }));
      await messages.insertMany(old);
      await messages.insertMany([
        { room: "r0", user_id: "ann", message: 7, timestamp: `${T}Z` },
        { room: "r0", user_id: "ann", message: "no time" },
        { room: "r0", user_id: "ann", message: "last Tuesday", timestamp: "last Tuesday" },
        { room: "\u0007", user_id: "ann", message: "no room", timestamp: `${T}Z` },
        { room: "r0", user_id: "ann", message: "", timestamp: new Date(), received_at: new Date() },
      ]);
      const expected = [...range(0, 29).map((n) => `ours ${n}`), ...range(0, 44).map((n) => `old ${n}`)];
      for (const messagesMax of [1, 7, 500]) {
        const seen = await walk(repository, { messagesMax, textBytesMax: 1_000_000 });
        expect(seen.map(({ text }) => text).toSorted()).toEqual(expected.toSorted());
        const order = seen.toSorted(
          (x, y) => y.receivedAt - x.receivedAt || Buffer.compare(Buffer.from(y.id), Buffer.from(x.id)),
        );
        expect(seen).toEqual(order);
      }
      const narrowed = await walk(repository, { messagesMax: 4, textBytesMax: 1_000_000 }, "r1");
      expect(narrowed.length).toBe(15 + 22);
      const ranged = await repository.readByUser({
        userId: user("ann"),
        before: null,
        bounds: WIDE,
        range: { from: at(1), to: at(2) },
      });
      expect(ranged.messages.length).toBe(10 + 15);
      expect(seqs(ranged.messages.filter((message) => message.seq === null)).length).toBe(15);
    }),
  );
});

describe("openMongoRepository", () => {
  test("refuses an address that cannot be one in one line without the password", async () => {
    const { log } = keptLog();
    const wrong = [
      "mongodb://ann:s3cret@host:port/",
      "mongodb://ann:s3cret@host/?tls=perhaps",
      "mongodb://ann:s3cret@host/?colour=s3cret",
      "mongodb://ann:s3cret@",
      "mongodb://ann:s3%ret@host/",
      "mongodb://ann:s3cret",
      "mongodb://s3cret:x/?tls=true",
      "mongodb://host:1/?authMechanism=s3cret",
    ];
    for (const uri of wrong) {
      const thrown = await openMongoRepository({ uri, databaseName: "d", log, newEpoch }).then(
        () => undefined,
        (error: Error) => error.message,
      );
      expect(thrown).toMatch(/^MONGODB_URI cannot be used: [^\n]+$/);
      expect(thrown).not.toMatch(/s3|ann:/);
    }
  });

  test(
    "says where it keeps the messages without credentials",
    withDatabase(async ({ databaseName }) => {
      const { log } = keptLog();
      const uri = "mongodb://ann:s3cret@127.0.0.1:1,localhost:2/?replicaSet=r";
      const repository = await openMongoRepository({ uri, databaseName, log, newEpoch });
      expect(repository.place).toBe(`mongodb://127.0.0.1:1,localhost:2/${databaseName}`);
      expect(repository.status()).toEqual({ up: false, reason: "MongoDB has not been reached yet" });
      await repository.close();
    }),
  );
});
