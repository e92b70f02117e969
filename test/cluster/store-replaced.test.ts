/** A MongoDB database that is emptied or put back under members: they are told, and no number means two messages. */

import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { MongoClient } from "mongodb";
import { range, seqsOf } from "../contract/conversation.ts";
import { type Answer, bunClient, type Link } from "../contract/links.ts";
import { type Program, startProgram } from "../fixture/program.ts";
import { mongoStore, type TestStore } from "../fixture/stores.ts";

setDefaultTimeout(40_000);

const client = bunClient();
let store: TestStore;
let operator: MongoClient;
let services: Program[];

const database = () => operator.db(store.env.MONGODB_DB_NAME);
const messages = () => database().collection("messages");

beforeAll(async () => {
  store = await mongoStore();
  operator = await MongoClient.connect(store.env.MONGODB_URI as string);
  const start = () => startProgram({ env: { ...store.env, RATE_LIMIT: "off", DRAIN_MS: "0" } });
  services = await Promise.all([start(), start()]);
});
afterAll(async () => {
  expect(await Promise.all(services.map((service) => service.end()))).toEqual([0, 0]);
  await operator.close();
  await store.remove();
});

interface Member {
  readonly link: Link;
  readonly joined: Answer;
}

const join = (room: string, more: Record<string, unknown> = {}): Promise<Member[]> =>
  Promise.all(
    services.flatMap(({ url }) =>
      (["websocket", "polling"] as const).map(async (transport) => {
        const link = await client.connect(url, transport);
        return { link, joined: await link.call("join_room", { room, ...more }) };
      }),
    ),
  );

const say = async (members: readonly Member[], room: string, count: number): Promise<Answer[]> => {
  const said: Answer[] = [];
  for (const n of range(1, count)) {
    const { link } = members[n % members.length] as Member;
    said.push(await link.call("send_message", { room, user_id: "ada", message: `${n}` }));
  }
  return said;
};

const heardBy = ({ heard }: Link): Answer[] =>
  heard.filter(({ name }) => name === "receive_message").map(({ body }) => body);

test("members whose collection is put back from a backup are let go, and told that the epoch changed", async () => {
  const room = Bun.randomUUIDv7();
  const members = await join(room);
  expect(seqsOf(await say(members, room, 3))).toEqual([1, 2, 3]);
  const backup = await messages().find().toArray();
  expect(seqsOf(await say(members, room, 4))).toEqual(range(4, 7));
  for (const { link } of members) expect(seqsOf(await link.take("receive_message", 7))).toEqual(range(1, 7));

  // As many messages as the members were told of, so that only the epoch tells them apart.
  const last = backup.at(-1) as unknown as Record<string, unknown>;
  const others = range(4, 7).map((seq) => ({
    ...last,
    ...{ _id: Bun.randomUUIDv7() as never, seq, message: `other ${seq}` },
  }));
  await messages().drop();
  await messages().insertMany([...backup, ...others]);
  await Promise.all(members.map(({ link }) => link.closed));
  for (const { link } of members) expect(seqsOf(heardBy(link))).toEqual(range(1, 7));

  const { epoch } = (members[0] as Member).joined;
  const again = await join(room, { since: 7, epoch });
  for (const { joined } of again) {
    expect(joined).toMatchObject({ ok: true, recovered: false, reason: "epoch_changed", seq: 7 });
    expect(joined.epoch).not.toBe(epoch);
  }
  expect(seqsOf(await say(again, room, 1))).toEqual([8]);
  for (const { link } of again) expect(await link.next("receive_message")).toMatchObject({ seq: 8 });
  await Promise.all(again.map(({ link }) => link.close()));
});

test("members whose room another program empties are let go, told so, and hear no number twice", async () => {
  const room = Bun.randomUUIDv7();
  let members = await join(room);
  const { epoch } = (members[0] as Member).joined;
  let last = 0;
  for (const _round of range(1, 2)) {
    const said = seqsOf(await say(members, room, 5));
    expect(said).toEqual(range(last + 1, last + 5));
    await Promise.all(members.map(({ link }) => link.take("receive_message", 5)));
    await messages().deleteMany({ room });
    await Promise.all(members.map(({ link }) => link.closed));
    for (const { link } of members) expect(seqsOf(heardBy(link))).toEqual(said);

    const since = last + 5;
    members = await join(room, { since, epoch });
    const { seq } = (members[0] as Member).joined;
    expect(seq).toBeGreaterThanOrEqual(since);
    last = seq as number;
    for (const { joined } of members)
      expect(joined).toMatchObject({
        ...{ ok: true, epoch, recovered: false, reason: "truncated" },
        ...{ seq: last, first_seq: last + 1 },
      });
  }
  expect(seqsOf(await say(members, room, 1))).toEqual([last + 1]);
  for (const { link } of members) {
    expect(await link.next("receive_message")).toMatchObject({ seq: last + 1 });
    await link.close();
  }
});
