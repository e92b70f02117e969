/** Reads a write-ahead log as SQLite's recovery would: https://sqlite.org/fileformat2.html#the_write_ahead_log */

import { closeSync, openSync, readSync } from "node:fs";

const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const MAGIC_LITTLE = 0x377f0682;
const MAGIC_BIG = 0x377f0683;

/** How many frames of the log, from its beginning, are what was once written: salts and running checksums agree. */
export function intactFrames(path: string): number {
  const descriptor = openSync(path, "r");
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    if (readSync(descriptor, header, 0, HEADER_BYTES, 0) < HEADER_BYTES) return 0;
    const magic = header.readUInt32BE(0);
    if (magic !== MAGIC_LITTLE && magic !== MAGIC_BIG) return 0;
    const sum = checksum(magic === MAGIC_LITTLE);
    sum.add(header, 0, 24);
    if (!sum.agrees(header, 24)) return 0;
    const frame = Buffer.alloc(FRAME_HEADER_BYTES + header.readUInt32BE(8));
    for (let frames = 0, at = HEADER_BYTES; ; frames++, at += frame.length) {
      if (readSync(descriptor, frame, 0, frame.length, at) < frame.length) return frames;
      // The salts of the log's present life.
      if (header.compare(frame, 8, 16, 16, 24) !== 0) return frames;
      sum.add(frame, 0, 8);
      sum.add(frame, FRAME_HEADER_BYTES, frame.length);
      if (!sum.agrees(frame, 16)) return frames;
    }
  } finally {
    closeSync(descriptor);
  }
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
