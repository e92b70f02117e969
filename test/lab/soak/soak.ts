/** One soak: the program, everyone who uses it, the samples, and the judgement at the end. */

import { join } from "node:path";
import type { WireMessage } from "../../../src/protocol/wire.ts";
import { type Chance, createChance } from "../../fixture/chance.ts";
import { readRoom } from "../../fixture/member.ts";
import { freshDatabase, startMongo } from "../../fixture/mongodb.ts";
import { endTogether, type Program, startProgram, temporaryFolder } from "../../fixture/program.ts";
import { type Book, createBook } from "./book.ts";
import { createSoakMember, type SoakMember, type Transport } from "./member.ts";
import { type Idle, judge, type Moment, type SoakResult, type Store } from "./report.ts";
import { sampleProcess, sizeOf, waitsBetween } from "./samples.ts";
import { createVisitors, type Visit } from "./visitors.ts";

export interface SoakOptions {
  readonly minutes: number;
  readonly store: Store;
  /** Messages a second, about. */
  readonly rate: number;
  readonly seed: number;
}

const ROOMS = 12;
const ROOMS_A_MEMBER = 4;
const TRANSPORTS: readonly Transport[] = ["websocket", "websocket", "websocket", "polling", "upgrade"];
/** Below the default rate limit of a connection, with room for retries. */
const MEMBER_MESSAGES_A_SECOND = 12;
const SAMPLE_MS = 5_000;
const PROBE_MS = 250;
const IDLE_MS = 6_000;
/** Times each visit is paid a second, and how many of a kind may be under way at once. */
const VISITS = {
  post: { perSecond: 8, at_once: 8 },
  walkRoom: { perSecond: 2, at_once: 4 },
  walkUser: { perSecond: 1, at_once: 2 },
  listRooms: { perSecond: 0.5, at_once: 1 },
  passBy: { perSecond: 2, at_once: 6 },
  misbehave: { perSecond: 0.5, at_once: 2 },
  overdo: { perSecond: 0.1, at_once: 1 },
  vanish: { perSecond: 0.3, at_once: 12 },
  readSlowly: { perSecond: 0.05, at_once: 1 },
} as const;
const STEP_OUT_PER_SECOND = 0.05;
const RECONNECT_PER_SECOND = 0.04;
const AWAY_MS_MAX = 6_000;
/** Now and then somebody stays away so long that one replay is too short for what was missed. */
const LONG_AWAY_SHARE = 0.08;
const LONG_AWAY_MS = 45_000;

/** What right requests may be refused with: SQLite keeps up with this load, the tests' MongoDB server need not. */
const BUSY_CODES: Readonly<Record<Store, ReadonlySet<string>>> = {
  sqlite: new Set(),
  mongodb: new Set(["overloaded", "storage_unavailable"]),
};
/** How much of the visits a store is paid: the tests' MongoDB server answers some hundred questions a second. */
const VISITS_SHARE: Readonly<Record<Store, number>> = { sqlite: 1, mongodb: 0.25 };

const PINGS = { PING_INTERVAL_MS: "5000", PING_TIMEOUT_MS: "4000" };

async function openStore(store: SoakOptions["store"], folder: string) {
  if (store === "sqlite") {
    const path = join(folder, "chat.db");
    return { env: { SQLITE_PATH: path }, walBytes: () => sizeOf(`${path}-wal`), close: async () => {} };
  }
  const mongo = await startMongo();
  const env = { MONGODB_URI: mongo.uri, MONGODB_DB_NAME: freshDatabase() };
  return { env, walBytes: async () => 0, close: () => mongo.stop() };
}

/** Does it again and again, at random times that make so many a second, until `isOver`; never more than so many at once. */
function repeat(
  act: Visit,
  perSecond: number,
  atOnce: number,
  chance: Chance,
  book: Book,
  isOver: () => boolean,
) {
  const underWay = new Set<Promise<void>>();
  let done = 0;
  const loop = async () => {
    while (!isOver()) {
      // Exponential gaps: the visits of many come at random.
      await Bun.sleep(Math.min(30_000, (-Math.log(1 - chance.between(0, 1)) / perSecond) * 1_000));
      if (isOver() || underWay.size >= atOnce) continue;
      const visit = act().then(
        () => {
          done += 1;
        },
        (error: unknown) =>
          book.fault(`${act.name}: ${error instanceof Error ? error.message : String(error)}`),
      );
      underWay.add(visit);
      visit.finally(() => underWay.delete(visit));
    }
    await Promise.all(underWay);
    return done;
  };
  return loop();
}

async function idle(program: Program): Promise<Idle> {
  const first = await sampleProcess(program.pid);
  const began = performance.now();
  await Bun.sleep(IDLE_MS / 2);
  const second = await sampleProcess(program.pid);
  const seconds = (performance.now() - began) / 1_000;
  return { ...second, waitsPerSecond: waitsBetween(first, second) / seconds };
}

