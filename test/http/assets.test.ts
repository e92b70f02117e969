import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { startHttpApp, type TestHttpApp } from "../fixture/http-app.ts";

let app: TestHttpApp;
beforeAll(async () => {
  app = await startHttpApp();
});
afterAll(() => app.dispose());

const get = (path: string, headers: Record<string, string> = {}) => fetch(`${app.url}${path}`, { headers });
const folder = new URL("../../node_modules/socket.io-client/dist/", import.meta.url).pathname;

describe("clientBundles", () => {
  test.each([
    "socket.io.js",
    "socket.io.min.js",
    "socket.io.esm.min.js",
    "socket.io.js.map",
    "socket.io.esm.min.js.map",
  ])("serves %s as the package has it", async (name) => {
    const answer = await get(`/socket.io/${name}`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toBe(
      name.endsWith(".map") ? "application/json" : "text/javascript; charset=utf-8",
    );
    expect(answer.headers.get("cache-control")).toBe("public, no-cache");
    expect(await answer.text()).toBe(await Bun.file(`${folder}${name}`).text());
  });

  test("gives a browser that has it already nothing but 304", async () => {
    const tag = (await get("/socket.io/socket.io.js")).headers.get("etag") as string;
    for (const known of [tag, `W/${tag}`, `"other", ${tag}`, "*"]) {
      const answer = await get("/socket.io/socket.io.js", { "if-none-match": known });
      expect(answer.status).toBe(304);
      expect(answer.headers.get("etag")).toBe(tag);
      expect(await answer.text()).toBe("");
    }
    expect((await get("/socket.io/socket.io.js", { "if-none-match": '"other"' })).status).toBe(200);
    expect((await get("/socket.io/socket.io.min.js", { "if-none-match": tag })).status).toBe(200);
  });

  test("may be imported by a welcome origin's page", async () => {
    const { headers } = await get("/socket.io/socket.io.esm.min.js", { origin: "https://chat.example.org" });
    expect(headers.get("access-control-allow-origin")).toBe("https://chat.example.org");
  });
});

describe("the chat page", () => {
  test("is allowed to run its own script and style, and nothing else inline", async () => {
    const answer = await get("/chat");
    expect(answer.headers.get("content-type")).toBe("text/html; charset=utf-8");
    const policy = answer.headers.get("content-security-policy") as string;
    const html = await answer.text();
    for (const [element, directive] of [
      ["script", "script-src 'self'"],
      ["style", "style-src"],
    ] as const) {
      const text = html.slice(
        html.indexOf(">", html.indexOf(`<${element}`)) + 1,
        html.indexOf(`</${element}>`),
      );
      const hash = new Bun.CryptoHasher("sha256").update(text).digest("base64");
      expect(policy).toContain(`${directive} 'sha256-${hash}'`);
    }
    expect(policy).not.toContain("unsafe");
    expect(html).not.toMatch(/ style="| on[a-z]+="/);
  });
});
