/**
 * A restore that puts its store in place changes several names, and its process may die between any two of them. A note beside the
 * store says what was begun: the next start, or the next restore, finishes it or undoes it.
 */

import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { parseEpoch } from "../../domain/ids.ts";
import { readAlone } from "./alone.ts";
import type { Companion } from "./companion.ts";
import { isSameFile, nameOfFile, syncFolder } from "./folder.ts";

/** The rename of the new store into its place decides: before it the former store stays, after it the new one does. */
interface Restoring {
  /** The new store's: no other store has it. */
  readonly epoch: string;
  /** The second name of the store that was there, in the same folder; its log has the same with -wal. */
  readonly former: string | undefined;
}

const SIDECARS = ["-journal", "-wal", "-shm"];
const noteOf = (path: string) => `${path}-restoring`;

/** Removes a database file and what lies beside it. */
export function removeStore(path: string): void {
  for (const suffix of ["", ...SIDECARS]) rmSync(path + suffix, { force: true });
}

/** To be called before a name is changed. The note is on disk when it returns. */
export function beginRestoring(path: string, epoch: string, former: string | undefined): void {
  const said: Restoring = { epoch, former: former === undefined ? undefined : basename(former) };
  const made = `${noteOf(path)}-making`;
  const descriptor = openSync(made, "w", 0o600);
  try {
    writeSync(descriptor, JSON.stringify(said));
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(made, noteOf(path));
  syncFolder(dirname(path));
}

/**
 * Finishes or undoes the restore of which there is a note; does nothing without one. The caller holds the store's name, and nothing
 * has the store open.
 */
export function settleRestoring(path: string, companion: Companion): void {
  if (!existsSync(noteOf(path))) return;
  const { epoch, former } = JSON.parse(readFileSync(noteOf(path), "utf8")) as Restoring;
  if (epochOf(path) === epoch) finish(path, epoch, companion);
  else if (former !== undefined) undo(path, join(dirname(path), former));
  // Without the note nothing would remove a name that came back.
  syncFolder(dirname(path));
  // The store's next log must not be made before this is on disk: a note that came back would have it removed.
  rmSync(noteOf(path));
  syncFolder(dirname(path));
}

const epochOf = (path: string) =>
  readAlone(path, (store) => parseEpoch(String(store.query("SELECT epoch FROM store").values()[0]?.[0])));

function finish(path: string, epoch: string, companion: Companion): void {
  // The former store keeps its log under its old name until the new store is in its place for good.
  syncFolder(dirname(path));
  for (const suffix of SIDECARS) rmSync(path + suffix, { force: true });
  companion.begin({ epoch, file: nameOfFile(statSync(path)) });
}

/** The store that was there still has its name and its log: only second names go, and what was made. */
function undo(path: string, former: string): void {
  for (const suffix of ["", "-wal"]) {
    const [kept, own] = [former + suffix, path + suffix].map((name) =>
      statSync(name, { throwIfNoEntry: false }),
    );
    if (kept !== undefined && own !== undefined && isSameFile(kept, own)) rmSync(former + suffix);
  }
  removeStore(`${path}-making`);
}
