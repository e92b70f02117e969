/** How long a server takes from its process's start to its first answer over HTTP, on a store that is not there yet or, for servers that make none, empty. */

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { scripts } from "../../../../package.json";
import { spawnProgram } from "../../../fixture/program.ts";
import { ownProcess } from "../belongings.ts";
import { CONTENDERS, ENVIRONMENT, SINGLE_FILE } from "../contenders.ts";
import { onCoreOf } from "../machine.ts";
import { makeStore } from "../run.ts";
import type { Kind } from "../scenario.ts";
import { median } from "../statistics.ts";

/** A start may take so long. */
const PATIENCE_MS = 10_000;
const ROOT = resolve(import.meta.dir, "../../../..");

export function startsToFirstAnswer({ starts }: { readonly starts: number }): Kind {
  let building: Promise<void> | undefined;
  return {
    how: `GET / until it is answered, the median of ${starts} starts`,
    figures: [
      { name: "ms to first answer", digits: 1, compared: "subject by it" },
      { name: "CPU ms", digits: 0 },
    ],
    async measure(contender, options) {
      if (contender === "single-file") {
        building ??= build();
        await building;
      }
      const folder = await mkdtemp(join(options.folder, "starts-"));
      const times: number[] = [];
      const cpus: number[] = [];
      const faults: string[] = [];
      try {
        // The first one reads the program into the system's cache, and is not counted.
        for (let start = 0; start <= starts; start += 1) {
          const port = await freePort();
          const storePath = join(folder, `${start}`, "chat.db");
          if (CONTENDERS[contender].storeMade) makeStore(storePath);
          const beganMs = performance.now();
          const { child, exited, output } = spawnProgram({
            command: onCoreOf("server", CONTENDERS[contender].command),
            env: { ...ENVIRONMENT, PORT: String(port), SQLITE_PATH: storePath },
          });
          ownProcess(child);
          let status: number;
          try {
            status = await firstAnswer(port, exited);
            if (start > 0) times.push(performance.now() - beganMs);
          } catch (error) {
            throw new Error(`it said:\n${output()}`, { cause: error });
          } finally {
            child.kill("SIGKILL");
            await exited;
          }
          if (start > 0) cpus.push(Number(child.resourceUsage()?.cpuTime.total ?? 0) / 1_000);
          if (status !== 200) faults.push(`answered ${status}: ${output()}`);
        }
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
      return {
        contender,
        figures: { "ms to first answer": median(times), "CPU ms": median(cpus) },
        shares: { server: null, generator: null, others: null },
        faults,
      };
    },
  };
}

/** By the script of package.json as it stands, but for where the file goes: someone may be running the other one. */
async function build(): Promise<void> {
  await mkdir(dirname(SINGLE_FILE), { recursive: true });
  const command = scripts.build.replace("dist/chat-service", SINGLE_FILE);
  const child = Bun.spawn(["sh", "-c", `exec ${command}`], {
    cwd: ROOT,
    env: { ...process.env, PATH: `${dirname(process.execPath)}:${process.env.PATH}` },
    stdout: "ignore",
    stderr: "pipe",
  });
  ownProcess(child);
  const said = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`the build failed:\n${said}`);
}

async function freePort(): Promise<number> {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

/** Asks again until somebody listens; the status of the answer. Rejects when the program ends or time is up. */
async function firstAnswer(port: number, exited: Promise<number | null>): Promise<number> {
  let hasEnded = false;
  exited.then(() => {
    hasEnded = true;
  });
  for (const untilMs = performance.now() + PATIENCE_MS; performance.now() < untilMs;) {
    const answer = await ask(port, untilMs);
    if (answer !== undefined) return answer;
    if (hasEnded) throw new Error("it ended before it answered");
    await new Promise((resume) => setTimeout(resume, 1));
  }
  throw new Error("nobody answered in time");
}

/** One request over a connection of its own; undefined where nobody listens, or nobody has answered by then. */
async function ask(port: number, untilMs: number): Promise<number | undefined> {
  const { promise, resolve: answered } = Promise.withResolvers<number | undefined>();
  const late = setTimeout(() => answered(undefined), untilMs - performance.now());
  const connecting = Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      open: (socket) => void socket.write("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
      data: (_, chunk) => answered(Number(chunk.toString("latin1").slice(9, 12))),
      close: () => answered(undefined),
    },
  });
  connecting.catch(() => answered(undefined));
  try {
    return await promise;
  } finally {
    clearTimeout(late);
    connecting.then(
      (socket) => socket.terminate(),
      () => {},
    );
  }
}
