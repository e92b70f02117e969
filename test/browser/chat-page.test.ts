import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { launchBrowser } from "../fixture/browser.ts";
import { type Program, startProgram, temporaryFolder } from "../fixture/program.ts";

/** How long the page may take for anything that it does by itself. */
const timeout = 15_000;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let program: Program;
let browser: Browser;
const faults: string[] = [];

const store = () => join(folder.path, "chat.db");
const start = (port = "0") =>
  startProgram({
    env: { PORT: port, SQLITE_PATH: store(), RATE_LIMIT: "10/s", DRAIN_MS: "0" },
  });

beforeAll(async () => {
  folder = await temporaryFolder();
  program = await start();
  browser = await launchBrowser();
}, 60_000);

afterAll(async () => {
  await browser?.close();
  await program?.end();
  await folder?.remove();
}, 60_000);

async function open(context?: Parameters<Browser["newContext"]>[0]): Promise<Page> {
  const page = await (await browser.newContext(context)).newPage();
  page.setDefaultTimeout(timeout);
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (said) => {
    if (/Content Security Policy|Uncaught/.test(said.text())) faults.push(said.text());
  });
  await page.goto(`${program.url}/chat`);
  return page;
}

async function enter(page: Page, user: string, room: string): Promise<void> {
  await page.getByLabel("Your name").fill(user);
  await page.getByLabel("Room", { exact: true }).fill(room);
  await page.getByRole("button", { name: "Join" }).click();
  await page.getByText("Connected", { exact: true }).waitFor();
}

async function say(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

const log = (page: Page) => page.getByRole("log");
const seen = (page: Page, text: string) => log(page).getByText(text, { exact: true }).waitFor();
const texts = (page: Page) => log(page).locator("li p").allTextContents();
const unsent = (page: Page) => page.getByRole("list", { name: "Not sent yet" }).getByRole("listitem");
const close = (page: Page) => (page.context() as BrowserContext).close();

// What the browser itself complained of: a script that threw, or something that the page's own policy forbids.
afterEach(() => expect(faults).toEqual([]));

describe("the chat page", () => {
  test("lets two browsers chat, shows history and who comes and goes", async () => {
    const anna = await open();
    await enter(anna, "Anna", "tea & cake/1");
    await say(anna, "Is anybody here?");
    await seen(anna, "Is anybody here?");
    const bert = await open();
    await enter(bert, "Bert", "tea & cake/1");
    await seen(bert, "Is anybody here?");
    await seen(anna, "Bert joined");
    await say(bert, "I am.\n<b>Really</b> <img src=x onerror=alert(1)>");
    await log(anna).getByText("<b>Really</b>").waitFor();
    await say(anna, "Hello!");
    for (const page of [anna, bert]) {
      await seen(page, "Hello!");
      expect(await texts(page)).toEqual([
        "Is anybody here?",
        "I am.\n<b>Really</b> <img src=x onerror=alert(1)>",
        "Hello!",
      ]);
      await unsent(page).waitFor({ state: "detached" });
      expect(await log(page).locator("img").count()).toBe(0);
    }
    await bert.getByRole("button", { name: "Leave" }).click();
    await seen(anna, "Bert left");
    await close(anna);
    await close(bert);
  }, 60_000);

  test("keeps the order and loses nothing when it must send slower", async () => {
    const page = await open();
    await enter(page, "Anna", "fast");
    const said = Array.from({ length: 30 }, (_, index) => `line ${index}`);
    for (const text of said) await say(page, text);
    await seen(page, "line 29");
    expect(await texts(page)).toEqual(said);
    await close(page);
  }, 60_000);

  test("says why a message is refused, and goes on", async () => {
    const page = await open();
    await enter(page, "Anna", "refused");
    await say(page, "x".repeat(20_000));
    await unsent(page).getByText("longer than 16384 bytes").waitFor();
    await say(page, "short");
    await seen(page, "short");
    await page.getByRole("button", { name: "Discard" }).click();
    expect(await unsent(page).count()).toBe(0);
    await close(page);
  }, 60_000);

  test("reads older messages, each once", async () => {
    for (let index = 0; index < 60; index += 1) {
      const send = () =>
        fetch(`${program.url}/rooms/long/messages`, {
          method: "POST",
          headers: { "content-type": "application/json", "idempotency-key": String(index) },
          body: JSON.stringify({ user_id: "Anna", message: `line ${index}` }),
        });
      for (let answer = await send(); !answer.ok; answer = await send()) {
        await Bun.sleep(
          Number(((await answer.json()) as { error: { retry_after_ms: number } }).error.retry_after_ms),
        );
      }
    }
    const page = await open();
    await enter(page, "Bert", "long");
    await seen(page, "line 59");
    expect(await texts(page)).toHaveLength(50);
    await page.getByRole("button", { name: "Older messages" }).click();
    await seen(page, "line 0");
    expect(await texts(page)).toEqual(Array.from({ length: 60 }, (_, index) => `line ${index}`));
    expect(await page.getByRole("button", { name: "Older messages" }).count()).toBe(0);
    await close(page);
  }, 60_000);

  test("resumes where it was after the server was killed, and sends what it could not", async () => {
    const [anna, bert] = [await open(), await open()];
    await enter(anna, "Anna", "killed");
    await enter(bert, "Bert", "killed");
    await say(anna, "before");
    await seen(bert, "before");
    await program.end("SIGKILL");
    await anna.getByText("Reconnecting…", { exact: true }).waitFor();
    await say(anna, "while away");
    await unsent(anna).getByText("Sending: while away").waitFor();
    program = await start(String(program.port));
    for (const page of [anna, bert]) {
      await seen(page, "while away");
      expect(await texts(page)).toEqual(["before", "while away"]);
    }
    await unsent(anna).waitFor({ state: "detached" });
    await close(anna);
    await close(bert);
  }, 60_000);

  test("starts afresh, and says so, when the store has a new epoch", async () => {
    const page = await open();
    await enter(page, "Anna", "reborn");
    await say(page, "one");
    await say(page, "two");
    await seen(page, "two");
    await program.end("SIGKILL");
    await page.getByText("Reconnecting…", { exact: true }).waitFor();
    for (const end of ["", "-wal", "-shm"]) await rm(`${store()}${end}`, { force: true });
    program = await start(String(program.port));
    await log(page).getByText("could not be continued").waitFor();
    expect(await texts(page)).toEqual([]);
    await say(page, "three");
    await seen(page, "three");
    await close(page);
  }, 60_000);

  test("fits a phone, and can be used with the keyboard alone", async () => {
    const page = await open({ viewport: { width: 390, height: 700 }, hasTouch: true, isMobile: true });
    await page.keyboard.type("Anna");
    await page.keyboard.press("Tab");
    await page.keyboard.press("ControlOrMeta+a");
    await page.keyboard.type("pocket");
    await page.keyboard.press("Enter");
    await page.getByText("Connected", { exact: true }).waitFor();
    await page.keyboard.type("From a phone");
    await page.keyboard.press("Enter");
    await seen(page, "From a phone");
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    expect(wide).toBeLessThanOrEqual(0);
    await close(page);
  }, 60_000);
});
