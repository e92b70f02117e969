/** The terminal that the program was started on. */

import { fstatSync, statSync } from "node:fs";

const STDIN = 0;
const STDOUT = 1;

/** Whether there is one: a character device that is not /dev/null. Not node:tty, which takes 18 ms to load. */
export const hasTerminal = (): boolean => isTerminal(STDIN) || isTerminal(STDOUT);

/** How long a terminal may be on its way out once its shell has ended, and how often it is looked at meanwhile. */
const LEAVING_MS = 1_000;
const LOOK_MS = 100;

/**
 * Resolves with whether the terminal that the program was started on is gone, or goes within a second: a shell that ends sends
 * SIGHUP before its terminal closes. Rejects never.
 */
export async function isTerminalGone(): Promise<boolean> {
  // Slow to load, and seldom asked. A terminal that has hung up answers no request any more.
  const { isatty } = process.getBuiltinModule("node:tty");
  for (let waitedMs = 0; isatty(STDIN) || isatty(STDOUT); waitedMs += LOOK_MS) {
    if (waitedMs >= LEAVING_MS) return false;
    await Bun.sleep(LOOK_MS);
  }
  return true;
}

function isTerminal(descriptor: number): boolean {
  try {
    const file = fstatSync(descriptor);
    return file.isCharacterDevice() && file.rdev !== statSync("/dev/null").rdev;
  } catch {
    // The descriptor is closed.
    return false;
  }
}
