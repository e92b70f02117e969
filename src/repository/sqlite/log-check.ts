/** Reads a write-ahead log as SQLite's recovery would: https://sqlite.org/fileformat2.html#the_write_ahead_log */

import { closeSync, fdatasyncSync, openSync, readSync, writeSync } from "node:fs";

const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const MAGIC_LITTLE = 0x377f0682;
const MAGIC_BIG = 0x377f0683;

/** How many frames of the log, from its beginning, are what was once written: salts and running checksums agree. */
export function intactFrames(path: string): number {
  const descriptor = openSync(path, "r");
  try {
    let frames = 0;
    for (const _ of readFrames(descriptor)) frames++;
    return frames;
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Writes again what a disk may have lost and the kernel taken for written: the log's first `frames` frames in their
 * place, and into the database file the pages that were copied from the first `copied` of them; then syncs both. To
 * readers nothing changes: each byte is the one that is meant to be there.
 * @param file descriptor of the database file; nobody may copy frames into it, or restart the log, meanwhile
 * @returns how many frames were intact; when they are fewer than `frames` the file is as it was
 */
export function rewriteLog(path: string, frames: number, copied: number, file: number): number {
  const log = openSync(path, "r+");
  try {
    let intact = 0;
    let pagesMax = 0;
    /** The last frame of each page, by its place in the log. */
    const pages = new Map<number, number>();
    for (const { at, frame } of readFrames(log)) {
      if (intact === frames) break;
      if (++intact > copied) continue;
      pages.set(frame.readUInt32BE(0), at + FRAME_HEADER_BYTES);
      // Only a transaction's last frame says how many pages the file has after it.
      pagesMax = frame.readUInt32BE(4) || pagesMax;
    }
    if (intact < frames) return intact;
    const header = Buffer.alloc(HEADER_BYTES);
    if (frames > 0 && readSync(log, header, 0, HEADER_BYTES, 0) === HEADER_BYTES) {
      writeWhole(log, header, 0);
      let written = 0;
      for (const { at, frame } of readFrames(log)) {
        if (written === frames) break;
        writeWhole(log, frame, at);
        written++;
      }
      if (written < frames) return written;
    }
    fdatasyncSync(log);
    const page = Buffer.alloc(header.readUInt32BE(8));
    for (const [number, at] of pages) {
      if (number > pagesMax || readSync(log, page, 0, page.length, at) < page.length) continue;
      writeWhole(file, page, (number - 1) * page.length);
    }
    fdatasyncSync(file);
    return intact;
  } finally {
    closeSync(log);
  }
}

/** The intact frames from the log's beginning, each with its header, in one buffer that the next one overwrites. */
function* readFrames(log: number): Generator<{ readonly at: number; readonly frame: Buffer }> {
  const header = Buffer.alloc(HEADER_BYTES);
  if (readSync(log, header, 0, HEADER_BYTES, 0) < HEADER_BYTES) return;
  const magic = header.readUInt32BE(0);
  if (magic !== MAGIC_LITTLE && magic !== MAGIC_BIG) return;
  const sum = checksum(magic === MAGIC_LITTLE);
  sum.add(header, 0, 24);
  if (!sum.agrees(header, 24)) return;
  const frame = Buffer.alloc(FRAME_HEADER_BYTES + header.readUInt32BE(8));
  for (let at = HEADER_BYTES; ; at += frame.length) {
    if (readSync(log, frame, 0, frame.length, at) < frame.length) return;
    // The salts of the log's present life.
    if (header.compare(frame, 8, 16, 16, 24) !== 0) return;
    sum.add(frame, 0, 8);
    sum.add(frame, FRAME_HEADER_BYTES, frame.length);
    if (!sum.agrees(frame, 16)) return;
    yield { at, frame };
  }
}

function writeWhole(descriptor: number, bytes: Buffer, at: number): void {
  for (let done = 0; done < bytes.length;)
    done += writeSync(descriptor, bytes, done, bytes.length - done, at + done);
}

/** The format's checksum, which runs on from frame to frame; words in the writer's byte order, itself kept big-endian. */
function checksum(little: boolean) {
  let [first, second] = [0, 0];
  return {
    add(bytes: Buffer, from: number, to: number) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      for (let at = from; at < to; at += 8) {
        first = (first + view.getUint32(at, little) + second) >>> 0;
        second = (second + view.getUint32(at + 4, little) + first) >>> 0;
      }
    },
    agrees: (bytes: Buffer, at: number) =>
      bytes.readUInt32BE(at) === first && bytes.readUInt32BE(at + 4) === second,
  };
}
