/** What a bench has started and made: it does not outlive the bench, also where that is told to end. */

import { rmSync } from "node:fs";
import { rm } from "node:fs/promises";
import { constants } from "node:os";
import { type Program, type ProgramOptions, spawnProgram } from "../../fixture/program.ts";

/** A server may take so long until it listens, and so long to end once it is told to. */
const LISTENING_MS_MAX = 60_000;
const ENDING_MS_MAX = 30_000;
/** A folder is looked through so often, while those who write into it are dying. */
const REMOVALS_MAX = 50;
const REMOVE_AGAIN_MS = 20;

const processes = new Set<number>();
const folders = new Set<string>();
let ending = false;

/** The process is killed when the bench is told to end, unless it has ended by itself. */
export function ownProcess<Child extends Pick<Bun.Subprocess, "pid" | "exited">>(child: Child): Child {
  processes.add(child.pid);
  if (ending) kill(child.pid);
  child.exited.finally(() => processes.delete(child.pid));
  return child;
}

/** The folder is removed with what it holds when the bench is told to end, or by `remove`. */
export function ownFolder(path: string): { readonly path: string; remove(): Promise<void> } {
  folders.add(path);
  return {
    path,
    async remove() {
      await rm(path, { recursive: true, force: true });
      folders.delete(path);
    },
  };
}

/** From now on the bench takes with it what it has started and made, when a signal ends it. */
export function endTogether(): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.on(signal, () => {
      ending = true;
      for (const pid of processes) kill(pid);
      for (const folder of folders) removeNow(folder);
      process.exit(128 + constants.signals[signal]);
    });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}

function removeNow(folder: string): void {
  for (let time = 1; time <= REMOVALS_MAX; time += 1) {
    try {
      rmSync(folder, { recursive: true, force: true });
      return;
    } catch (error) {
      // A process that was just killed may have made one more file.
      if (time === REMOVALS_MAX) process.stderr.write(`${folder} is left: ${error}\n`);
      Bun.sleepSync(REMOVE_AGAIN_MS);
    }
  }
}

/** Resolves with the value, or rejects once it was waited for so long. */
export async function within<T>(ms: number, what: string, value: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`${what}: not within ${ms / 1_000} s`)), ms);
  try {
    return await Promise.race([value, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** As the fixture's of that name, for a server that belongs to the bench, may not listen, or not end when it is told to. */
export async function startProgram(options: ProgramOptions): Promise<Omit<Program, "residentBytes">> {
  const { child, exited, output, errors, line } = spawnProgram(options);
  ownProcess(child);
  try {
    const said = await within(LISTENING_MS_MAX, "listening", line(/"event":"listening"/));
    // A server that was started by another program says which process it is.
    const { url, pid = child.pid } = JSON.parse(said) as { readonly url: string; readonly pid?: number };
    if (pid !== child.pid) ownProcess({ pid, exited: child.exited });
    return {
      url,
      port: Number(new URL(url).port),
      pid,
      output,
      errors,
      line,
      exited,
      async end(signal = "SIGTERM") {
        child.kill(signal);
        try {
          return await within(ENDING_MS_MAX, `the end by ${signal}`, exited);
        } catch (error) {
          kill(pid);
          kill(child.pid);
          throw new Error(`it did not end; it said:\n${output()}`, { cause: error });
        }
      },
    };
  } catch (error) {
    kill(child.pid);
    throw new Error(`it did not listen; it said:\n${output()}`, { cause: error });
  }
}