export async function soak(options: SoakOptions, say: (line: string) => void): Promise<SoakResult> {
  const folder = await temporaryFolder();
  const store = await openStore(options.store, folder.path);
  const program = await startProgram({ cwd: folder.path, env: { ...PINGS, DRAIN_MS: "500", ...store.env } });
  endTogether(program);
  try {
    return await run(options, program, store.walBytes, say);
  } finally {
    await program.end("SIGKILL");
    await store.close();
    await folder.remove();
  }
}

async function run(
  { minutes, rate, seed, store }: SoakOptions,
  program: Program,
  walBytes: () => Promise<number>,
  say: (line: string) => void,
): Promise<SoakResult> {
  const { url, port } = program;
  const chance = createChance(seed);
  const book = createBook();
  const refusals = new Map<string, number>();
  const joins = new Map<string, number>();
  const count = (counts: Map<string, number>) => (name: string) =>
    counts.set(name, (counts.get(name) ?? 0) + 1);
  let acks: number[] = [];
  let gets: number[] = [];
  let lags: number[] = [];

  const rooms = Array.from({ length: ROOMS }, (_, n) => `room-${n}`);
  const posts = VISITS_SHARE[store] * (VISITS.post.perSecond + VISITS.passBy.perSecond);
  const memberCount = Math.max(2, Math.round((rate - posts) / MEMBER_MESSAGES_A_SECOND));
  const members: SoakMember[] = Array.from({ length: memberCount }, (_, n) =>
    createSoakMember({
      url,
      name: `member-${n}`,
      transport: TRANSPORTS[n % TRANSPORTS.length] as Transport,
      rooms: Array.from({ length: ROOMS_A_MEMBER }, (_, k) => rooms[(n + 3 * k) % ROOMS] as string),
      book,
      chance: chance.fork(),
      onAck: (ms) => acks.push(ms),
      onJoin: count(joins),
      onRefused: count(refusals),
      busyCodes: BUSY_CODES[store],
    }),
  );
  const visitors = createVisitors({
    url,
    port,
    rooms,
    book,
    chance: chance.fork(),
    onRefused: count(refusals),
    busyCodes: BUSY_CODES[store],
  });

  await fetch(url).then((response) => response.arrayBuffer());
  await Bun.sleep(IDLE_MS / 2);
  const before = await idle(program);
  await Promise.all(members.map((member) => member.connect()));
  say(`${memberCount} members in ${ROOMS} rooms; before them ${(before.residentBytes / 1e6).toFixed(0)} MB`);

  const began = performance.now();
  const isOver = () => performance.now() - began >= minutes * 60_000;
  const loops: Promise<unknown>[] = [];

  for (const member of members) {
    const own = chance.fork();
    loops.push(
      (async () => {
        const meanMs = (1_000 * memberCount) / Math.max(1, rate - posts);
        let stepAt = performance.now() + (own.between(0, 2) * 1_000) / STEP_OUT_PER_SECOND;
        let partAt = performance.now() + (own.between(0, 2) * 1_000) / RECONNECT_PER_SECOND;
        while (!isOver()) {
          await Bun.sleep(own.between(0.5, 1.5) * meanMs);
          const now = performance.now();
          if (now >= partAt) {
            member.disconnect();
            const leftMs = Math.max(0, began + minutes * 60_000 - now);
            const awayMs = own.often(LONG_AWAY_SHARE) ? LONG_AWAY_MS : own.between(0, AWAY_MS_MAX);
            await Bun.sleep(own.often(0.4) ? 0 : Math.min(awayMs, leftMs));
            await member.connect();
            partAt = performance.now() + (own.between(0, 2) * 1_000) / RECONNECT_PER_SECOND;
          } else if (now >= stepAt) {
            await member.stepOut();
            stepAt = performance.now() + (own.between(0, 2) * 1_000) / STEP_OUT_PER_SECOND;
          } else member.talk();
        }
      })().catch((error: unknown) => book.fault(`${member.name}: ${String(error)}`)),
    );
  }
  const visits = new Map<string, number>();
  for (const [name, { perSecond, at_once }] of Object.entries(VISITS)) {
    const act = visitors[name as keyof typeof VISITS];
    loops.push(
      repeat(act, perSecond * VISITS_SHARE[store], at_once, chance.fork(), book, isOver).then((done) =>
        visits.set(name, done),
      ),
    );
  }
  loops.push(
    (async () => {
      while (!isOver()) {
        const asked = performance.now();
        await Bun.sleep(PROBE_MS);
        lags.push(performance.now() - asked - PROBE_MS);
        const sent = performance.now();
        const response = await fetch(url);
        await response.arrayBuffer();
        gets.push(performance.now() - sent);
        if (response.status !== 200) book.fault(`GET / answered ${response.status}`);
      }
    })().catch((error: unknown) => book.fault(`GET /: ${String(error)}`)),
  );

  const moments: Moment[] = [];
  loops.push(
    (async () => {
      for (;;) {
        await Bun.sleep(Math.min(SAMPLE_MS, Math.max(1, began + minutes * 60_000 - performance.now())));
        const at = (performance.now() - began) / 1_000;
        const sample = await sampleProcess(program.pid);
        moments.push({ ...sample, at, walBytes: await walBytes(), acks, gets, lags });
        [acks, gets, lags] = [[], [], []];
        if (moments.length % 12 === 0)
          say(
            `${(at / 60).toFixed(1)} min: ${(sample.residentBytes / 1e6).toFixed(0)} MB, ${sample.descriptors} fds, ${book.counts.acked} acked, ${book.counts.seen} seen, ${book.faults.length} faults`,
          );
        if (isOver()) return;
      }
    })().catch((error: unknown) => book.fault(`the program: ${String(error)}`)),
  );
  void program.exited.then((code) => {
    if (!isOver()) book.fault(`the program ended with ${code}`);
  });
  await Promise.all(loops);
  const seconds = moments.at(-1)?.at ?? 0;

  const heads = await closeBooks(url, book, members);
  for (const member of members) member.disconnect();
  await Bun.sleep(IDLE_MS);
  const after = await idle(program);
  const judged = judge(moments, before, after, store);
  const code = await program.end();
  const faults = [...book.faults, ...judged.faults];
  if (code !== 0) faults.push(`the program ended with ${code}`);
  faults.push(...loggedFaults(program.output(), store));
  const counters = countersOf(program.output());
  if (store === "sqlite" && minutes >= 5 && !(Number(counters.slow_clients_disconnected_total) > 0))
    faults.push("no slow reader was disconnected: the load did not do what it is for");

  const all = (of: (moment: Moment) => readonly number[]) => moments.flatMap(of);
  return {
    faults,
    moments,
    summary: {
      seed,
      store,
      minutes: round(seconds / 60, 1),
      messagesStored: [...heads.values()].reduce((sum, seq) => sum + seq, 0),
      messagesPerSecond: round(book.counts.acked / seconds, 1),
      acked: book.counts.acked,
      seen: book.counts.seen,
      joins: Object.fromEntries(joins),
      refusals: Object.fromEntries(refusals),
      visits: Object.fromEntries(visits),
      memory: Object.fromEntries(
        Object.entries(judged.memory).map(([name, value]) => [name, round(value, 1)]),
      ),
      descriptors: { perHour: round(judged.descriptors.perHour, 1), most: judged.descriptors.most },
      idle: { before: rounded(before), after: rounded(after) },
      ackMs: percentiles(all((moment) => moment.acks)),
      getMs: percentiles(all((moment) => moment.gets)),
      ownLagMs: percentiles(all((moment) => moment.lags)),
      walMbMost: round(Math.max(...moments.map((moment) => moment.walBytes)) / 1e6, 1),
      cpuShare: round((moments.at(-1)?.cpuSeconds ?? 0) / seconds, 2),
      trendsJudged: judged.hasTrend,
      storeDown: program.output().split('"event":"store_down"').length - 1,
      counters,
      faults: faults.length,
    },
  };
}

