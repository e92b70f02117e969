import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readJsonBody } from "../../src/http/body.ts";
import { LIMITS } from "../../src/limits.ts";
import { post, rawRequest, refusalOf, startHttpApp, type TestHttpApp } from "../fixture/http-app.ts";

let app: TestHttpApp;
beforeAll(async () => {
  app = await startHttpApp();
});
afterAll(() => app.dispose());

const history = async (room: string) =>
  (await (await fetch(`${app.url}/rooms/${room}/messages`)).json()) as {
    seq: number;
    messages: { message: string }[];
  };

describe("readJsonBody", () => {
  test("refuses 10,000 levels of nesting, and lives on", async () => {
    const deep = await startHttpApp({ bodyBytesMax: 1_000_000 });
    try {
      for (const [open, close] of [
        ["[", "]"],
        ['{"message":', "}"],
      ] as const) {
        const body = `${open.repeat(10_000)}0${close.repeat(10_000)}`;
        expect((await post(deep, "deep", body)).status).toBe(400);
      }
      expect((await fetch(`${deep.url}/livez`)).status).toBe(200);
    } finally {
      await deep.dispose();
    }
  });

  test.each([
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-16",
    "application/jsonx",
    "application/json; charset=utf8; charset=latin1",
    "application/json; profile=a b",
    `application/json;${" ".repeat(8_000)}=`,
  ])("refuses a body of type %s with 415", async (type) => {
    const answer = await post(app, "refused", { user_id: "a", message: "x" }, { "content-type": type });
    expect(await refusalOf(answer)).toMatchObject({ status: 415, code: "unsupported_media_type" });
  });

  test.each([
    "application/json; charset=utf-8",
    "Application/JSON;charset=UTF-8",
    'application/json; charset="utf-8"',
    "application/json; charset=utf8",
    'application/json; charset=UTF8; profile="https://a.example/b;c"',
    'application/json;odata.metadata=minimal; note="a \\" b";charset=utf-8;',
  ])("takes a body of type %s", async (type) => {
    const answer = await post(app, "typed", { user_id: "a", message: "x" }, { "content-type": type });
    expect(answer.status).toBe(201);
  });

  test("refuses a body over the ceiling with 413, told by its length or counted as it comes", async () => {
    const body = JSON.stringify({ user_id: "a", message: "x", more: "y".repeat(20_000) });
    expect(await refusalOf(await post(app, "long", body))).toMatchObject({
      status: 413,
      code: "payload_too_large",
    });
    const head =
      "POST /rooms/long/messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
    const chunk = `400\r\n${"y".repeat(1_024)}\r\n`;
    // The end never comes: the answer must not wait for it.
    const answer = await rawRequest(app.port, `${head}Transfer-Encoding: chunked\r\n\r\n${chunk.repeat(12)}`);
    expect(answer).toStartWith("HTTP/1.1 413 ");
    expect(answer).toContain('"payload_too_large"');
  });

  test("takes a chunked body that fits, cut within a character", async () => {
    const bytes = Buffer.from(JSON.stringify({ user_id: "a", message: "é" }));
    const at = bytes.indexOf(0xa9);
    const chunk = (part: Buffer) => `${part.byteLength.toString(16)}\r\n${part.toString("latin1")}\r\n`;
    const answer = await rawRequest(
      app.port,
      `POST /rooms/chunked/messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n` +
        `Transfer-Encoding: chunked\r\n\r\n${chunk(bytes.subarray(0, at))}${chunk(bytes.subarray(at))}0\r\n\r\n`,
    );
    expect(answer).toStartWith("HTTP/1.1 201 ");
    expect((await history("chunked")).messages.map(({ message }) => message)).toEqual(["é"]);
  });

  test("refuses a body in more pieces than there may be, however small they are", async () => {
    const inPieces = (count: number) =>
      readJsonBody(
        new Request("http://chat.test/", {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: new ReadableStream({
            start(stream) {
              for (let piece = 0; piece < count; piece += 1) stream.enqueue(Uint8Array.of(0x31));
              stream.close();
            },
          }),
        }),
        1_000_000,
      );
    expect(typeof (await inPieces(LIMITS.bodyPiecesMax))).toBe("number");
    await expect(inPieces(LIMITS.bodyPiecesMax + 1)).rejects.toThrow(
      expect.objectContaining({
        code: "invalid_request",
        details: { issues: [{ path: "", message: `must come in at most ${LIMITS.bodyPiecesMax} pieces` }] },
      }),
    );
  });

  test("refuses a body that is not UTF-8", async () => {
    const answer = await fetch(`${app.url}/rooms/refused/messages`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: Buffer.from('{"user_id":"a","message":"\xff"}', "latin1"),
    });
    expect(await refusalOf(answer)).toMatchObject({ status: 400, code: "invalid_request" });
  });
});
