/** Installs what a peer needs into the cache folder, once, and again when what was asked for has changed. */

import { mkdir, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ownProcess } from "../belongings.ts";

/** All that peers install lies here; nothing else on the machine is changed, but for the package managers' own caches. */
export const CACHE = resolve(import.meta.dir, "../../../../.cache/bench-peers");

/** Why a peer cannot take part, in words for the person who runs the bench. */
export class LeftOut extends Error {}

/** What the command printed, trimmed. Rejects with LeftOut where it is missing or fails. */
export async function output(command: readonly string[], advice: string, cwd?: string): Promise<string> {
  let said: string;
  try {
    const child = ownProcess(
      Bun.spawn([...command], {
        ...(cwd !== undefined && { cwd }),
        ...{ stdin: "ignore", stdout: "pipe", stderr: "pipe" },
      }),
    );
    const [printed, errors, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    if (code === 0) return printed.trim();
    said = telling(`${printed}\n${errors}`) ?? `exit ${code}`;
  } catch (error) {
    // The program itself is missing.
    said = error instanceof Error ? error.message : String(error);
  }
  throw new LeftOut(`${advice} (${said})`);
}

/** Of what a failing command said, the line that tells most: the first error, or the last line. */
function telling(text: string): string | undefined {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.find((line) => /error/i.test(line) && !/^\s*throw /.test(line)) ?? lines.at(-1);
}

/**
 * Fills `.cache/bench-peers/NAME` by `install` unless it was filled from the same: the files of its source folder that
 * say what to install, and the runtime. Gives the folder.
 */
export async function installed(
  name: string,
  from: { readonly runtime: string; readonly files: readonly string[] },
  install: (folder: string) => Promise<void>,
): Promise<string> {
  const folder = join(CACHE, name);
  const texts = await Promise.all(from.files.map((file) => Bun.file(file).text()));
  const wanted = new Bun.CryptoHasher("sha256").update([from.runtime, ...texts].join("\0")).digest("hex");
  const marker = Bun.file(join(folder, "installed.txt"));
  if ((await marker.exists()) && (await marker.text()) === wanted) return folder;
  process.stderr.write(`installing ${name}, once\n`);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await install(folder);
  // Written last, so that what was half installed is installed again.
  await Bun.write(marker, wanted);
  return folder;
}
