/** How the program starts, and how it says that it cannot. */

import { Database } from "bun:sqlite";
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmod, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { belongings } from "../fixture/belongings.ts";
import { connectMember, readRoom } from "../fixture/member.ts";
import { ownServers, startMongo } from "../fixture/mongodb.ts";
import { FROM_SOURCE, type Program, type ProgramOptions, spawnProgram } from "../fixture/program.ts";

setDefaultTimeout(30_000);

const { undo, folder, start } = belongings(afterEach);

/** What a program that cannot start says on its standard error, and its exit code. */
async function startFailure(options: ProgramOptions) {
  const program = spawnProgram(options);
  undo.push(() => program.child.kill("SIGKILL"));
  const code = await program.exited;
  expect(program.output()).toBe(program.errors());
  return { code, lines: program.errors().trimEnd().split("\n") };
}

function freePort(): number {
  const probe = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() });
  const { port } = probe;
  probe.stop(true);
  return port as number;
}

const said = (program: Pick<Program, "output">, event: string): Record<string, string> =>
  JSON.parse(
    program
      .output()
      .split("\n")
      .find((line) => line.includes(`"event":"${event}"`)) ?? "null",
  );

async function sendOne(url: string, text = "hello") {
  return fetch(`${url}/rooms/lobby/messages`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ user_id: "ana", message: text }),
  });
}

describe("the program's start", () => {
  test("without an environment: a file in ./data, ready in under a second, and says where everything is", async () => {
    const cwd = await folder();
    const began = performance.now();
    const program = await start({ cwd, env: { HOST: "" } });
    const port = new URL(program.url).port;
    const health = await fetch(`http://127.0.0.1:${port}/`);
    const readyMs = performance.now() - began;
    console.log(`ready in ${Math.round(readyMs)} ms, spawn and first answer included`);
    expect(await health.json()).toMatchObject({ status: "ok", storage: { kind: "sqlite", status: "up" } });
    expect(readyMs).toBeLessThan(3_000);

    await program.line(/auth_is_off/);
    expect(said(program, "listening")).toMatchObject({
      url: `http://localhost:${port}`,
      bind: `0.0.0.0:${port}`,
      chat: `http://localhost:${port}/chat`,
      history: `http://localhost:${port}/messages/{user_id}`,
      store: "sqlite",
    });
    expect(said(program, "listening").place).toEndWith(join("/", "data", "chat.db"));
    expect(said(program, "auth_is_off").level).toBe("warn");
    expect(program.output().trimEnd().split("\n")).toHaveLength(2);
    expect(await Bun.file(join(cwd, "data", "chat.db")).exists()).toBe(true);
  });

  test("reads .env in the working directory; the real environment wins", async () => {
    const cwd = await folder();
    await writeFile(join(cwd, ".env"), "SQLITE_PATH=./from-env.db\nMAX_MESSAGE_BYTES=5\nLOG_LEVEL=error\n");
    const program = await start({ cwd, env: { LOG_LEVEL: "info" } });
    expect(await Bun.file(join(cwd, "from-env.db")).exists()).toBe(true);
    expect((await sendOne(program.url, "12345")).status).toBe(201);
    expect((await sendOne(program.url, "123456")).status).toBe(413);
  });

  test("wrong values: exit 78, a line for each variable, nothing else", async () => {
    const cwd = await folder();
    const wrong = {
      PORT: "eighty",
      MONGODB_URI: "postgres://db",
      CORS_ORIGINS: "example.org",
      MAX_MESSAGE_BYTES: "-1",
      RATE_LIMIT: "fast",
      DRAIN_MS: "1e9",
      LOG_LEVEL: "loud",
    };
    const { code, lines } = await startFailure({ cwd, env: wrong });
    expect(code).toBe(78);
    expect(lines.map((line) => line.split(" ", 1)[0])).toEqual(Object.keys(wrong));
    expect(await Array.fromAsync(new Bun.Glob("**").scan({ cwd, onlyFiles: false }))).toEqual([]);
  });

  test("an address that only the driver finds wrong: exit 78 and one line without its secret", async () => {
    const { code, lines } = await startFailure({ env: { MONGODB_URI: "mongodb://ann:s3cret@host:port/x" } });
    expect(code).toBe(78);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toStartWith("MONGODB_URI ");
    expect(lines[0]).not.toContain("s3cret");
  });

  test("ceilings that do not fit each other: exit 78 and a line that names them", async () => {
    const { code, lines } = await startFailure({ env: { MAX_MESSAGE_BYTES: "1000000" } });
    expect(code).toBe(78);
    expect(lines.join("\n")).toMatch(/^MAX_FRAME_BYTES .*MAX_MESSAGE_BYTES/);
  });

  test.each([12, 16, 20, 30])(
    "at most %d open files: one line that says what to do, exit 1, and nothing is made",
    async (files) => {
      const cwd = await folder();
      const command = ["sh", "-c", `ulimit -n ${files} && exec "$0" "$1"`, ...FROM_SOURCE];
      const { code, lines } = await startFailure({ cwd, command });
      expect(lines).toHaveLength(1);
      expect(lines[0]).toMatch(/^cannot start: only \d+ more files can be opened, .*ulimit -n/);
      expect(code).toBe(1);
      expect(await readdir(cwd)).toEqual([]);
    },
  );

  test("a taken port: one line, exit 1, and the store is let go", async () => {
    const cwd = await folder();
    const other = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() });
    undo.push(() => other.stop(true));
    const { code, lines } = await startFailure({ cwd, env: { PORT: String(other.port) } });
    expect(code).toBe(1);
    expect(lines).toEqual([expect.stringContaining(String(other.port))]);
    await start({ cwd });
  });
});

