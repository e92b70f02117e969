/** Starts a contender on a fresh store for one run, and a generator beside it, each on a core of its own. */

import { Database } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { migrate } from "../../../src/repository/sqlite/schema.ts";
import type { Program } from "../../fixture/program.ts";
import { ownProcess, startProgram, within } from "./belongings.ts";
import { CONTENDERS, type ContenderName, ENVIRONMENT } from "./contenders.ts";
import { onCoreOf } from "./machine.ts";
import type { RunOptions } from "./scenario.ts";

/** A generator gives up by itself long before. */
const GENERATOR_MS_MAX = 10 * 60_000;

export interface Serving {
  readonly contender: ContenderName;
  readonly options: Pick<RunOptions, "folder">;
  /** Variables besides those that every contender hears. */
  readonly env?: Readonly<Record<string, string>>;
  /** What the runtime is told before it loads the server. */
  readonly runtimeFlags?: readonly string[];
  /** A store to serve, which outlives the run; a fresh one where left out. */
  readonly storePath?: string;
}

/** Runs the body beside the server, and then `look` on the store that it closed. */
export async function serving<T>(
  { contender, options, env = {}, runtimeFlags = [], storePath }: Serving,
  body: (server: Pick<Program, "url" | "port" | "pid">) => Promise<T>,
  look: (storePath: string, measured: T) => void = () => {},
): Promise<T> {
  const folder = await mkdtemp(join(options.folder, "store-"));
  const path = storePath ?? join(folder, "chat.db");
  const [runtime = "", ...command] = CONTENDERS[contender].command;
  if (CONTENDERS[contender].storeMade && storePath === undefined) makeStore(path);
  try {
    const server = await startProgram({
      command: onCoreOf("server", [runtime, ...runtimeFlags, ...command]),
      env: { ...ENVIRONMENT, SQLITE_PATH: path, ...env },
    });
    let measured: T;
    try {
      measured = await body(server);
    } catch (error) {
      throw new Error(`${contender} failed; it said:\n${server.output()}`, { cause: error });
    } finally {
      await server.end();
    }
    look(path, measured);
    return measured;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** An empty store for a server that has no migrations of its own. */
export function makeStore(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  const db = new Database(path, { create: true, readwrite: true });
  migrate(db, path);
  db.close();
}

/** Runs a generator of this folder with its load, and reads what it measured. */
export async function generate<T>(script: string, load: unknown): Promise<T> {
  const child = Bun.spawn(
    onCoreOf("generator", [process.execPath, join(import.meta.dir, script), JSON.stringify(load)]),
    {
      // The memory of what has come is kept for what comes next: a tenth less CPU for each delivery to 1,000 receivers.
      env: { ...process.env, MIMALLOC_PURGE_DELAY: "-1" },
      ...{ stdin: "ignore", stdout: "pipe", stderr: "inherit" },
    },
  );
  ownProcess(child);
  const measured = Promise.all([new Response(child.stdout).text(), child.exited]);
  const [text, code] = await within(GENERATOR_MS_MAX, script, measured).finally(() => child.kill("SIGKILL"));
  if (code !== 0) throw new Error(`${script} ended with ${code}`);
  return JSON.parse(text) as T;
}

/** What the store does not hold although it was acked, or holds although nobody was told. */
export function storeFaults(contender: ContenderName, path: string, acked: number): string[] {
  if (CONTENDERS[contender].storeless) return [];
  const db = new Database(path, { readonly: true });
  try {
    // Every acked message is one row, and the numbers of each room are 1 to their count.
    const [stored, heads, agreeing] = db
      .prepare(
        `WITH kept AS (SELECT room_id, count(*) AS rows, max(seq) AS newest FROM messages GROUP BY room_id)
         SELECT (SELECT total(rows) FROM kept), (SELECT total(seq) FROM rooms),
           (SELECT total(seq) FROM rooms JOIN kept ON id = room_id AND seq = rows AND seq = newest)`,
      )
      .values()[0] as number[];
    return [stored, heads, agreeing].every((count) => count === acked)
      ? []
      : [
          `${acked} acked, ${stored} stored, heads ${heads} together, of which ${agreeing} agree with the rows`,
        ];
  } finally {
    db.close();
  }
}
