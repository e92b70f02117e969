/** A copy of the program with a defect in it. */

import { cp, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";

export interface Edit {
  readonly file: string;
  /** Must stand there exactly once. */
  readonly from: string;
  readonly to: string;
}

const ROOT = resolve(import.meta.dir, "../../..");

/** The command that runs a copy with the edits made. Throws when the source does not have what an edit replaces, exactly once. */
export async function planted(folder: string, edits: readonly Edit[]): Promise<readonly string[]> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder);
  for (const entry of ["src", "package.json", "tsconfig.json"])
    await cp(join(ROOT, entry), join(folder, entry), { recursive: true });
  await symlink(join(ROOT, "node_modules"), join(folder, "node_modules"));
  for (const { file, from, to } of edits) {
    const path = join(folder, file);
    const text = await readFile(path, "utf8");
    const count = text.split(from).length - 1;
    if (count !== 1) throw new Error(`${file} has this ${count} times, a mutation needs it once:\n${from}`);
    await writeFile(
      path,
      text.replace(from, () => to),
    );
  }
  return [process.execPath, join(folder, "src/main.ts")];
}
