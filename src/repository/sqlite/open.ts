/** Opens the embedded store, one SQLite file: holds it, recovers what a process before has left, connects, serves. */

import { fstatSync } from "node:fs";
import type { MessageRepository, RepositoryWorld } from "../repository.ts";
import { begin, connect, disconnect, hasLog } from "./connections.ts";
import { settleEpoch } from "./companion.ts";
import { startFault } from "./faults.ts";
import { nameOfFile, syncFolders, truePath } from "./folder.ts";
import { type Hold, hold } from "./hold.ts";
import { createSqliteRepository } from "./store.ts";

export interface SqliteWorld extends RepositoryWorld {
  /** The database file; its folder is made where it is missing. */
  readonly path: string;
}

/** Opens or makes the store. Rejects with an Error of one line for the operator when the file cannot be used. */
export async function openSqliteRepository(world: SqliteWorld): Promise<MessageRepository> {
  const { path, madeIn } = truePath(world.path);
  let held: Hold | undefined;
  try {
    held = hold(path, world.newEpoch);
    return await openHeld(held, madeIn, world);
  } catch (error) {
    held?.release();
    throw startFault(path, error);
  }
}

async function openHeld(
  held: Hold,
  madeIn: string,
  { log, newEpoch }: SqliteWorld,
): Promise<MessageRepository> {
  const { path, descriptor, companion } = held;
  const said = companion.read();
  // Before anything is copied: should this start fail in the middle, the next one must not believe it.
  if (said?.sound) companion.write({ sound: false });
  if (hasLog(path)) {
    // Loaded only where it is needed, as an orderly end leaves no log.
    const { recover } = await import("./recovery.ts");
    recover({ path, descriptor, mark: said?.log ?? null, isSound: said?.sound ?? false });
  }
  const connections = connect(held, { isVerified: false });
  try {
    const { epoch, reason } = settleEpoch(connections.writer, held, newEpoch);
    if (reason !== undefined)
      log.warn("epoch_changed", {
        kind: "sqlite",
        epoch,
        reason,
        meaning: "clients read their rooms afresh",
      });
    const isKnown = said?.epoch === epoch;
    companion.write({
      epoch,
      file: nameOfFile(fstatSync(descriptor)),
      sound: false,
      // Of another epoch, or of a store that is gone, it says nothing.
      ...(isKnown ? {} : { last: null }),
    });
    await begin(connections, held, isKnown ? undefined : epoch).catch((error) => {
      throw new Error(`SQLite file ${path} cannot be written (${(error as Error).message})`);
    });
    syncFolders(path, madeIn);
    return createSqliteRepository({ log, hold: held, connections, epoch });
  } catch (error) {
    await disconnect(connections);
    throw error;
  }
}
