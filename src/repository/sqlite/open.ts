/** Opens the embedded store, one SQLite file: its lock, its connections, and what a killed process left behind. */

import { Database } from "bun:sqlite";
import { closeSync, openSync, statSync } from "node:fs";
import type { Epoch } from "../../domain/ids.ts";
import { parseEpoch } from "../../domain/ids.ts";
import { assert } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import type { MessageRepository, RepositoryWorld } from "../repository.ts";
import { createSqliteRepository } from "./store.ts";
import { isBusy, startFault } from "./faults.ts";
import { syncFolders, truePath } from "./folder.ts";
import { lockFile } from "./lock.ts";
import { makeStore } from "./making.ts";
import { migrate, TOUCH, writeEpoch } from "./schema.ts";
import { LOOP_BUSY_MS, openWal, type Wal } from "./wal.ts";

export interface SqliteWorld extends RepositoryWorld {
  /** The database file; its folder is made where it is missing. */
  readonly path: string;
}

/** Opens or makes the store. Rejects with an Error of one line for the operator when the file cannot be used. */
export async function openSqliteRepository(world: SqliteWorld): Promise<MessageRepository> {
  const { path, madeIn } = truePath(world.path);
  let lock: ReturnType<typeof lockFile>;
  try {
    lock = lockFile(path);
  } catch (error) {
    throw startFault(path, error);
  }
  let writer: Database | undefined;
  let reader: Database | undefined;
  // Closing any descriptor of the file drops the POSIX locks that this process holds on it, so this one outlives every
  // connection.
  let descriptor: number | undefined;
  /** The last connection that closes copies and removes the log if it may write: the reader may not. */
  const letGo = ({ keepLog }: { keepLog: boolean }) => {
    for (const database of keepLog ? [writer, reader] : [reader, writer]) database?.close();
    if (descriptor !== undefined) closeSync(descriptor);
    lock.release();
  };
  try {
    makeStore(path, world.newEpoch());
    writer = openWriter(path);
    const epoch = epochOf(writer, world.newEpoch);
    descriptor = openSync(path, "r+");
    reader = new Database(path, { readonly: true });
    reader.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
    const wal = openWal(writer, path, descriptor);
    await beginLog(wal, writer).catch(async (error) => {
      await wal.leave();
      throw new Error(`SQLite file ${path} cannot be written (${(error as Error).message})`);
    });
    syncFolders(path, madeIn);
    return createSqliteRepository({ log: world.log, path, descriptor, letGo, writer, reader, wal, epoch });
  } catch (error) {
    letGo({ keepLog: true });
    throw startFault(path, error);
  }
}

/**
 * What a killed process left in the log was committed but perhaps never synced: nobody may see it before it is. Of what
 * was copied from it a sync may have failed; SQLite copies it again, but not where a foreign process has held the file
 * open all the while.
 */
async function beginLog(wal: Wal, writer: Database): Promise<void> {
  // The usual start: nobody waits for the worker, which a program that has just begun is slow to start.
  if (!wal.isPartlyCopied()) {
    writeHeader(writer);
    return wal.sync();
  }
  await wal.mend();
  await wal.finish().catch((error) => {
    if (!isBusy(error)) throw error;
    return wal.sync();
  });
}

/**
 * An empty log's first commit writes its header and syncs it, on the event loop: so it is made before anybody waits, and
 * synced with the rest. Nothing was copied from this log, so that no frames of a former life stand behind the header.
 */
function writeHeader(writer: Database): void {
  writer.run("PRAGMA synchronous = OFF");
  try {
    writer.run(TOUCH);
  } catch {
    // A disk that is full, or somebody's lock: what is there can be read, and the first commit writes the header.
  } finally {
    writer.run("PRAGMA synchronous = NORMAL");
  }
}

function openWriter(path: string): Database {
  const writer = new Database(path, { create: true, readwrite: true });
  try {
    writer.run(`PRAGMA busy_timeout = ${LIMITS.storeTimeoutMs}`);
    if (statSync(path).size <= LIMITS.verifiedAtStartBytes) {
      const verdict = writer.query("PRAGMA quick_check(1)").values()[0]?.[0];
      if (verdict !== "ok") throw new Error(`SQLite file ${path} is corrupt`);
    }
    const mode = writer.query("PRAGMA journal_mode = WAL").values()[0]?.[0];
    if (mode !== "wal") throw new Error(`SQLite file ${path} cannot have a write-ahead log where it lies`);
    writer.run("PRAGMA wal_autocheckpoint = 0");
    migrate(writer, path);
    // NORMAL syncs a restarted log's header before frames follow it, and nothing else on a commit: that is ours to do.
    writer.run("PRAGMA synchronous = NORMAL");
    writer.run(`PRAGMA busy_timeout = ${LOOP_BUSY_MS}`);
    return writer;
  } catch (error) {
    writer.close();
    throw error;
  }
}

function epochOf(writer: Database, newEpoch: () => Epoch): Epoch {
  writeEpoch(writer, newEpoch());
  const epoch = parseEpoch(String(writer.query("SELECT epoch FROM store").values()[0]?.[0]));
  assert(epoch !== undefined, "the store's epoch is one");
  return epoch;
}
