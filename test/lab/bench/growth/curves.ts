/** What may grow, and how each size of it is measured: the costs of the program's own parts, without contenders. */

import { join } from "node:path";
import { parseClientId, parseRoomName, parseSeq, parseUserId } from "../../../../src/domain/ids.ts";
import type { Draft } from "../../../../src/domain/message.ts";
import { toMillis } from "../../../../src/domain/time.ts";
import { assert } from "../../../../src/errors.ts";
import type { MessageRepository } from "../../../../src/repository/repository.ts";
import { openSqlite } from "../../../fixture/sqlite.ts";
import { FILLED_FROM_MS, type Fill, fillStore, filledRoom, filledUser, removeStore } from "../fill.ts";
import { arrive } from "../kinds/arrivals.ts";
import { saturate } from "../kinds/saturated.ts";
import type { RunOptions } from "../scenario.ts";
import { median } from "../statistics.ts";
import type { Point } from "./curve.ts";

export interface GrowthOptions extends RunOptions {
  /** The most messages that a store is filled with. */
  readonly storedMax: number;
  /** The most receivers of one message. */
  readonly receiversMax: number;
}

export interface Curve {
  readonly name: string;
  readonly what: string;
  /** What grows. */
  readonly of: string;
  /** What a cost is counted in. */
  readonly unit: string;
  measure(options: GrowthOptions, onFault: (fault: string) => void): AsyncIterable<Point>;
}

const tens = (from: number, to: number): number[] => {
  const sizes: number[] = [];
  for (let size = from; size <= to; size *= 10) sizes.push(size);
  return sizes;
};

/** Reads and appends are timed so often; a cost is the median of these times. */
const TIMES = 300;
const BATCH = 64;
const SETTLING_BATCH = 5_000;
const PAGE = { messagesMax: 50, textBytesMax: 1_000_000 };

const roomOf = (index: number) => parsed(parseRoomName(filledRoom(index)));
const userOf = (index: number) => parsed(parseUserId(filledUser(index)));
const seqOf = (number: number) => parsed(parseSeq(number));

function parsed<T>(value: T | undefined): T {
  assert(value !== undefined, "what the bench names is a name");
  return value;
}

/** Runs the body on a store that is filled so and thrown away afterwards. */
async function withStore<T>(
  { folder, seed }: GrowthOptions,
  fill: Omit<Fill, "seed">,
  body: (path: string) => Promise<T>,
): Promise<T> {
  const path = join(folder, `grown-${Bun.randomUUIDv7()}.db`);
  fillStore(path, { ...fill, seed });
  try {
    return await body(path);
  } finally {
    await removeStore(path);
  }
}

async function withRepository<T>(
  path: string,
  body: (repository: MessageRepository) => Promise<T>,
): Promise<T> {
  const repository = await openSqlite(path);
  try {
    return await body(repository);
  } finally {
    await repository.close();
  }
}

/** The median of the times that the work took, in microseconds, after some that do not count. */
async function timed(work: (time: number) => Promise<unknown>): Promise<number> {
  const micros: number[] = [];
  for (let time = -TIMES / 10; time < TIMES; time += 1) {
    const began = performance.now();
    await work(time + TIMES / 10);
    if (time >= 0) micros.push((performance.now() - began) * 1_000);
  }
  return median(micros);
}

/** The nth of a run: rooms and users get their turns in no order, as these primes divide none of their counts. */
function draft(index: number, rooms: number, users: number): Draft {
  const at = toMillis(Date.now());
  const text = `a message of a plausible length, the ${index}th of this run`;
  return {
    id: Bun.randomUUIDv7(),
    room: roomOf((index * 7_919) % rooms),
    userId: userOf((index * 104_729) % users),
    text,
    textBytes: text.length,
    timestamp: at,
    receivedAt: at,
    clientId: parsed(parseClientId(`c${index}`)),
  };
}

async function append(repository: MessageRepository, drafts: readonly Draft[]): Promise<void> {
  const results = await repository.append(drafts);
  assert(
    results.every(({ kind }) => kind === "stored"),
    "every message of the bench is stored",
  );
}

/** Microseconds for each message of a batch of 64, to rooms and by users drawn from all that are there. */
async function appendMicros(repository: MessageRepository, rooms: number, users: number): Promise<number> {
  // A store that was filled in bulk has pages that are full to the brim, and the first message to each room splits some.
  let index = 0;
  while (index < rooms)
    await append(
      repository,
      Array.from({ length: SETTLING_BATCH }, () => draft(index++, rooms, users)),
    );
  const batchMicros = await timed(() =>
    append(
      repository,
      Array.from({ length: BATCH }, () => draft(index++, rooms, users)),
    ),
  );
  return batchMicros / BATCH;
}

