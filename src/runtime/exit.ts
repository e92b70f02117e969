/** The process's end when something hangs: nothing is closed and nothing waited for. */

import { dlopen } from "bun:ffi";

/** The C library by its names on Linux (glibc, then musl) and macOS. The process runs on one of them, so no disk is asked. */
const C_LIBRARIES = [
  "libc.so.6",
  `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`,
  "libSystem.B.dylib",
];

/**
 * Ends the process with this code as a crash would, whatever its threads wait for; what was acked is on disk. The runtime's
 * own exit closes SQLite's files first, and that waits for the very disk that hangs. SIGKILL would say no code, and the
 * first process of a container cannot send it to itself.
 */
export function endNow(code: number): never {
  for (const library of C_LIBRARIES) {
    try {
      dlopen(library, { _exit: { args: ["i32"], returns: "void" } }).symbols._exit(code);
    } catch {
      // Not this system's.
    }
  }
  process.kill(process.pid, "SIGKILL");
  return process.exit(code);
}
