/** The examples do what the README says they do, and are what it shows. */

import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join, resolve } from "node:path";
import type { Page, WebSocket } from "playwright-core";
import { launchBrowser } from "./fixture/browser.ts";
import { connectMember, readRoom } from "./fixture/member.ts";
import { type Program, startProgram, temporaryFolder } from "./fixture/program.ts";

setDefaultTimeout(60_000);

const ROOT = resolve(import.meta.dir, "..");
const ROOM = "lobby";

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

async function folder(): Promise<string> {
  const { path, remove } = await temporaryFolder();
  undo.push(remove);
  return path;
}

async function start(env: Record<string, string> = {}, cwd?: string): Promise<Program> {
  const program = await startProgram({ cwd: cwd ?? (await folder()), env: { DRAIN_MS: "0", ...env } });
  undo.push(() => program.end("SIGKILL"));
  return program;
}

function freePort(): number {
  const probe = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() });
  const { port } = probe;
  probe.stop(true);
  return port as number;
}

/** A child that runs until the test ends, once it has printed a line like this. */
async function run(command: string[], env: Record<string, string>, cwd: string, until: RegExp) {
  const child = Bun.spawn(command, {
    cwd,
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "inherit",
  });
  undo.push(async () => {
    child.kill("SIGKILL");
    await child.exited;
  });
  let said = "";
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  while (!until.test(said)) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`${command.join(" ")} ended before ${until}:\n${said}`);
    said += value;
  }
  return said;
}

/** The page from a folder of its own, with the service's address in place of the one that it names. */
async function servedPage(program: Program, port: number): Promise<string> {
  const cwd = await folder();
  const html = await Bun.file(join(ROOT, "examples/chat.html")).text();
  expect(html).toContain("http://localhost:8000");
  await Bun.write(join(cwd, "chat.html"), html.replaceAll("http://localhost:8000", program.url));
  // As the README says.
  await run([process.execPath, "./chat.html", `--port=${port}`], {}, cwd, /localhost:\d+/);
  return `http://localhost:${port}/`;
}

const lines = (page: Page) => page.locator("#log li");
const line = (page: Page, text: string) => lines(page).filter({ hasText: text }).first().waitFor();

async function say(page: Page, text: string) {
  await page.locator("#text").fill(text);
  await page.locator("#text").press("Enter");
}

/** A browser, pages in contexts of their own, and what went wrong in them. */
async function browserOf(url: string) {
  const browser = await launchBrowser();
  undo.push(() => browser.close());
  const faults: string[] = [];
  return {
    faults,
    async open(watch: (page: Page) => void = () => {}) {
      const page = await (await browser.newContext()).newPage();
      watch(page);
      page.on("pageerror", (error) => faults.push(String(error)));
      page.on("dialog", (dialog) => {
        faults.push(dialog.message());
        void dialog.dismiss();
      });
      await page.goto(url);
      return page;
    },
  };
}

describe("examples/chat.html", () => {
  test("two pages chat; a reload shows what was said; texts stay texts", async () => {
    const port = freePort();
    const program = await start({ CORS_ORIGINS: `http://localhost:${port}` });
    const { faults, open } = await browserOf(await servedPage(program, port));
    const watcher = await connectMember(program.url);
    undo.push(watcher.close);
    await watcher.join({ room: ROOM });
    const arrive = async () => {
      const joined = new Promise((resolve) => watcher.socket.once("user_joined", resolve));
      const page = await open();
      await joined;
      return page;
    };
    const [ana, ben] = [await arrive(), await arrive()];

    await say(ana, "hello from ana");
    await line(ben, "hello from ana");
    await say(ben, "hello from ben");
    await line(ana, "hello from ben");
    const attack = `<img src=x onerror="document.title='broken'"><script>alert(1)</script>`;
    await say(ana, attack);
    await line(ben, attack);
    expect(await ben.locator("#log img, #log script").count()).toBe(0);
    expect(await ben.title()).not.toBe("broken");

    const before = await lines(ben).allTextContents();
    expect(before).toHaveLength(3);
    await ben.reload();
    await line(ben, attack);
    expect(await lines(ben).allTextContents()).toEqual(before);
    expect((await readRoom(program.url, ROOM)).map(({ message }) => message)).toEqual([
      "hello from ana",
      "hello from ben",
      attack,
    ]);
    expect(faults).toEqual([]);
  });

  test("what is typed while the server is away is kept, and shown once to all", async () => {
    const [cwd, port] = [await folder(), freePort()];
    const settings = { CORS_ORIGINS: `http://localhost:${port}`, RATE_LIMIT: "off" };
    const program = await start(settings, cwd);
    const { faults, open } = await browserOf(await servedPage(program, port));
    const sockets = Promise.withResolvers<WebSocket>();
    const ana = await open((page) =>
      page.on("websocket", (socket) => {
        // Bun's own server of the page has one too.
        if (socket.url().includes("/socket.io/")) sockets.resolve(socket);
      }),
    );
    await say(ana, "before");
    await line(ana, "before");
    const socket = await sockets.promise;
    const noticed = socket.waitForEvent("close");
    await program.end("SIGKILL");
    await noticed;
    const typed = ["one", "two", "three"];
    for (const text of typed) await say(ana, text);
    await start({ ...settings, PORT: String(program.port) }, cwd);
    for (const text of typed) await line(ana, text);
    const ben = await open();
    for (const text of typed) await line(ben, text);
    const said = (await readRoom(program.url, ROOM)).map(({ message }) => message);
    expect(said).toEqual(["before", ...typed]);
    for (const page of [ana, ben]) {
      const texts = (await lines(page).allTextContents()).map((shown) => shown.replace(/^\S+ /, ""));
      expect(texts).toEqual(said);
    }
    expect(faults).toEqual([]);
  });
});

describe("examples/bot.ts", () => {
  test("answers !ping once, and nothing else", async () => {
    const program = await start();
    const ana = await connectMember(program.url);
    undo.push(ana.close);
    await ana.join({ room: ROOM, user_id: "ana" });
    await run(
      [process.execPath, join(ROOT, "examples/bot.ts")],
      { CHAT_URL: program.url },
      ROOT,
      /in lobby, 0 messages so far\n/,
    );
    for (const message of ["hello", "!ping", "!ping again"])
      expect(await ana.send({ room: ROOM, user_id: "ana", message })).toMatchObject({ ok: true });
    await ana.heard(5);
    expect(ana.live.filter(({ user_id }) => user_id === "ping-bot").map(({ message }) => message)).toEqual([
      "pong, ana",
      "pong, ana",
    ]);
    expect(await readRoom(program.url, ROOM)).toEqual([...ana.live]);
  });
});

describe("the README", () => {
  for (const example of ["examples/chat.html", "examples/bot.ts"]) {
    test(`shows ${example} as it is`, async () => {
      const readme = await Bun.file(join(ROOT, "README.md")).text();
      // The first block after the words that name the file.
      const block = new RegExp(
        `${example.replaceAll(".", "\\.")}[\\s\\S]*?\`\`\`\\w+\\n([\\s\\S]*?)\`\`\``,
      ).exec(readme)?.[1];
      expect(block).toBe(await Bun.file(join(ROOT, example)).text());
    });
  }
});
