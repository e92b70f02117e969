/** What is mounted where, as Linux tells it. */

import { readFileSync } from "node:fs";

/**
 * Whether something is mounted exactly there. A file can be mounted by itself, and its device number does not show it.
 * @param mountInfo the text of /proc/self/mountinfo: the fifth field of a line is where it is mounted, with blanks, tabs,
 *   new lines and backslashes as three octal digits behind a backslash
 */
export function isMountPoint(mountInfo: string, path: string): boolean {
  const escaped = path.replace(
    /[ \t\n\\]/g,
    (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, "0")}`,
  );
  return mountInfo.split("\n").some((line) => line.split(" ", 5)[4] === escaped);
}

/** Empty where the system does not tell. */
export function readMountInfo(): string {
  try {
    return readFileSync("/proc/self/mountinfo", "utf8");
  } catch {
    return "";
  }
}
