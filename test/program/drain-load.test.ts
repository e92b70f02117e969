/** SIGTERM under a load that never rests: the drain gets through, and every send has an answer or can be made again. */

import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { connectMember, type Member, readRoom, type SendAnswer } from "../fixture/member.ts";
import { startProgram, temporaryFolder } from "../fixture/program.ts";
import { slowDisk } from "../fixture/slow-disk.ts";

setDefaultTimeout(30_000);

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

interface Sent {
  readonly clientId: string;
  readonly answer: SendAnswer | "no answer";
}

/** Keeps so many sends in flight until its connection is gone; resolves with what became of each, and why it went. */
async function sendWithoutRest(member: Member, name: string, inFlight: number) {
  const parted = new Promise<string>((resolve) => member.socket.once("disconnect", resolve));
  let gone = false;
  void parted.then(() => {
    gone = true;
  });
  const sent: Sent[] = [];
  let count = 0;
  const one = async () => {
    while (!gone) {
      const clientId = `${name} ${count++}`;
      const answer = await member
        .send({ room: "lobby", user_id: name, message: clientId, client_id: clientId })
        .catch(() => "no answer" as const);
      sent.push({ clientId, answer });
      // A client that is told to go elsewhere does not ask again here.
      if (answer !== "no answer" && !answer.ok) return;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, one));
  return { sent, reason: await parted };
}

test("SIGTERM under load ends in time, exit 0, and what was acked is there, once and in order", async () => {
  const { path: cwd, remove } = await temporaryFolder();
  undo.push(remove);
  const drainMs = 800;
  // A disk on which the queue never runs dry: each commit takes as long as a hundred sends.
  const program = await startProgram({
    cwd,
    env: { RATE_LIMIT: "off", DRAIN_MS: String(drainMs), ...(await slowDisk({ ms: 10 })) },
  });
  undo.push(() => program.end("SIGKILL"));
  const members: Member[] = [];
  for (let n = 0; n < 12; n += 1) {
    const transports = n % 4 === 3 ? ["polling"] : ["websocket"];
    const member = await connectMember(program.url, { transports });
    undo.push(member.close);
    await member.join({ room: "lobby", user_id: `user ${n}` });
    members.push(member);
  }
  const loads = members.map((member, n) => sendWithoutRest(member, `user ${n}`, 32));
  await (members[0] as Member).heard(500);
  const began = performance.now();
  expect(await program.end()).toBe(0);
  const tookMs = performance.now() - began;

  const results = await Promise.all(loads);
  const sent = results.flatMap((result) => result.sent);
  const kinds = Map.groupBy(sent, ({ answer }) =>
    answer === "no answer" ? answer : answer.ok ? "ok" : answer.error.code,
  );
  console.log(
    `drained in ${Math.round(tookMs)} ms: ${[...kinds].map(([kind, of]) => `${of.length} ${kind}`).join(", ")}`,
  );
  expect(tookMs).toBeLessThan(drainMs + 3_000);
  expect([...kinds.keys()].filter((kind) => !["ok", "draining", "no answer"].includes(kind))).toEqual([]);
  // None of them was told to stay away.
  for (const { reason } of results) expect(["transport close", "transport error"]).toContain(reason);

  const next = await startProgram({ cwd });
  undo.push(() => next.end("SIGKILL"));
  const stored = await readRoom(next.url, "lobby");
  expect(stored.map(({ seq }) => seq)).toEqual(stored.map((_, n) => n + 1));
  const texts = new Map(stored.map((message) => [message.message, message]));
  expect(texts.size).toBe(stored.length);
  for (const { clientId, answer } of sent) {
    // What was taken was answered before its connection was let go: nothing is there that nobody was told of.
    if (answer === "no answer") expect(texts.has(clientId)).toBe(false);
    else if (answer.ok) expect<unknown>(texts.get(clientId)?.seq).toBe(answer.seq);
    else expect(texts.has(clientId)).toBe(false);
  }
});
