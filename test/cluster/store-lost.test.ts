/** The database dies in the middle of a load and comes back: nothing acked is lost, nothing is doubled, members miss nothing. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { insist } from "../contract/coming-and-going.ts";
import { range, seqsOf } from "../contract/conversation.ts";
import { bunClient } from "../contract/links.ts";
import { freshDatabase, ownServers, startMongo } from "../fixture/mongodb.ts";
import { startProgram, temporaryFolder } from "../fixture/program.ts";

setDefaultTimeout(60_000);

if (ownServers) {
  test("a service outlives its database's death, and tells its members what had been in doubt", async () => {
    const folder = await temporaryFolder();
    let mongo = await startMongo({ storagePath: folder.path });
    const program = await startProgram({
      env: {
        MONGODB_URI: mongo.uri,
        MONGODB_DB_NAME: freshDatabase(),
        RATE_LIMIT: "off",
        DRAIN_MS: "0",
      },
    });
    const client = bunClient();
    const room = Bun.randomUUIDv7();
    const [member, sender] = [
      await client.connect(program.url, "polling"),
      await client.connect(program.url, "websocket"),
    ];
    for (const link of [member, sender]) await link.call("join_room", room);

    const total = 240;
    let next = 0;
    const acks: { text: string; seq: unknown; id: unknown }[] = [];
    const worker = async () => {
      while (next < total) {
        next += 1;
        const text = `${next}`;
        const { seq, id } = await insist(sender, { room, user_id: "ada", message: text, client_id: text });
        acks.push({ text, seq, id });
      }
    };
    const load = Promise.all(range(1, 16).map(worker));
    const first = await member.take("receive_message", 60);
    await mongo.kill();
    mongo = await startMongo({ storagePath: folder.path, port: mongo.port });
    await load;

    const heard = [...first, ...(await member.take("receive_message", total - first.length))];
    expect(seqsOf(heard)).toEqual(range(1, total));
    expect(new Set(heard.map(({ message }) => message)).size).toBe(total);
    for (const { text, seq, id } of acks)
      expect(heard[(seq as number) - 1]).toMatchObject({ message: text, id: id as string });
    await program.end();
    await mongo.stop();
    await folder.remove();
  });
}
