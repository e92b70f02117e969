/** Where the embedded store's file lies: its one true path, and a name that is durable. */

import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  type Stats,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { OperatorFault } from "./faults.ts";

/**
 * Makes the folder, and gives the file's one true path, so that two names of one file meet at one lock. The folder and the
 * file are made for their owner only.
 * @returns `madeIn`: the folder in which the first missing one was made; the file's own where none was missing
 */
export function truePath(asked: string): { readonly path: string; readonly madeIn: string } {
  const path = resolve(asked);
  try {
    const made = mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    if (!existsSync(path)) makeFile(path);
    const truly = existsSync(path) ? realpathSync(path) : join(realpathSync(dirname(path)), basename(path));
    // A new store takes the place of an empty file: it must never take that of a device, which looks as empty.
    if (statSync(truly, { throwIfNoEntry: false })?.isFile() === false)
      throw new OperatorFault("is a folder, a device or a pipe: it must be the path of a file");
    return { path: truly, madeIn: realpathSync(dirname(made ?? path)) };
  } catch (error) {
    if (error instanceof OperatorFault) throw new Error(`SQLite file ${path} ${error.message}`);
    throw new Error(
      `SQLite file ${path}: its folder cannot be made (${(error as NodeJS.ErrnoException).code})`,
    );
  }
}

/** A link that points at nothing yet has no true path before there is a file. */
function makeFile(path: string): void {
  try {
    closeSync(openSync(path, "a", 0o600));
  } catch {
    // The opening that follows says why.
  }
}

/** Inodes are numbered by each file system for itself. A device has its number until it is mounted again, or the machine starts. */
export const isSameFile = (one: FileIdentity, other: FileIdentity): boolean =>
  one.ino === other.ino && one.dev === other.dev;

type FileIdentity = Pick<Stats, "dev" | "ino">;

/** What tells a file from each other one of its file system, also from one that gets its inode later. No birth is 0. */
export const nameOfFile = ({ ino, birthtimeMs }: Pick<Stats, "ino" | "birthtimeMs">): string =>
  `${ino}-${birthtimeMs}`;

/** @throws OperatorFault when the log could not be made beside the file */
export function checkFolder(path: string): void {
  try {
    accessSync(dirname(path), constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new OperatorFault(
      `cannot be written: its folder ${dirname(path)} is not writable (${code}), and its log must lie beside it`,
    );
  }
}

/**
 * @param descriptor of the file
 * @throws OperatorFault when the file is mounted by itself: others who mount it would not find the log beside it
 */
export function checkMount(path: string, descriptor: number): void {
  const folder = dirname(path);
  if (withFolder(folder, mountIdOf) === mountIdOf(descriptor)) return;
  throw new OperatorFault(
    `is mounted without its folder, and its log must lie beside it: mount the folder instead, as in -v ./data:${folder}`,
  );
}

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

/** A new file's name is durable only once its folder is, and a new folder's once the one above it is. */
export function syncFolders(path: string, madeIn: string): void {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    syncFolder(folder);
    if (folder === madeIn || folder === dirname(folder) || !folder.startsWith(madeIn)) return;
  }
}

export const syncFolder = (folder: string): void => withFolder(folder, fsyncSync);

function withFolder<T>(folder: string, work: (descriptor: number) => T): T {
  const descriptor = openSync(folder, "r");
  try {
    return work(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
