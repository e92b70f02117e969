/** Which mount an open file belongs to, as Linux tells it. */

import { readFileSync } from "node:fs";

/**
 * The number of the mount through which the file was opened; undefined where the system does not tell. A file that is mounted
 * by itself has another one than its folder, which their device numbers do not show.
 */
export function mountIdOf(descriptor: number): number | undefined {
  try {
    return parseMountId(readFileSync(`/proc/self/fdinfo/${descriptor}`, "latin1"));
  } catch {
    return undefined;
  }
}

/** @param fdInfo the text of /proc/self/fdinfo/N */
export function parseMountId(fdInfo: string): number | undefined {
  const id = /^mnt_id:\s*(\d+)$/m.exec(fdInfo)?.[1];
  return id === undefined ? undefined : Number(id);
}
