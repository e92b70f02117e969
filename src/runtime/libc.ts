/** The C library, for the few calls that Bun does not offer. */

import { dlopen, type FFIFunction, read } from "bun:ffi";

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

const LOCK_EXCLUSIVE = 2;
const LOCK_NOW = 4;

const ON_MAC = process.platform === "darwin";
const WOULD_BLOCK = ON_MAC ? 35 : 11;

/**
 * Locks the open file itself, whatever name it has. The lock is that of the descriptor: it ends when the descriptor is
 * closed, and no other descriptor of the same file touches it (as one would with POSIX locks).
 * @returns false when another descriptor has locked the file, in this process or another
 * @throws Error when the file system has no locks
 */
export function lockFile(descriptor: number): boolean {
  const number = flock(descriptor, LOCK_EXCLUSIVE | LOCK_NOW);
  if (number === 0) return true;
  if (number === WOULD_BLOCK) return false;
  throw new Error(`the file system has no locks (error ${number})`);
}

let libc: ReturnType<typeof load> | undefined;

function load() {
  const call = { args: ["i32", "i32"], returns: "i32" } as const;
  const place = { args: [], returns: "ptr" } as const;
  return ON_MAC
    ? loadLibc({ flock: call, __error: place })
    : loadLibc({ flock: call, __errno_location: place });
}

/** @returns 0, or the system's error number */
function flock(descriptor: number, operation: number): number {
  libc ??= load();
  // The place of the error number is looked up first: looking it up may change the number.
  const numberAt = "__error" in libc ? libc.__error() : libc.__errno_location();
  if (libc.flock(descriptor, operation) === 0) return 0;
  return numberAt === null ? -1 : read.i32(numberAt, 0);
}