describe("one file, one process:", () => {
  test("a second one is refused in one line, also by another name of the file, and the first goes on", async () => {
    const cwd = await folder();
    const first = await start({ cwd });
    await Bun.$`ln -s data linked`.cwd(cwd);
    for (const path of ["./data/chat.db", "./linked/chat.db"]) {
      const { code, lines } = await startFailure({ cwd, env: { SQLITE_PATH: path } });
      expect(code).toBe(1);
      expect(lines).toEqual([expect.stringMatching(/chat\.db is locked by another process/)]);
    }
    expect((await sendOne(first.url)).status).toBe(201);
    expect(await first.end()).toBe(0);
  });

  test("after kill -9 the next start works and has what was acked", async () => {
    const cwd = await folder();
    const first = await start({ cwd });
    expect((await sendOne(first.url)).status).toBe(201);
    await first.end("SIGKILL");
    const second = await start({ cwd });
    expect((await readRoom(second.url, "lobby")).map(({ message }) => message)).toEqual(["hello"]);
    expect(((await (await sendOne(second.url)).json()) as { seq: number }).seq).toBe(2);
  });
});

describe("a store that cannot be used: one line that names the file, exit 1:", () => {
  // A superuser passes over permissions, but for the capabilities that let it.
  const bound =
    process.getuid?.() === 0
      ? ["setpriv", "--bounding-set=-dac_override,-dac_read_search", ...FROM_SOURCE]
      : FROM_SOURCE;

  const made = async (path: string) => {
    const program = await start({ env: { SQLITE_PATH: path } });
    expect((await sendOne(program.url)).status).toBe(201);
    expect(await program.end()).toBe(0);
  };

  const faults: [string, RegExp, (cwd: string) => Promise<string>][] = [
    [
      "no database at all",
      /is not a database/,
      async (cwd) => {
        await writeFile(join(cwd, "x.db"), "The quick brown fox jumps over the lazy dog. ".repeat(1_000));
        return "x.db";
      },
    ],
    [
      "a corrupt file",
      /is corrupt|is not a database/,
      async (cwd) => {
        await made(join(cwd, "x.db"));
        const bytes = await Bun.file(join(cwd, "x.db")).bytes();
        bytes.fill(0xa5, 4_096, 20_480);
        await writeFile(join(cwd, "x.db"), bytes);
        return "x.db";
      },
    ],
    [
      "a newer program's file",
      /has schema 4711.*newer program/,
      async (cwd) => {
        await made(join(cwd, "x.db"));
        const db = new Database(join(cwd, "x.db"));
        db.run("PRAGMA user_version = 4711");
        db.close();
        return "x.db";
      },
    ],
    [
      "another program's file",
      /belongs to another program/,
      async (cwd) => {
        const db = new Database(join(cwd, "x.db"), { create: true });
        db.run("CREATE TABLE customers (name TEXT)");
        db.close();
        return "x.db";
      },
    ],
    [
      "a folder in its place",
      /x\.db is a folder, a device or a pipe: it must be the path of a file$/,
      async (cwd) => {
        await mkdir(join(cwd, "x.db"));
        return "x.db";
      },
    ],
    [
      "a pipe in its place, which looks like an empty file",
      /x\.db is a folder, a device or a pipe: it must be the path of a file$/,
      async (cwd) => {
        await Bun.$`mkfifo ${join(cwd, "x.db")}`;
        return "x.db";
      },
    ],
    [
      "a file in its folder's place",
      /its folder cannot be made/,
      async (cwd) => {
        await writeFile(join(cwd, "file"), "");
        return "file/x.db";
      },
    ],
    [
      "a read-only file",
      /read-only|cannot be opened|may not be accessed/,
      async (cwd) => {
        await made(join(cwd, "x.db"));
        await chmod(join(cwd, "x.db"), 0o444);
        return "x.db";
      },
    ],
    [
      "a read-only folder",
      /its folder \S+closed is not writable \(EACCES\), and its log must lie beside it$/,
      async (cwd) => {
        await mkdir(join(cwd, "closed"), { mode: 0o555 });
        return "closed/x.db";
      },
    ],
    [
      "a read-only folder with a file that was fine",
      /its folder \S+closed is not writable \(EACCES\), and its log must lie beside it$/,
      async (cwd) => {
        await made(join(cwd, "closed", "x.db"));
        await chmod(join(cwd, "closed"), 0o555);
        return "closed/x.db";
      },
    ],
  ];
  for (const [fault, line, arrange] of faults) {
    test(fault, async () => {
      const cwd = await folder();
      const path = await arrange(cwd);
      const { code, lines } = await startFailure({ command: bound, cwd, env: { SQLITE_PATH: path } });
      expect(lines).toEqual([expect.stringMatching(line)]);
      expect(lines[0]).toContain(path);
      expect(code).toBe(1);
    });
  }
});

