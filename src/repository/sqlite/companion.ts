/**
 * The store's companion: one record in the file that is locked beside it. It says how far the store was, so that a store
 * that was put back, or copied, is told from the one that went on.
 */

import type { Database } from "bun:sqlite";
import { fdatasync, fdatasyncSync, fstatSync, readSync, writeSync } from "node:fs";
import { type Epoch, parseEpoch } from "../../domain/ids.ts";
import { assert } from "../../errors.ts";
import { nameOfFile } from "./folder.ts";
import type { Hold } from "./hold.ts";
import { SEQ_BITS, writeEpoch, writeHasCompanion } from "./schema.ts";

/** What the companion says. */
export interface CompanionRecord {
  readonly epoch: string;
  /**
   * The inode of the database file and the time of its birth: a copy has others. The number of its device is left out, as it may
   * change whenever the machine starts or the file system is mounted: each time the store would get a new epoch for nothing.
   */
  readonly file: string;
  /** The newest message that was on disk, by the store's own number of its room. */
  readonly last: { readonly room: number; readonly seq: number; readonly id: string } | null;
  readonly log: LogMark | null;
  /** The last process ended in order, and left a log because a foreign process read it: the log and the file were synced. */
  readonly sound: boolean;
}

/** The write-ahead log, and the file on which it builds. */
export interface LogMark {
  /** Bytes 16 to 24 of the log's header, which differ in every log. */
  readonly salts: string;
  /** `wal_restarts` in the file when this log began. */
  readonly number: number;
  /** The file's schema cookie then: every VACUUM, and so a backup by VACUUM INTO, changes it. */
  readonly cookie: number;
  /** The file has all of this log already: what lies under its name is an old copy. */
  readonly ended: boolean;
}

/** The salts of an open log: https://sqlite.org/fileformat2.html#walformat */
export function readSalts(descriptor: number): string {
  const salts = Buffer.alloc(8);
  readSync(descriptor, salts, 0, salts.length, 16);
  return salts.toString("hex");
}

export interface Companion {
  /** What it says; null when it says nothing that can be read. */
  read(): CompanionRecord | null;
  /** Changes some of what it says, in microseconds and not yet on disk. Throws what the system threw. */
  write(changes: Partial<CompanionRecord>): void;
  /** Has it say of a store that has no message since, and puts that on disk before it returns. Throws what the system threw. */
  begin(store: Pick<CompanionRecord, "epoch" | "file">): void;
  sync(): Promise<void>;
}

/** One write of less than a disk's sector: there is the old record or the new one, and the checksum tells. */
const RECORD_BYTES = 512;
const CHECKSUM_CHARS = 16;

const checksum = (text: string) => Bun.hash(text).toString(16).padStart(CHECKSUM_CHARS, "0");

/** @param descriptor of the locked file, may be written; the caller closes it */
export function createCompanion(descriptor: number): Companion {
  let record = readRecord(descriptor);
  function write(changes: Partial<CompanionRecord>) {
    record = { ...EMPTY, ...record, ...changes };
    const text = JSON.stringify(record);
    const bytes = Buffer.alloc(RECORD_BYTES, " ");
    // A record never grows that long: its epoch and id have at most 64 characters each, the rest are numbers.
    bytes.write(`${checksum(text)} ${text}`);
    bytes.write("\n", RECORD_BYTES - 1);
    writeSync(descriptor, bytes, 0, RECORD_BYTES, 0);
  }
  return {
    read: () => record,
    write,
    begin(store) {
      write({ ...EMPTY, ...store });
      fdatasyncSync(descriptor);
    },
    sync: () =>
      new Promise((resolve, reject) => fdatasync(descriptor, (error) => (error ? reject(error) : resolve()))),
  };
}

const EMPTY: CompanionRecord = { epoch: "", file: "", last: null, log: null, sound: false };

function readRecord(descriptor: number): CompanionRecord | null {
  if (fstatSync(descriptor).size === 0) return null;
  const bytes = Buffer.alloc(RECORD_BYTES);
  const text = bytes.toString("utf8", 0, readSync(descriptor, bytes, 0, RECORD_BYTES, 0)).trimEnd();
  const record = text.slice(CHECKSUM_CHARS + 1);
  if (record === "" || checksum(record) !== text.slice(0, CHECKSUM_CHARS)) return null;
  return JSON.parse(record) as CompanionRecord;
}

export interface SettledEpoch {
  readonly epoch: Epoch;
  /** Why it is a new one; undefined where it is not. */
  readonly reason: string | undefined;
}

/**
 * Compares the store with its companion. A store that has no epoch yet gets one, and the companion's record before it. A file
 * that does not say yet that it has a companion gets to say so, once the companion has a record.
 */
export function settleEpoch(
  writer: Database,
  { descriptor, companion }: Hold,
  newEpoch: () => Epoch,
): SettledEpoch {
  const look = () => writer.query("SELECT epoch, has_companion FROM store").values()[0];
  const file = nameOfFile(fstatSync(descriptor));
  if (look() === undefined) {
    const first = newEpoch();
    // What the companion says is of a store that is gone.
    companion.begin({ epoch: first, file });
    writeEpoch(writer, first);
  }
  const [name, hasCompanion] = look() as [string, number];
  const epoch = parseEpoch(name);
  assert(epoch !== undefined, "the store's epoch is one");
  const said = companion.read();
  // A store that was made before there were companions, and has been opened since by no program that knows them.
  const hasNone = hasCompanion === 0 && said === null;
  const reason = hasNone ? undefined : breach(writer, epoch, file, said);
  if (hasNone) companion.begin({ epoch, file });
  // Until it stands in the file itself, a copy of the file, or the file without its log, would be taken for such an old store.
  if (hasCompanion === 0) writeHasCompanion(writer);
  return { epoch: reason === undefined ? epoch : newEpoch(), reason };
}

/** Why the store is not the one that its companion went with; undefined where it is. */
function breach(
  writer: Database,
  epoch: Epoch,
  file: string,
  said: CompanionRecord | null,
): string | undefined {
  if (said === null) return "the companion is missing or cannot be read: the file may be a copy";
  if (said.epoch !== epoch) return "the companion is of another epoch";
  if (said.file !== file) return "the companion went with another file: this one is a copy";
  if (said.last === null) return undefined;
  const { room, seq, id } = said.last;
  const [newest] = writer.query("SELECT seq FROM rooms WHERE id = ?1").values(room);
  if (Number(newest?.[0] ?? 0) < seq)
    return "the store lacks messages that were acknowledged: it is an older copy";
  // Retention may have removed it.
  const [there] = writer
    .query(`SELECT id FROM messages WHERE place = (?1 << ${SEQ_BITS}) | ?2`)
    .values(room, seq);
  if (there !== undefined && there[0] !== id) return "the store has other messages than were acknowledged";
  return undefined;
}
