/** The single file: what `bun run build` makes serves in an empty folder, and nothing of this checkout is needed. */

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdir, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { scripts, version } from "../../package.json";
import { LIMITS } from "../../src/limits.ts";
import { belongings } from "../fixture/belongings.ts";
import { connectMember, readRoom } from "../fixture/member.ts";
import { freshDatabase, sharedMongo } from "../fixture/mongodb.ts";
import { type Program, spawnProgram, startProgram, temporaryFolder } from "../fixture/program.ts";

setDefaultTimeout(60_000);

const ROOT = resolve(import.meta.dir, "../..");
let built: Awaited<ReturnType<typeof temporaryFolder>>;
let binary: string;

const { undo, folder, start: startPlain } = belongings(afterEach);

/** The script of package.json as it stands, but for where the file goes: someone may be running the other one. */
beforeAll(async () => {
  built = await temporaryFolder();
  binary = join(built.path, "chat-service");
  expect(scripts.build).toEndWith("--outfile dist/chat-service");
  const build = Bun.spawn(["sh", "-c", scripts.build.replace("dist/chat-service", binary)], {
    cwd: ROOT,
    env: { ...process.env, PATH: `${join(process.execPath, "..")}:${process.env.PATH}` },
    stdout: "ignore",
    stderr: "pipe",
  });
  const said = await new Response(build.stderr).text();
  if ((await build.exited) !== 0) throw new Error(`the build failed:\n${said}`);
});
afterAll(() => built.remove());

const start = (cwd: string, env: Record<string, string> = {}): Promise<Program> =>
  startPlain({ command: [binary], cwd, env });

