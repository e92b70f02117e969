/** The other half of power-faults.c: what the files of the database are after a power failure, or when an operator put them there. */

import { copyFile, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** Decides, for each thing that no good sync followed, whether the power failure takes it back. */
export interface Loss {
  /** @param index its place among the `of` pages of its file that are unsynced, by their places in the file */
  page(index: number, of: number): boolean;
  /** A file's size, where it was changed: cut, or made longer. */
  size(): boolean;
  /** A file that was made, renamed or removed: its name is then as the folder's last good sync left it. */
  name(): boolean;
}

export interface Lost {
  /** How many pages, sizes and names were taken back, and how many could have been. */
  readonly taken: number;
  readonly unsynced: number;
  /** Of how many of the files it is known what was synced. */
  readonly images: number;
}

const PAGE_BYTES = 4_096;

/** As in power-faults.c. */
const isDatabase = (name: string) => name.startsWith("chat.db") && !name.endsWith("-shm");

async function keyOf(path: string): Promise<string> {
  const { ino, birthtimeNs } = await stat(path, { bigint: true });
  const second = 1_000_000_000n;
  return `${ino}-${birthtimeNs / second}.${String(birthtimeNs % second).padStart(9, "0")}`;
}

/** The names of the database's files in the folder, with their keys. */
async function filesOf(folder: string): Promise<Map<string, string>> {
  const names = (await readdir(folder)).filter(isDatabase).toSorted();
  return new Map(
    await Promise.all(names.map(async (name) => [name, await keyOf(join(folder, name))] as const)),
  );
}

const bytesOf = async (path: string): Promise<Buffer> =>
  (await stat(path).catch(() => null)) === null ? Buffer.alloc(0) : readFile(path);

/** Takes back what the loss says. Nobody may have the files open any more. */
export async function failPower(folder: string, model: string, loss: Loss): Promise<Lost> {
  let [taken, unsynced, images] = [0, 0, 0];
  const takes = (isTaken: boolean): boolean => {
    unsynced += 1;
    if (isTaken) taken += 1;
    return isTaken;
  };
  const files = await filesOf(folder);
  const durable = await namesOf(model);
  for (const name of new Set([...files.keys(), ...durable.keys()])) {
    const [key, formerly] = [files.get(name), durable.get(name)];
    if (key === formerly || !takes(loss.name())) continue;
    await rm(join(folder, name), { force: true });
    if (formerly !== undefined)
      await writeFile(join(folder, name), await bytesOf(join(model, `${formerly}.image`)));
    files.delete(name);
  }
  for (const [name, key] of files) {
    const path = join(folder, name);
    const [now, image] = await Promise.all([readFile(path), bytesOf(join(model, `${key}.image`))]);
    if (image.length > 0) images += 1;
    const left = leftOf(now, image, loss, takes);
    if (!left.equals(now)) await writeFile(path, left);
  }
  await rm(join(folder, "chat.db-shm"), { force: true });
  await settle(folder, model);
  return { taken, unsynced, images };
}

/** Each page as it was written last, or as it was synced last. */
function leftOf(now: Buffer, image: Buffer, loss: Loss, takes: (isTaken: boolean) => boolean): Buffer {
  const bytes = Math.max(now.length, image.length);
  // What was never written reads as zeros.
  const [newer, older] = [now, image].map((one) => Buffer.concat([one], bytes)) as [Buffer, Buffer];
  const left = Buffer.from(older);
  const endOf = (at: number) => Math.min(bytes, at + PAGE_BYTES);
  const unsynced: number[] = [];
  // Behind the end of a file that was cut there is nothing newer: the size decides.
  for (let at = 0; at < now.length; at += PAGE_BYTES)
    if (newer.compare(older, at, endOf(at), at, endOf(at)) !== 0) unsynced.push(at);
  for (const [index, at] of unsynced.entries())
    if (!takes(loss.page(index, unsynced.length))) newer.copy(left, at, at, endOf(at));
  const isCut = now.length !== image.length && takes(loss.size());
  return left.subarray(0, isCut ? image.length : now.length);
}

/** What the folder held at its last good sync. */
async function namesOf(model: string): Promise<Map<string, string>> {
  const lines = (await bytesOf(join(model, "names"))).toString().split("\n").filter(Boolean);
  return new Map(
    lines.map((line) => {
      const [key = "", ...name] = line.split(" ");
      return [name.join(" "), key] as const;
    }),
  );
}

/** From now on all that is there is on the disk: the power has come back, or an operator put files there and synced them. */
export async function settle(folder: string, model: string): Promise<void> {
  for (const name of await readdir(model)) if (name !== "turn") await rm(join(model, name));
  const files = await filesOf(folder);
  for (const [name, key] of files) await copyFile(join(folder, name), join(model, `${key}.image`));
  await writeFile(join(model, "names"), [...files].map(([name, key]) => `${key} ${name}\n`).join(""));
}
