/** The command line as an operator meets it: what it prints, where, and with which exit code. */

import { describe, expect, test } from "bun:test";
import { version } from "../package.json";
import { sharedMongo } from "./fixture/mongodb.ts";
import { startProgram, temporaryFolder } from "./fixture/program.ts";
import { openSqlite } from "./fixture/sqlite.ts";
import { mongoDatabaseOf } from "./repository/mongo/opening.ts";

const CLI = `${import.meta.dir}/../src/cli.ts`;

async function cli(argv: readonly string[], env: Record<string, string> = {}) {
  const child = Bun.spawn(["bun", CLI, ...argv], {
    env: { PATH: process.env.PATH ?? "", ...env },
    cwd: import.meta.dir,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { out, err, code: await child.exited };
}

describe("cli", () => {
  test("help shows the commands", async () => {
    for (const argv of [["help"], ["--help"], ["-h"], ["migrate", "--help"]]) {
      const { out, err, code } = await cli(argv);
      expect([err, code]).toEqual(["", 0]);
      for (const command of ["serve", "backup FILE", "restore FILE", "migrate [--dry-run]"])
        expect(out).toContain(`  ${command} `);
    }
  });

  test("what it does not know is refused with the usage", async () => {
    for (const argv of [
      ["fly"],
      ["migrate", "now"],
      ["--fast"],
      ["serve", "--dry-run"],
      ["migrate", "--dry-run=maybe"],
      ["backup"],
      ["backup", ""],
      ["restore", "one", "two"],
      ["restore", "one", "--dry-run"],
      ["toString"],
    ]) {
      const { out, err, code } = await cli(argv);
      expect([out, code]).toEqual(["", 64]);
      expect(err).toContain("usage: chat-service [command]");
    }
  });

  test("serve is what it does when nothing is asked for", async () => {
    for (const argv of [[], ["serve"]]) {
      const { path, remove } = await temporaryFolder();
      const program = await startProgram({ command: ["bun", CLI, ...argv], cwd: path });
      expect(await (await fetch(program.url)).json()).toMatchObject({ status: "ok" });
      expect(await program.end()).toBe(0);
      await remove();
    }
    expect(await cli(["serve"], { PORT: "x" })).toMatchObject({ code: 78, out: "" });
  });

  test("--version is the package's", async () => {
    expect(await cli(["--version"])).toEqual({ out: `${version}\n`, err: "", code: 0 });
  });

  test("migrate of a wrong environment names the variable, of a server that is away says so", async () => {
    expect(await cli(["migrate"], { PORT: "x" })).toMatchObject({
      code: 78,
      err: expect.stringMatching(/^PORT /),
    });
    const away = await cli(["migrate"], { MONGODB_URI: "mongodb://ann:s3cret@127.0.0.1:1/" });
    expect([away.out, away.code]).toEqual(["", 1]);
    expect(away.err).toMatch(/^cannot go on: [^\n]+\n$/);
    expect(away.err).not.toContain("s3cret");
    // The driver looks for a primary for some seconds.
  }, 20_000);

  test("migrate says that no MongoDB is named, and does not look like a success", async () => {
    expect(await cli(["migrate"])).toEqual({
      out: "",
      err: "cannot migrate: MONGODB_URI is not set, and a SQLite store has nothing to migrate\n",
      code: 1,
    });
  });

  test("backup and restore blame the file that is at fault", async () => {
    const { path, remove } = await temporaryFolder();
    try {
      const env = { SQLITE_PATH: `${path}/data/chat.db` };
      await (await openSqlite(env.SQLITE_PATH)).close();
      const fault = async (...argv: string[]) => (await cli(argv, env)).err;
      for (const to of [`${path}/nowhere/copy.db`, `${env.SQLITE_PATH}/copy.db`]) {
        expect(await fault("backup", to)).toStartWith(`cannot go on: SQLite file ${to} cannot be`);
        expect(await fault("backup", to)).not.toContain(`${env.SQLITE_PATH} cannot`);
      }
      expect(await fault("restore", path)).toBe(`cannot go on: ${path} is not a file\n`);
    } finally {
      await remove();
    }
  });

  test("backup and restore say what they did, and what stopped them", async () => {
    const { path, remove } = await temporaryFolder();
    try {
      const env = { SQLITE_PATH: `${path}/data/chat.db` };
      expect(await cli(["backup", `${path}/backup`], env)).toEqual({
        out: "",
        err: `cannot go on: SQLite file ${path}/data/chat.db does not exist\n`,
        code: 1,
      });
      const program = await startProgram({ command: ["bun", CLI], env });
      const done = await cli(["backup", `${path}/backup`], env);
      expect([done.err, done.code]).toEqual(["", 0]);
      expect(done.out).toMatch(/^0 messages were written to \S+\/backup \(\d+ bytes\)\n$/);
      expect((await cli(["restore", `${path}/backup`], env)).err).toBe(
        `cannot go on: SQLite file ${path}/data/chat.db is locked by another process: stop the service before you put a backup back\n`,
      );
      expect(await program.end()).toBe(0);
      const back = await cli(["restore", `${path}/backup`], env);
      expect([back.err, back.code]).toEqual(["", 0]);
      expect(back.out).toMatch(
        /^0 messages were put back into \S+\/chat\.db, as a new epoch\nthe store that was there is kept as \S+\n$/,
      );
      for (const command of ["backup", "restore"])
        expect((await cli([command, "x"], { MONGODB_URI: "mongodb://127.0.0.1:1/" })).err).toContain(
          `${command} is for the SQLite store`,
        );
    } finally {
      await remove();
    }
  });

  test("migrate says what it did, and what it would do", async () => {
    const uri = await sharedMongo();
    const mongo = mongoDatabaseOf(uri);
    try {
      const old = { room: "a", user_id: "ann", message: "hello", timestamp: "2020-01-01T00:00:00Z" };
      await mongo.messages.insertMany([
        { ...old },
        { ...old },
        { ...old, room: "b" },
        { ...old, timestamp: "then" },
      ]);
      const env = { MONGODB_URI: uri, MONGODB_DB_NAME: mongo.databaseName };
      const dry = await cli(["migrate", "--dry-run"], env);
      expect(dry.out).toBe(
        "3 messages in 2 rooms would be numbered, 3 messages would be dated\n1 documents cannot be read and would be left as they are\n",
      );
      const done = await cli(["migrate"], env);
      expect([done.err, done.code]).toEqual(["", 0]);
      expect(done.out).toStartWith("3 messages in 2 rooms were numbered, 3 messages were dated\n");
      expect((await cli(["migrate"], env)).out).toStartWith("0 messages in 0 rooms were numbered");
    } finally {
      await mongo.db.dropDatabase();
      await mongo.dispose();
    }
  });
});
