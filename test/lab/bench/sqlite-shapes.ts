/**
 * The three shapes of the embedded store side by side (docs/adr/0002): `bun test/lab/bench/sqlite-shapes.ts [seconds a row]`.
 * Every row runs in a child of its own, on this machine's disk and on one whose syncs take 20 ms more; the control is bare
 * batched INSERTs of the same rows and indexes, synchronous=FULL, on the event loop.
 */

import { Database } from "bun:sqlite";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import type { RoomName, UserId } from "../../../src/domain/ids.ts";
import type { Epoch } from "../../../src/domain/ids.ts";
import type { Draft } from "../../../src/domain/message.ts";
import { toMillis } from "../../../src/domain/time.ts";
import { LIMITS } from "../../../src/limits.ts";
import { createAppender } from "../../../src/repository/sqlite/append.ts";
import { migrate } from "../../../src/repository/sqlite/schema.ts";
import { diskFaults } from "../../fixture/disk.ts";
import { openSqlite } from "../../fixture/sqlite.ts";

interface Shape {
  append(drafts: readonly Draft[]): Promise<unknown>;
  close(): Promise<void>;
}

const SHAPES = {
  "bare INSERTs on the loop (control)": bare,
  "1 commit on the loop, FULL": onTheLoop,
  "2 writer in a worker, FULL": inAWorker,
  "3 commit on the loop, own sync (ours)": async (path) => openSqlite(path),
} satisfies Record<string, (path: string) => Promise<Shape>>;
type ShapeName = keyof typeof SHAPES;

const SCENES = { "one room, one sender": [1, 1], "8 rooms, 50 senders": [8, 50] } as const;
type SceneName = keyof typeof SCENES;
const IN_FLIGHT = [1, 16, 64, 256, 1_024];
const TEXT =
  "a message of a plausible length, as people write them in a chat, neither very long nor short".padEnd(100);

function openFull(path: string): Database {
  const db = new Database(path, { create: true });
  db.run("PRAGMA journal_mode = WAL");
  migrate(db, path);
  db.run("PRAGMA synchronous = FULL");
  return db;
}

async function bare(path: string): Promise<Shape> {
  const db = openFull(path);
  const insert = db.prepare(
    `INSERT INTO messages (place, id, user_id, client_id, text, timestamp, received_at)
     VALUES ((?1 << 32) | ?2, ?3, ?4, ?5, ?6, ?7, ?8)`,
  );
  const rooms = new Map<string, number>();
  let seq = 0;
  return {
    async append(drafts) {
      db.run("BEGIN IMMEDIATE");
      for (const { id, room, userId, clientId, text, timestamp, receivedAt } of drafts) {
        const number = rooms.get(room) ?? rooms.size + 1;
        rooms.set(room, number);
        insert.run(number, ++seq, id, userId, clientId, text, timestamp, receivedAt);
      }
      db.run("COMMIT");
    },
    close: async () => db.close(),
  };
}

const EPOCH = "bench" as Epoch;

async function onTheLoop(path: string): Promise<Shape> {
  const db = openFull(path);
  const appender = createAppender(db, EPOCH);
  return { append: async (drafts) => appender.commit(drafts), close: async () => db.close() };
}

async function inAWorker(path: string): Promise<Shape> {
  const worker = new Worker(new URL(import.meta.url), { workerData: path });
  let done: (results: unknown) => void = () => {};
  worker.on("message", (results: unknown) => done(results));
  return {
    append: (drafts) =>
      new Promise((resolve) => {
        done = resolve;
        worker.postMessage(drafts);
      }),
    close: async () => {
      await worker.terminate();
    },
  };
}

function serveWorker(path: string) {
  const appender = createAppender(openFull(path), EPOCH);
  parentPort?.on("message", async (drafts: Draft[]) =>
    parentPort?.postMessage((await appender.commit(drafts)).results),
  );
}

