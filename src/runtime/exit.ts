/** The process's end when something hangs: nothing is closed and nothing waited for. */

import { loadLibc } from "./libc.ts";

/**
 * Ends the process with this code as a crash would, whatever its threads wait for; what was acked is on disk. The runtime's
 * own exit closes SQLite's files first, and that waits for the very disk that hangs. SIGKILL would say no code, and the
 * first process of a container cannot send it to itself.
 */
export function endNow(code: number): never {
  try {
    loadLibc({ _exit: { args: ["i32"], returns: "void" } })._exit(code);
  } catch {
    // No C library that is known here: by signal, then.
  }
  process.kill(process.pid, "SIGKILL");
  return process.exit(code);
}
