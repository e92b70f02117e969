/** The store's epoch: kept as long as the store goes on from where it was, and a new one where it does not. */

import type { Database } from "bun:sqlite";
import { fstatSync } from "node:fs";
import { type Epoch, parseEpoch } from "../../domain/ids.ts";
import { assert } from "../../errors.ts";
import type { CompanionRecord } from "./companion.ts";
import type { Hold } from "./hold.ts";
import { SEQ_BITS, writeEpoch } from "./schema.ts";

export interface SettledEpoch {
  readonly epoch: Epoch;
  /** Why it is a new one; undefined where it is not. */
  readonly reason: string | undefined;
}

/** Compares the store with its companion. Writes nothing but a name for a store without one. */
export function settleEpoch(
  writer: Database,
  { descriptor, companion }: Hold,
  newEpoch: () => Epoch,
): SettledEpoch {
  const look = () => writer.query("SELECT epoch, has_companion FROM store").values()[0];
  if (look() === undefined) writeEpoch(writer, newEpoch());
  const [name, hasCompanion] = look() as [string, number];
  const epoch = parseEpoch(name);
  assert(epoch !== undefined, "the store's epoch is one");
  // One that was made before there were companions is taken as it is.
  const reason =
    hasCompanion === 0 ? undefined : breach(writer, epoch, fstatSync(descriptor).ino, companion.read());
  return { epoch: reason === undefined ? epoch : newEpoch(), reason };
}

/** Why the store is not the one that its companion went with; undefined where it is. */
function breach(
  writer: Database,
  epoch: Epoch,
  file: number,
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
