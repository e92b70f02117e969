/** Cursors: right ones of every list, changed in their bytes or their meaning, or shown to another list. */

import type { WireMessage } from "../../../src/protocol/wire.ts";
import type { Chance } from "../../fixture/chance.ts";
import { judgedHttp } from "./answers.ts";
import { changedBytes, changedText, oddJson } from "./hostile.ts";
import { must, type Surface } from "./surface.ts";
import { exchange } from "./wire.ts";

interface CursorInput {
  readonly list: string;
  readonly cursor: string;
  /** The list that the cursor was given by, where it is unchanged. */
  readonly ownList: string | undefined;
}

/** Lists that differ in what they are asked, each long enough for a second page. */
const LISTS = [
  "/rooms?limit=2",
  "/messages/pia?limit=2",
  "/messages/pia?limit=2&room=cursors-1",
  "/messages/pia?limit=2&from=2020-01-01T00:00:00Z",
  "/rooms/cursors-1/messages?limit=2",
  "/rooms/cursors-2/messages?limit=2",
  "/rooms/cursors-1/messages?limit=2&to=2099-01-01T00:00:00Z",
  "/rooms/cursors-1/messages?limit=2&after=1",
];
const ROOMS = ["cursors-1", "cursors-2", "cursors-3", "cursors-4"];
const MESSAGES = 8;

/** Whether a list may be asked for with the cursor of another: it is the same list, and repeats what it says of it or less. */
function mayGoOn(list: string, ownList: string): boolean {
  const [asked, own] = [list, ownList].map((text) => URL.parse(text, "http://chat") as URL) as [URL, URL];
  return (
    asked.pathname === own.pathname &&
    [...asked.searchParams].every(([name, value]) => name === "limit" || own.searchParams.get(name) === value)
  );
}

export function cursors(url: string): Surface<CursorInput> {
  const port = Number(new URL(url).port);

  const get = (target: string) =>
    exchange(port, Buffer.from(`GET ${target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`, "latin1"));

  const right = prepare(url);
  return {
    name: "cursors",
    lanes: 8,
    show: (input) => JSON.stringify(input),
    async open() {
      const known = await right;
      return {
        make(chance, seen) {
          const list = chance.pick(LISTS);
          const from = chance.pick(LISTS);
          const cursor = known.get(from) as string;
          if (chance.often(0.15)) return { list, cursor, ownList: from };
          const kept = seen.length > 0 && chance.often(0.3) ? chance.pick(seen).cursor : cursor;
          return { list: chance.often(0.7) ? from : list, cursor: changed(chance, kept), ownList: undefined };
        },
        async attempt({ list, cursor, ownList }) {
          const answer = await get(`${list}&cursor=${encodeURIComponent(cursor.toWellFormed())}`);
          const told = judgedHttp(answer);
          must(answer !== undefined, "a cursor was answered by closing");
          const { status, body } = answer;
          if (ownList !== undefined) {
            const fits = mayGoOn(list, ownList);
            must(
              fits === (status === 200),
              `a cursor ${fits ? "of this" : "of another"} list was answered ${status}`,
            );
          }
          if (status !== 200) {
            // Longer than the runtime takes a request line.
            must(
              [400, 409, 410].includes(status) || (status === 431 && cursor.length > 4_000),
              `a cursor was answered ${status}`,
            );
            return told;
          }
          judgePage(list, JSON.parse(body) as { messages?: WireMessage[] });
          return `${told} ${list}`;
        },
        close() {},
      };
    },
  };
}

/** Whatever place a cursor names, the page is of the list that was asked for. */
function judgePage(list: string, { messages = [] }: { messages?: WireMessage[] }): void {
  const room = /\/rooms\/([^/]+)\/messages|room=([^&]+)/.exec(list);
  const user = /^\/messages\/([^?]+)/.exec(list);
  must(messages.length <= 2, "a page is longer than its limit");
  for (const message of messages) {
    if (room !== null) must(message.room === (room[1] ?? room[2]), "a page shows another room");
    if (user !== null) must(message.user_id === user[1], "a page shows another user");
  }
}

function changed(chance: Chance, cursor: string): string {
  const kind = chance.below(4);
  if (kind === 0) return changedText(chance, cursor).slice(0, 3_000);
  const bytes = Buffer.from(cursor, "base64url");
  if (kind === 1) return changedBytes(chance, bytes).toString("base64url");
  // The digest stays right: what is changed is the place.
  const text = bytes.toString();
  const [digest] = /^\["[0-9a-f]{16}",/.exec(text) ?? ["["];
  const rest = text.slice(digest.length);
  const place =
    kind === 2
      ? rest.replace(/-?\d+|"[^"]*"(?=[,}])/g, (value) => (chance.often(0.5) ? oddJson(chance, 4) : value))
      : `${oddJson(chance, 2)}]`;
  return Buffer.from(digest + place).toString("base64url");
}

/** Fills the lists and gets the cursor of each. */
async function prepare(url: string): Promise<ReadonlyMap<string, string>> {
  for (const room of ROOMS) {
    for (let n = 0; n < MESSAGES; n += 1) {
      const response = await fetch(`${url}/rooms/${room}/messages`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ user_id: "pia", message: `${room} ${n}` }),
      });
      must(response.status === 201, `a right POST was answered ${response.status}`);
    }
  }
  const known = new Map<string, string>();
  for (const list of LISTS) {
    const page = (await (await fetch(`${url}${list}`)).json()) as { next_cursor: string | null };
    must(page.next_cursor !== null, `${list} has no second page`);
    known.set(list, page.next_cursor);
  }
  return known;
}
