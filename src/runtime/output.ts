/** Standard output, where the log goes. */

import { fstatSync } from "node:fs";
import { LIMITS } from "../limits.ts";

const STDOUT = 1;
// Not process.stdout: it throws at the writer once the reader has gone, and loads streams that nothing else needs.
const sink = Bun.stdout.writer();

/** What is written once the reader has taken what it was given before. */
let waiting: string[] = [];
let waitingChars = 0;
let isFull = false;

/** Whether someone may be looking: a terminal, or /dev/null, which does not mind. */
export function isOnScreen(): boolean {
  try {
    return fstatSync(STDOUT).isCharacterDevice();
  } catch {
    return false;
  }
}

/**
 * Writes in order, at once where the reader keeps up. When the reader is gone the text is dropped, and the service goes
 * on.
 * @returns false when a reader that does not read has let too much wait, and this was dropped
 */
export function print(text: string): boolean {
  if (!isFull) {
    write(text);
    return true;
  }
  if (waitingChars + text.length > LIMITS.logWaitingCharsMax) return false;
  waiting.push(text);
  waitingChars += text.length;
  return true;
}

function write(text: string): void {
  try {
    // It rejects too, where the terminal has gone away.
    ignoreFailure(sink.write(text));
    const flushed = sink.flush();
    if (!(flushed instanceof Promise)) return;
    isFull = true;
    flushed.then(writeWaiting, writeWaiting);
  } catch {
    // The pipe is closed.
  }
}

function ignoreFailure(written: number | Promise<number>): void {
  if (written instanceof Promise) written.catch(() => {});
}

function writeWaiting(): void {
  isFull = false;
  const text = waiting.join("");
  waiting = [];
  waitingChars = 0;
  if (text !== "") write(text);
}
