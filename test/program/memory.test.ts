/** What a client that means ill, or reads nothing, may cost the whole program. */

import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { resolve } from "node:path";
import { belongings } from "../fixture/belongings.ts";
import { connectMember, type Member } from "../fixture/member.ts";
import type { Program } from "../fixture/program.ts";

setDefaultTimeout(60_000);

const MB = 1_000_000;
const ROOM = "lobby";
const READER = resolve(import.meta.dir, "../fixture/reader.ts");

const { undo, folder, start: startPlain } = belongings(afterEach);

const start = async (): Promise<Program> =>
  startPlain({ cwd: await folder(), env: { RATE_LIMIT: "off", DRAIN_MS: "0" } });

/** Sends so many messages of 16 kB, some at once, and resolves with the most memory that the program took meanwhile. */
async function flood(program: Program, sender: Member, count: number): Promise<number> {
  const text = "x".repeat(16_000);
  let peak = 0;
  for (let sent = 0; sent < count; sent += 32) {
    const answers = await Promise.all(
      Array.from({ length: 32 }, () => sender.send({ room: ROOM, user_id: "ana", message: text })),
    );
    for (const answer of answers) expect(answer.ok).toBe(true);
    if (sent % 256 === 0) peak = Math.max(peak, await program.residentBytes());
  }
  return peak;
}

/** A stock client in a process of its own, which can be stopped; it prints each seq and each parting. */
function spawnReader(url: string) {
  const child = Bun.spawn([process.execPath, READER, url, ROOM], { stdout: "pipe", stderr: "inherit" });
  undo.push(() => child.kill("SIGKILL"));
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  const read = async () => {
    let rest = "";
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      const parts = (rest + chunk).split("\n");
      rest = parts.pop() ?? "";
      lines.push(...parts);
      for (const look of waiting) look();
    }
  };
  void read();
  return {
    child,
    lines,
    said: (line: string) =>
      new Promise<void>((found) => {
        const look = () => {
          if (lines.includes(line)) found();
        };
        waiting.add(look);
        look();
      }),
  };
}

describe("a reader that stops reading", () => {
  test("costs less than 20 MB, is disconnected and counted, and resumes without a hole", async () => {
    const program = await start();
    const sender = await connectMember(program.url);
    undo.push(sender.close);
    await sender.join({ room: ROOM, user_id: "ana" });
    const reader = spawnReader(program.url);
    await reader.said("joined at 0");

    const count = 2_048;
    // The runtime goes on taking memory for a while under such a load, some 20 MB, whether anyone reads or not.
    for (let warm = 0; warm < 2; warm += 1) await flood(program, sender, count);
    const withReader = await flood(program, sender, count); // the control: everyone reads
    await reader.said(`seq ${3 * count}`);
    reader.child.kill("SIGSTOP");
    const withStopped = await flood(program, sender, count);
    await program.line(/"event":"slow_client_disconnected"/);
    console.log(
      `most memory with a reader ${Math.round(withReader / MB)} MB, with a stopped one ${Math.round(withStopped / MB)} MB`,
    );
    expect(withStopped - withReader).toBeLessThan(20 * MB);

    reader.child.kill("SIGCONT");
    await reader.said(`seq ${4 * count}`);
    expect(reader.lines).toContain("parted: transport close");
    const seqs = reader.lines.filter((line) => line.startsWith("seq ")).map((line) => Number(line.slice(4)));
    expect(seqs).toEqual(Array.from({ length: 4 * count }, (_, n) => n + 1));
    // The sender, who read, was never let go.
    expect(sender.live).toHaveLength(4 * count);
    expect(await program.end()).toBe(0);
    expect(program.output()).toContain('"slow_clients_disconnected_total":1,');
  });
});

describe("a flood of pongs", () => {
  test("three POSTs of 499,000 cost less than 20 MB, and GET / answers within 100 ms meanwhile", async () => {
    const program = await start();
    const get = async () => {
      const began = performance.now();
      expect((await fetch(program.url)).status).toBe(200);
      return performance.now() - began;
    };
    for (let n = 0; n < 50; n += 1) await get(); // warm
    const before = await program.residentBytes();
    const pongs = Array(499_000).fill("3").join("\x1e");
    let flooding = true;
    const flooded = async () => {
      for (let n = 0; n < 3; n += 1) {
        const path = `${program.url}/socket.io/?EIO=4&transport=polling`;
        const opened = await (await fetch(path)).text();
        const { sid } = JSON.parse(opened.slice(1)) as { sid: string };
        const response = await fetch(`${path}&sid=${sid}`, { method: "POST", body: pongs });
        expect(response.status).toBe(400);
      }
      flooding = false;
    };
    const times: number[] = [];
    const watched = async () => {
      while (flooding) times.push(await get());
    };
    await Promise.all([flooded(), watched()]);
    const grown = (await program.residentBytes()) - before;
    console.log(
      `memory moved by ${(grown / MB).toFixed(1)} MB; GET / took ${Math.max(...times).toFixed(1)} ms at most`,
    );
    expect(grown).toBeLessThan(20 * MB);
    expect(Math.max(...times)).toBeLessThan(100);
    expect(program.output()).toMatch(/"event":"engine_abuse_closed".*"reason":"too_many_packets"/);
  });
});