/** What the service counted, as it said when it stopped. */
function countersOf(output: string): Record<string, unknown> {
  const line = output.split("\n").findLast((said) => said.includes('"event":"stopped"'));
  return line === undefined ? {} : (JSON.parse(line) as Record<string, unknown>);
}

/** What the service itself said went wrong. */
function loggedFaults(output: string, store: Store): string[] {
  const pattern = BUSY_CODES[store].has("storage_unavailable")
    ? /"event":"(event_failed|request_failed)"/
    : /"level":"error"|"event":"(store_down|event_failed|request_failed)"/;
  const lines = output.split("\n").filter((line) => pattern.test(line));
  return lines.slice(0, 10).map((line) => `logged: ${line.slice(0, 300)}`);
}

/** Everyone is shown everything, and every room is read whole and judged. */
async function closeBooks(
  url: string,
  book: Book,
  members: readonly SoakMember[],
): Promise<Map<string, number>> {
  const heads = new Map<string, number>();
  for (const member of members) if (!member.connected) await member.connect();
  for (const room of book.rooms) {
    const history: WireMessage[] = await readRoom(url, room).catch(async () => {
      // A busy store, once: what was asked of it before has come to its end by then.
      await Bun.sleep(IDLE_MS);
      return readRoom(url, room);
    });
    for (const message of history) book.seen(message, "history");
    book.close(room, history);
    heads.set(room, history.length);
  }
  await Promise.all(members.map((member) => member.caughtUp(heads)));
  for (const member of members)
    if (member.waiting > 0) book.fault(`${member.name} still waits for ${member.waiting}`);
  return heads;
}

const round = (value: number, digits: number) => Number(value.toFixed(digits));
const rounded = ({ descriptors, threads, residentBytes, waitsPerSecond }: Idle) => ({
  descriptors,
  threads,
  mb: round(residentBytes / 1e6, 1),
  waitsPerSecond: round(waitsPerSecond, 1),
});

function percentiles(values: readonly number[]) {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) =>
    round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0, 2);
  return { p50: at(0.5), p99: at(0.99), most: at(1), count: sorted.length };
}