/** Senders that each wait for their ack before they send again, and a group commit between them and the shape. */
async function measure(name: ShapeName, scene: SceneName, inFlight: number, ms: number, path: string) {
  const [rooms, users] = SCENES[scene];
  const shape: Shape = await SHAPES[name](path);
  const queue: { draft: Draft; acked: () => void }[] = [];
  let committing = false;
  let sent = 0;
  let acked = 0;
  const end = performance.now() + ms;

  async function pump() {
    committing = true;
    while (queue.length > 0) {
      const batch = queue.splice(0, LIMITS.batchMessagesMax);
      await shape.append(batch.map((each) => each.draft));
      for (const each of batch) each.acked();
      // The event loop has its turn between batches, as it has in the service.
      await new Promise((resume) => setImmediate(resume));
    }
    committing = false;
  }
  async function sender() {
    while (performance.now() < end) {
      const at = toMillis(Date.now());
      const draft: Draft = {
        id: Bun.randomUUIDv7(),
        room: `room ${++sent % rooms}` as RoomName,
        userId: `user ${sent % users}` as UserId,
        text: TEXT,
        textBytes: TEXT.length,
        timestamp: at,
        receivedAt: at,
        clientId: null,
      };
      await new Promise<void>((resolve) => {
        queue.push({ draft, acked: resolve });
        if (!committing) void pump();
      });
      acked++;
    }
  }

  const stalls: number[] = [];
  let tickedAt = performance.now();
  const ticker = setInterval(() => {
    const now = performance.now();
    stalls.push(now - tickedAt - 1);
    tickedAt = now;
  }, 1);
  const began = performance.now();
  await Promise.all(Array.from({ length: inFlight }, sender));
  const tookMs = performance.now() - began;
  clearInterval(ticker);
  await shape.close();
  stalls.sort((a, b) => a - b);
  return { perSecond: (acked / tookMs) * 1_000, stallMs: stalls[Math.floor(stalls.length * 0.99)] ?? tookMs };
}

async function main(seconds: number) {
  const folder = await mkdtemp(join(tmpdir(), "sqlite-shapes-"));
  try {
    const { sqlite } = new Database(":memory:").prepare("SELECT sqlite_version() AS sqlite").get() as {
      sqlite: string;
    };
    console.log(
      `Bun ${Bun.version}, SQLite ${sqlite}, ${availableParallelism()} cores, ${seconds} s a row, 100 B texts`,
    );
    console.log("acked messages/s (ratio to the control) / p99 stall of the event loop in ms");
    const slow = await diskFaults(folder, { syncMs: 20 });
    let runs = 0;
    for (const [disk, env] of [
      ["this disk", {}],
      ["every sync 20 ms slower", slow],
    ] as const)
      for (const scene of Object.keys(SCENES)) {
        console.log(`\n${disk}; ${scene}`);
        console.log(
          ["in flight".padEnd(40), ...IN_FLIGHT.map((count) => String(count).padStart(24))].join(""),
        );
        const control: number[] = [];
        for (const shape of Object.keys(SHAPES)) {
          const cells: string[] = [];
          for (const [column, inFlight] of IN_FLIGHT.entries()) {
            const path = join(folder, `${++runs}`, "chat.db");
            await Bun.$`mkdir -p ${join(folder, `${runs}`)}`;
            const args = ["row", shape, scene, String(inFlight), String(seconds * 1_000), path];
            const child = Bun.spawn([process.execPath, import.meta.path, ...args], {
              env: { ...process.env, ...env },
              stderr: "inherit",
            });
            const { perSecond, stallMs } = (await new Response(child.stdout).json()) as Awaited<
              ReturnType<typeof measure>
            >;
            control[column] ??= perSecond;
            const ratio = (perSecond / (control[column] ?? perSecond)).toFixed(2);
            cells.push(`${Math.round(perSecond)} (${ratio}) / ${stallMs.toFixed(1)}`.padStart(24));
            await rm(join(folder, `${runs}`), { recursive: true });
          }
          console.log(shape.padEnd(40) + cells.join(""));
        }
      }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

if (!isMainThread) serveWorker(workerData as string);
else if (process.argv[2] === "row") {
  const [, , , shape, scene, inFlight, ms, path = ""] = process.argv;
  console.log(
    JSON.stringify(await measure(shape as ShapeName, scene as SceneName, Number(inFlight), Number(ms), path)),
  );
  process.exit(0);
} else await main(Number(process.argv[2] ?? 1));
