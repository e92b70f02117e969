/** One contender under one load: starts it, measures it, ends it, and counts what its store holds. */

import { Database } from "bun:sqlite";
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { startProgram } from "../fixture/program.ts";
import { CONTENDERS, type ContenderName, ENVIRONMENT } from "./contenders.ts";
import type { Load, Measurement } from "./generator.ts";
import { onCore } from "./machine.ts";
import type { Scenario } from "./scenarios.ts";

/** The server has one core for itself, the generator another. */
const [SERVER_CORE, GENERATOR_CORE] = [1, 0];

export interface RunOptions {
  /** Where stores are kept while they are measured. */
  readonly folder: string;
  readonly seed: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
}

export interface Run extends Measurement {
  readonly contender: ContenderName;
  /** What the store does not hold although it was acked, or holds although nobody was told. */
  readonly storeFault: string | undefined;
}

export async function run(scenario: Scenario, contender: ContenderName, options: RunOptions): Promise<Run> {
  const { seed, warmUpMs, measureMs } = options;
  const folder = await mkdtemp(join(options.folder, "store-"));
  const path = join(folder, "chat.db");
  try {
    const server = await startProgram({
      command: onCore(SERVER_CORE, CONTENDERS[contender].command),
      env: { ...ENVIRONMENT, SQLITE_PATH: path },
    });
    let measurement: Measurement;
    try {
      const { members, senders, inFlight } = scenario;
      const { hostname, port } = new URL(server.url);
      const load: Load = {
        hostname,
        port: Number(port),
        serverPid: server.pid,
        members,
        senders,
        inFlight,
        seed,
        warmUpMs,
        measureMs,
      };
      measurement = await generate(load);
    } catch (error) {
      throw new Error(`${contender} in ${scenario.name} failed; it said:\n${server.output()}`, {
        cause: error,
      });
    } finally {
      await server.end();
    }
    return { contender, ...measurement, storeFault: storeFault(path, measurement.storedMessages) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function generate(load: Load): Promise<Measurement> {
  const child = Bun.spawn(
    onCore(GENERATOR_CORE, [process.execPath, join(import.meta.dir, "generator.ts"), JSON.stringify(load)]),
    { stdin: "ignore", stdout: "pipe", stderr: "inherit" },
  );
  const [text, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  if (code !== 0) throw new Error(`the generator ended with ${code}`);
  return JSON.parse(text) as Measurement;
}

/** Every acked message is one row, and the room's numbers are 1 to their count. */
function storeFault(path: string, acked: number): string | undefined {
  const db = new Database(path, { readonly: true });
  try {
    const [count, head, newest] = db
      .prepare(
        "SELECT (SELECT count(*) FROM messages), (SELECT seq FROM rooms), (SELECT max(seq) FROM messages)",
      )
      .values()[0] as number[];
    return count === acked && head === acked && newest === acked
      ? undefined
      : `${acked} acked, ${count} stored, room at ${head}, newest ${newest}`;
  } finally {
    db.close();
  }
}

/** What of this run makes the bench fail, in words; undefined when nothing does. */
export function faultOf({ faults, storeFault: fault }: Run): string | undefined {
  const found = Object.entries(faults).flatMap(([kind, count]) => (count > 0 ? [`${kind} ${count}`] : []));
  if (fault !== undefined) found.push(fault);
  return found.length === 0 ? undefined : found.join(", ");
}