const mongoAway = () => {
  test("it serves, says so, refuses sends in time, and recovers by itself", async () => {
    const mongoPort = freePort();
    const program = await start({ env: { MONGODB_URI: `mongodb://127.0.0.1:${mongoPort}/` } });
    const ready = await fetch(`${program.url}/readyz`);
    expect(ready.status).toBe(503);
    expect(await ready.json()).toMatchObject({ reason: "storage_unavailable" });
    const health = await fetch(`${program.url}/`);
    expect(health.status).toBe(200);
    expect(await health.json()).toMatchObject({
      status: "degraded",
      storage: { kind: "mongodb", status: "down" },
    });

    const member = await connectMember(program.url);
    undo.push(member.close);
    const began = performance.now();
    await expect(member.join({ room: "lobby", user_id: "ana" })).rejects.toThrow("storage_unavailable");
    const refused = await sendOne(program.url);
    const refusedMs = performance.now() - began;
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ error: { code: "storage_unavailable" } });
    expect(refusedMs).toBeLessThan(2 * 5_000);

    const recovered = program.line(/"event":"store_up"/);
    const mongo = await startMongo({ port: mongoPort });
    undo.push(mongo.stop);
    await recovered;
    expect((await fetch(`${program.url}/readyz`)).status).toBe(200);
    await member.join({ room: "lobby", user_id: "ana" });
    expect(await member.send({ room: "lobby", user_id: "ana", message: "back" })).toMatchObject({
      ok: true,
      seq: 1,
    });
    await member.heard(1);
    expect(await program.end()).toBe(0);
  });
};
if (ownServers) describe("MongoDB away at the start:", mongoAway);