describe("sixty readers of history that do not read", () => {
  const READERS = 60;

  /** A room of so many long texts, and a member in another room. */
  async function prepared(env: Record<string, string>, texts: number, text: string) {
    const program = await startPlain({
      cwd: await folder(),
      env: { RATE_LIMIT: "off", DRAIN_MS: "0", ...env },
    });
    for (let n = 0; n < texts; n += 1) {
      const answer = await fetch(`${program.url}/rooms/long/messages`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ user_id: "ana", message: text }),
      });
      expect(answer.status).toBe(201);
    }
    const member = await connectMember(program.url);
    undo.push(member.close);
    await member.join({ room: ROOM, user_id: "ana" });
    return { program, member };
  }

  const connectReaders = ({ port }: Program) =>
    Promise.all(
      Array.from({ length: READERS }, async () => {
        const socket = await Bun.connect({
          hostname: "127.0.0.1",
          port,
          socket: { open: (opened) => void opened.pause(), data() {} },
        });
        undo.push(() => socket.terminate());
        return socket;
      }),
    );

  let asked = 0;
  /** Never the same twice: no page that was kept. */
  const path = () => {
    asked += 1;
    return `/rooms/long/messages?limit=200&x=${asked}`;
  };
  const request = () => `GET ${path()} HTTP/1.1\r\nHost: x\r\n\r\n`;

  /** Lets each socket ask `rounds` times; resolves with how memory grew and how long a member's sends took. */
  async function attack(
    { program, member }: { program: Program; member: Member },
    sockets: Awaited<ReturnType<typeof connectReaders>>,
    rounds: number,
  ) {
    const acks: number[] = [];
    const send = async () => {
      const began = performance.now();
      expect((await member.send({ room: ROOM, user_id: "ana", message: "hi" })).ok).toBe(true);
      acks.push(performance.now() - began);
    };
    for (let n = 0; n < 50; n += 1) await send(); // warm
    for (let n = 0; n < 3; n += 1) await (await fetch(program.url + path())).bytes();
    acks.length = 0;
    const before = await program.residentBytes();
    let peak = before;
    for (let round = 0; round < rounds; round += 1) {
      // All but the last of its requests as soon as the one before was taken: a second one behind an unread answer closes.
      for (const socket of sockets) socket.write(request());
      for (let n = 0; n < 5; n += 1) await send();
      peak = Math.max(peak, await program.residentBytes());
    }
    const medianMs = acks.sort((a, b) => a - b)[acks.length >> 1] as number;
    console.log(
      `memory grew by ${Math.round((peak - before) / MB)} MB; sends took ${medianMs.toFixed(1)} ms, at most ${acks.at(-1)?.toFixed(1)} ms`,
    );
    return { grown: peak - before, medianMs };
  }

  test("cost less than 100 MB, and a member's sends are answered in less than 250 ms", async () => {
    const world = await prepared({}, 250, "\u0001".repeat(16_000));
    const { grown, medianMs } = await attack(world, await connectReaders(world.program), 20);
    expect(grown).toBeLessThan(100 * MB);
    expect(medianMs).toBeLessThan(250);
  });

  test("are refused beyond the ceiling, where texts may be giants; when they go there is room again", async () => {
    const world = await prepared(
      { MAX_MESSAGE_BYTES: "8000000", MAX_FRAME_BYTES: "50000000", OUTBOUND_LIMIT_BYTES: "100000000" },
      1,
      "x".repeat(8_000_000),
    );
    const { program } = world;
    const sockets = await connectReaders(program);
    // Sixty of them are 480 MB; what is unread is held once, and what was refused until the collector comes.
    expect((await attack(world, sockets, 1)).grown).toBeLessThan(350 * MB);
    let refused = 0;
    for (let status = 0; status !== 503; refused += 1) {
      const answer = await fetch(program.url + path());
      status = answer.status;
      if (status === 503) expect(answer.headers.get("retry-after")).toBe("1");
      await answer.bytes();
    }
    expect(refused).toBeGreaterThan(0);
    for (const socket of sockets) socket.terminate();
    for (let status = 0; status !== 200;) {
      const answer = await fetch(program.url + path());
      status = answer.status;
      await answer.bytes();
    }
    expect(await program.end()).toBe(0);
    const counted = Number(/"pages_overloaded_total":(\d+)/.exec(program.output())?.[1]);
    // Eight of them are what may be unread.
    expect(counted).toBeGreaterThanOrEqual(READERS - 10);
  });
});