export const CURVES: readonly Curve[] = [
  {
    name: "deliveries",
    what: "one room, saturated: server CPU for each delivery",
    of: "receivers",
    unit: "µs",
    async *measure(options, onFault) {
      for (const members of tens(10, options.receiversMax)) {
        const { measurement, faults } = await saturate(
          { rooms: 1, members, senders: 4, inFlight: 16 },
          "ours",
          options,
        );
        for (const fault of faults) onFault(fault);
        const { serverCpuSeconds, deliveries } = measurement;
        yield { n: members, cost: ((serverCpuSeconds ?? Number.NaN) / deliveries) * 1e6 };
      }
    },
  },
  {
    name: "appends",
    what: "100 rooms, 100 users: a message of a batch of 64, durable",
    of: "messages stored",
    unit: "µs",
    async *measure(options) {
      for (const stored of tens(1_000, options.storedMax)) {
        const [rooms, users] = [100, 100];
        const cost = await withStore(options, { rooms, users, messagesPerRoom: stored / rooms }, (path) =>
          withRepository(path, (repository) => appendMicros(repository, rooms, users)),
        );
        yield { n: stored, cost };
      }
    },
  },
  {
    name: "room-pages",
    what: "a room of 1,000,000: a page of 50 below a place",
    of: "messages above it",
    unit: "µs",
    measure: (options) =>
      pages(options, (repository, stored, depth) =>
        repository.readBefore(roomOf(0), seqOf(stored + 1 - depth), PAGE),
      ),
  },
  {
    name: "user-pages",
    what: "a user who said 500,000 of 1,000,000: a page of 50 below a place",
    of: "messages above it",
    unit: "µs",
    measure: (options) =>
      pages(options, (repository, stored, depth) =>
        repository.readByUser({
          userId: userOf(0),
          before: { receivedAt: toMillis(FILLED_FROM_MS + stored - depth), id: "" },
          bounds: PAGE,
        }),
      ),
  },
  {
    name: "joins",
    what: "clients that come back with since, 10 missed: server CPU for each",
    of: "messages in the room",
    unit: "µs",
    async *measure(options, onFault) {
      for (const stored of tens(1_000, Math.min(options.storedMax, 1_000_000))) {
        const { arrived, serverCpuSeconds, faults } = await withStore(
          options,
          { rooms: 1, messagesPerRoom: stored, users: 100 },
          (storePath) =>
            arrive(
              { contender: "ours", options, storePath },
              {
                ...{ warmUp: 500, connections: 2_000, roomMembers: 2_500, rooms: 1, settleMs: 0 },
                ...{ since: stored - 10, head: stored },
              },
            ),
        );
        for (const fault of faults) onFault(fault);
        yield { n: stored, cost: ((serverCpuSeconds ?? Number.NaN) / arrived) * 1e6 };
      }
    },
  },
  {
    name: "rooms-appends",
    what: "10 messages in each room: a message of a batch of 64 to any of them, durable",
    of: "rooms",
    unit: "µs",
    measure: (options) => manyRooms(options, (repository, rooms) => appendMicros(repository, rooms, 100)),
  },
  {
    name: "rooms-heads",
    what: "10 messages in each room: the head of any of them, as a join reads it",
    of: "rooms",
    unit: "µs",
    measure: (options) =>
      manyRooms(options, (repository, rooms) =>
        timed((time) => repository.head(roomOf((time * 7_919) % rooms))),
      ),
  },
  {
    name: "rooms-list",
    what: "10 messages in each room: a page of 50 from anywhere in the list of rooms",
    of: "rooms",
    unit: "µs",
    measure: (options) =>
      manyRooms(options, (repository, rooms) =>
        timed(async (time) => {
          const index = 50 + ((time * 7_919) % (rooms - 50));
          const lastMessageAt = toMillis(FILLED_FROM_MS + 9 * rooms + index);
          const before = { lastMessageAt, room: roomOf(index) };
          const page = await repository.readRooms({ before, roomsMax: 50 });
          assert(page.rooms.length === 50, "a page of rooms is whole");
        }),
      ),
  },
];

/** Pages from deeper and deeper in one room of two users. */
async function* pages(
  options: GrowthOptions,
  read: (
    repository: MessageRepository,
    stored: number,
    depth: number,
  ) => Promise<{ readonly messages: readonly unknown[] }>,
): AsyncIterable<Point> {
  const stored = Math.min(options.storedMax, 1_000_000);
  const path = join(options.folder, "one-room.db");
  if (!(await Bun.file(path).exists()))
    fillStore(path, { rooms: 1, messagesPerRoom: stored, users: 2, seed: options.seed });
  for (const deepest of tens(100, stored)) {
    const cost = await withRepository(path, (repository) =>
      timed(async (time) => {
        // From the lower half of that depth, each time another page, and one that is whole also where only half is the user's.
        const depth = Math.floor(deepest * (0.5 + (0.4 * (time % 97)) / 97));
        const page = await read(repository, stored, depth);
        assert(page.messages.length === PAGE.messagesMax, "a page is whole");
      }),
    );
    yield { n: deepest, cost };
  }
}

async function* manyRooms(
  options: GrowthOptions,
  cost: (repository: MessageRepository, rooms: number) => Promise<number>,
): AsyncIterable<Point> {
  for (const rooms of tens(100, Math.min(options.storedMax / 10, 100_000)))
    yield await withStore(options, { rooms, messagesPerRoom: 10, users: 100 }, async (path) => ({
      n: rooms,
      cost: await withRepository(path, (repository) => cost(repository, rooms)),
    }));
}