describe("the compiled program", () => {
  test("is one file, and serves in an empty folder: health, page, client, chat, history", async () => {
    expect(await readdir(built.path)).toEqual(["chat-service"]);
    const began = performance.now();
    const program = await start(await folder());
    expect(await (await fetch(program.url)).json()).toMatchObject({
      status: "ok",
      version,
      storage: { kind: "sqlite" },
    });
    console.log(`compiled: first answer after ${Math.round(performance.now() - began)} ms`);

    const page = await fetch(`${program.url}/chat`);
    expect(page.headers.get("content-type")).toStartWith("text/html");
    expect(await page.text()).toContain("<!doctype html>");
    const client = join(ROOT, "node_modules/socket.io-client/dist");
    for (const bundle of ["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js"]) {
      const served = await fetch(`${program.url}/socket.io/${bundle}`);
      expect(served.headers.get("content-type")).toStartWith("text/javascript");
      expect(await served.text()).toBe(await Bun.file(join(client, bundle)).text());
    }

    const [ana, ben] = [
      await connectMember(program.url),
      await connectMember(program.url, { transports: ["polling"] }),
    ];
    undo.push(ana.close, ben.close);
    for (const [member, user_id] of [
      [ana, "ana"],
      [ben, "ben"],
    ] as const)
      await member.join({ room: "lobby", user_id });
    expect(await ana.send({ room: "lobby", user_id: "ana", message: "hello" })).toMatchObject({
      ok: true,
      seq: 1,
    });
    await Promise.all([ana.heard(1), ben.heard(1)]);
    expect(ben.live).toEqual([...ana.live]);
    expect(await readRoom(program.url, "lobby")).toEqual([...ana.live]);
  });

  test("copies its log by the worker that it carries, and leaves none behind", async () => {
    const cwd = await folder();
    const program = await start(cwd, { RATE_LIMIT: "off", DRAIN_MS: "0" });
    const sender = await connectMember(program.url);
    undo.push(sender.close);
    await sender.join({ room: "lobby" });
    const text = "x".repeat(16_000);
    const file = join(cwd, "data/chat.db");
    let sent = 0;
    // The file grows only by the worker's doing.
    while (Bun.file(file).size < LIMITS.walCheckpointBytes / 2) {
      const answers = await Promise.all(
        Array.from({ length: 64 }, () =>
          sender.send({ room: "lobby", user_id: "ana", message: `${sent++} ${text}` }),
        ),
      );
      for (const answer of answers) expect(answer.ok).toBe(true);
    }
    expect(await program.end()).toBe(0);
    expect(program.output()).not.toContain("wal_checkpoint_failed");
    expect((await readdir(join(cwd, "data"))).sort()).toEqual(["chat.db", "chat.db.lock"]);

    const next = await start(cwd);
    expect(await readRoom(next.url, "lobby")).toHaveLength(sent);
  });

  test("carries MongoDB's driver", async () => {
    const program = await start(await folder(), {
      MONGODB_URI: await sharedMongo(),
      MONGODB_DB_NAME: freshDatabase(),
    });
    await program.line(/"event":"store_up"/);
    const ana = await connectMember(program.url);
    undo.push(ana.close);
    await ana.join({ room: "lobby", user_id: "ana" });
    expect(await ana.send({ room: "lobby", user_id: "ana", message: "hello" })).toMatchObject({ seq: 1 });
    await ana.heard(1);
    expect(await readRoom(program.url, "lobby")).toEqual([...ana.live]);
  });

  test("works from anywhere: nothing of the place where it was built is needed", async () => {
    const cwd = await folder();
    await rename(binary, join(cwd, "moved"));
    undo.push(() => rename(join(cwd, "moved"), binary));
    const program = await startProgram({ command: ["./moved", "serve"], cwd });
    expect((await fetch(`${program.url}/readyz`)).status).toBe(200);
    expect(await program.end()).toBe(0);
  });

  test("obeys the folder's .env, and no bunfig.toml, package.json or tsconfig.json in it", async () => {
    const cwd = await folder();
    await writeFile(join(cwd, ".env"), "SQLITE_PATH=./elsewhere/rooms.db\n");
    await writeFile(join(cwd, "bunfig.toml"), 'preload = ["./intruder.ts"]\n[run]\nbun = true\n');
    await writeFile(join(cwd, "intruder.ts"), "process.exit(99);\n");
    await writeFile(join(cwd, "package.json"), '{ "name": "intruder", "version": "99.0.0" }');
    await writeFile(join(cwd, "tsconfig.json"), "not even JSON");
    const program = await start(cwd);
    expect(await (await fetch(program.url)).json()).toMatchObject({ version });
    expect(await Bun.file(join(cwd, "elsewhere/rooms.db")).exists()).toBe(true);
    expect(program.errors()).toBe("");
    await rm(join(cwd, "elsewhere"), { recursive: true });
  });

  test("backs its store up and puts the backup back: readers of before are told to begin afresh", async () => {
    const cwd = await folder();
    const run = async (...argv: string[]) => {
      const { exited, output } = spawnProgram({ command: [binary, ...argv], cwd });
      return { code: await exited, output: output() };
    };
    const program = await start(cwd);
    const ana = await connectMember(program.url);
    undo.push(ana.close);
    const { epoch } = await ana.join({ room: "lobby", user_id: "ana" });
    const send = (message: string) => ana.send({ room: "lobby", user_id: "ana", message });
    expect(await send("one")).toMatchObject({ ok: true, seq: 1 });
    expect(await run("backup", "backup.db")).toMatchObject({
      code: 0,
      output: expect.stringMatching(/^1 mess/),
    });
    expect(await send("two")).toMatchObject({ ok: true, seq: 2 });
    expect(await run("restore", "backup.db")).toMatchObject({
      code: 1,
      output: expect.stringContaining("is locked by another process"),
    });
    expect(await program.end()).toBe(0);
    expect(await run("restore", "backup.db")).toMatchObject({
      code: 0,
      output: expect.stringMatching(/^1 mess/),
    });

    const next = await start(cwd);
    const reader = await connectMember(next.url);
    undo.push(reader.close);
    const joined = await reader.join({ room: "lobby", user_id: "ana", since: 2, epoch });
    expect(joined).toMatchObject({ seq: 1, recovered: false, reason: "epoch_changed" });
    expect(joined.epoch).not.toBe(epoch);
  });

  test("says what it can do, its version, and what is wrong with its environment", async () => {
    const run = async (argv: string[], env = {}) => {
      const { exited, output } = spawnProgram({ command: [binary, ...argv], env });
      return { code: await exited, output: output() };
    };
    const help = await run(["--help"]);
    expect(help.code).toBe(0);
    expect(help.output).toMatch(/^usage: chat-service [\s\S]*serve[\s\S]*migrate/);
    expect(await run(["--version"])).toEqual({ code: 0, output: `${version}\n` });
    expect((await run(["dance"])).code).toBe(64);
    const wrong = await run([], { PORT: "eighty" });
    expect([wrong.code, wrong.output]).toEqual([78, expect.stringMatching(/^PORT [^\n]+\n$/)]);
  });
});
