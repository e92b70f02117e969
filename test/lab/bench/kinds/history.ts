/** Pages of history over HTTP, from anywhere in a store that was filled before. */

import { join } from "node:path";
import { CONTENDERS } from "../contenders.ts";
import { copyStore, FILLED_FROM_MS, fillStore, filledRoom, filledUser, removeStore } from "../fill.ts";
import type { HttpLoad, HttpMeasurement } from "../http-generator.ts";
import { generate, serving } from "../run.ts";
import type { Kind, RunOptions } from "../scenario.ts";

export interface Library {
  readonly rooms: number;
  readonly messagesPerRoom: number;
  readonly users: number;
  /** Whose pages are asked for. */
  readonly pagesOf: "room" | "user";
  /** Different pages that are asked for, again and again: few, as of busy rooms; or more than a run comes to. */
  readonly places: number;
  /** Rooms of those pages that are sent to meanwhile, and so often; none where left out. */
  readonly sentTo?: { readonly rooms: number; readonly sendsPerSecond: number };
}

const PAGE = 50;
const CONNECTIONS = 16;
/** Pages that are looked into before the load. */
const LOOKED_INTO = 64;

interface Prepared {
  readonly storePath: string;
  /** What is asked for, a path a line. */
  readonly pathsFile: string;
  /** One of the pages, of a middling length. */
  readonly pageFile: string;
}

export function historyPages(library: Library): Kind {
  const { rooms, messagesPerRoom, users, pagesOf, places, sentTo } = library;
  const stored = rooms * messagesPerRoom;
  const all = stored.toLocaleString("en");
  const meanwhile =
    sentTo === undefined ? "" : `; ${sentTo.sendsPerSecond} sends a second to each of ${sentTo.rooms} rooms`;
  /** Whose page the place is, where pages are those of rooms. */
  const roomAt = (place: number) => filledRoom((place * 31) % rooms);
  const sentToRooms = (count: number) => Array.from({ length: count }, (_, place) => roomAt(place));
  return {
    how: `${all} messages in ${rooms} rooms of ${users} users; pages of ${PAGE} from ${places.toLocaleString("en")} places, ${CONNECTIONS} kept connections${meanwhile}`,
    figures: [
      { name: "requests/s", digits: "k", compared: "subject by it" },
      { name: "CPU µs/request", digits: 1, compared: "it by subject" },
      { name: "p99 ms", digits: 2 },
      { name: "bytes/page", digits: 0 },
    ],
    async measure(contender, options) {
      const { storePath, pathsFile, pageFile } = await prepared(library, options);
      const { warmUpMs, measureMs, seed } = options;
      // Who keeps nothing has no rooms to send to.
      const sends = sentTo !== undefined && !CONTENDERS[contender].storeless;
      const ownStore = sends ? join(options.folder, `sent-to-${Bun.randomUUIDv7()}.db`) : storePath;
      if (sends) await copyStore(storePath, ownStore);
      const measurement = await serving(
        { contender, options, storePath: ownStore, env: { PAGE_FILE: pageFile } },
        ({ port, pid }) => {
          const asked: HttpLoad = {
            ...{ hostname: "127.0.0.1", port, serverPid: pid, warmUpMs, measureMs },
            ...{ pathsFile, connections: CONNECTIONS },
            ...(sends && {
              sending: { ...sentTo, rooms: sentToRooms(sentTo.rooms), firstSeq: messagesPerRoom + 1, seed },
            }),
          };
          return generate<HttpMeasurement>("http-generator.ts", asked);
        },
      ).finally(async () => {
        if (sends) await removeStore(ownStore);
      });
      const { requests, seconds, bodyBytes, p99Ms, serverCpuSeconds, generatorShare, othersShare, faults } =
        measurement;
      return {
        contender,
        figures: {
          "requests/s": requests / seconds,
          "CPU µs/request": serverCpuSeconds === null ? null : (serverCpuSeconds / requests) * 1e6,
          "p99 ms": p99Ms,
          "bytes/page": bodyBytes / requests,
        },
        shares: {
          server: serverCpuSeconds === null ? null : serverCpuSeconds / seconds,
          generator: generatorShare,
          others: othersShare,
        },
        faults: [
          ...(faults === 0 ? [] : [`${faults} answers were not whole pages`]),
          ...(measurement.sendFaults === 0 ? [] : [`${measurement.sendFaults} sends went wrong`]),
        ],
      };
    },
  };

  function pathsOf({ users: userCount }: Library): string[] {
    return Array.from({ length: places }, (_, index) => {
      // A prime that divides no count of places: from anywhere, in no order.
      const place = (index * 7_919) % places;
      const share = place / places;
      if (pagesOf === "room") {
        const after = Math.floor(share * (messagesPerRoom - PAGE));
        return `/rooms/${encodeURIComponent(roomAt(place))}/messages?limit=${PAGE}&after=${after}`;
      }
      // Late enough for a whole page of what the user said before.
      const first = PAGE * userCount;
      const to = new Date(FILLED_FROM_MS + first + Math.floor(share * (stored - first))).toISOString();
      return `/messages/${encodeURIComponent(filledUser((place * 31) % userCount))}?limit=${PAGE}&to=${to}`;
    });
  }

  /** The store, made once for all runs, and the page that the limit returns: by ours, each page looked into. */
  async function prepared(asked: Library, options: RunOptions): Promise<Prepared> {
    const name = `${rooms}-${messagesPerRoom}-${users}`;
    const storePath = join(options.folder, `${name}.db`);
    const pageFile = join(options.folder, `${name}-${pagesOf}-${places}.json`);
    const pathsFile = join(options.folder, `${name}-${pagesOf}-${places}.paths`);
    if (!(await Bun.file(storePath).exists())) fillStore(storePath, { ...asked, seed: options.seed });
    if (await Bun.file(pageFile).exists()) return { storePath, pathsFile, pageFile };
    const paths = pathsOf(asked);
    await Bun.write(pathsFile, paths.join("\n"));
    const lookedInto = Math.min(LOOKED_INTO, places);
    const pages = await serving({ contender: "ours", options, storePath }, ({ url }) =>
      Promise.all(
        Array.from({ length: lookedInto }, async (_, index) => {
          const path = paths[Math.floor((index * places) / lookedInto)] as string;
          const text = await (await fetch(`${url}${path}`)).text();
          lookInto(path, text);
          return text;
        }),
      ),
    );
    const byLength = pages.sort((a, b) => a.length - b.length);
    await Bun.write(pageFile, byLength[lookedInto >> 1] as string);
    return { storePath, pathsFile, pageFile };
  }
}

/** Throws where it is not what was asked for: a whole page, in order. */
function lookInto(path: string, text: string): void {
  const { messages = [] } = JSON.parse(text) as { messages?: { seq: number; received_at: string }[] };
  const after = /after=(\d+)/.exec(path)?.[1];
  const isInOrder = messages.every(({ seq, received_at }, index) => {
    if (after !== undefined) return seq === Number(after) + 1 + index;
    return index === 0 || received_at < (messages[index - 1]?.received_at ?? "");
  });
  if (messages.length !== PAGE || !isInOrder) throw new Error(`${path} gave ${text.slice(0, 300)}`);
}
