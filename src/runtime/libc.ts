/** The C library, for the few calls that Bun does not offer. */

import { dlopen, type FFIFunction } from "bun:ffi";

/** Its names on Linux (glibc, then musl) and macOS. The process runs on one of them, so loading it reads no disk. */
const C_LIBRARIES = [
  "libc.so.6",
  `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`,
  "libSystem.B.dylib",
];

/** @throws Error when none of the known C libraries is here, or it has no such functions */
export function loadLibc<const F extends Record<string, FFIFunction>>(functions: F) {
  for (const library of C_LIBRARIES) {
    try {
      return dlopen(library, functions).symbols;
    } catch {
      // Not this system's.
    }
  }
  throw new Error(`the C library has no ${Object.keys(functions).join(", ")}`);
}
