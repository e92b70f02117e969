import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { post, startHttpApp, type TestHttpApp } from "../fixture/http-app.ts";

let app: TestHttpApp;
beforeAll(async () => {
  app = await startHttpApp();
});
afterAll(() => app.dispose());

interface Page {
  rooms: { room: string; seq: number; last_message_at: string }[];
  next_cursor: string | null;
}

const page = async (query = "") => (await (await fetch(`${app.url}/rooms${query}`)).json()) as Page;

describe("GET /rooms", () => {
  test("lists rooms that hold messages, the most recently active first, and walks each once", async () => {
    expect(await page()).toEqual({ rooms: [], next_cursor: null });
    const names = ["a", "b/c", "👋".repeat(128), '"'.repeat(128), "e"];
    const said: { room: string; seq: number; received_at: string }[] = [];
    for (const room of names) {
      for (const message of ["1", "2"]) {
        said.push(await (await post(app, room, { user_id: "anna", message })).json());
      }
    }
    const expected = said
      .filter(({ seq }) => seq === 2)
      .map(({ room, received_at }) => ({ room, seq: 2, last_message_at: received_at }));
    const byActivity = (rooms: Page["rooms"]) =>
      rooms
        .toSorted((a, b) => (a.room < b.room ? -1 : 1))
        .toSorted((a, b) => (a.last_message_at < b.last_message_at ? 1 : -1));

    const walked: Page["rooms"] = [];
    for (let cursor: string | null = ""; cursor !== null;) {
      const answer: Page = await page(cursor === "" ? "?limit=1" : `?limit=1&cursor=${cursor}`);
      walked.push(...answer.rooms);
      cursor = answer.next_cursor;
    }
    const times = walked.map(({ last_message_at }) => last_message_at);
    expect(times).toEqual(times.toSorted().toReversed());
    expect(byActivity(walked)).toEqual(byActivity(expected));
    expect((await page()).rooms).toEqual(walked);
  });
});
