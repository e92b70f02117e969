/** Standard output in a child of its own, whose reader stops, reads on, or goes away. */

import { expect, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";

const OUTPUT = `${import.meta.dir}/../../src/runtime/output.ts`;

/** Prints numbered lines of 1,000 characters until one is dropped, says how many were taken, and ends with "last". */
const FLOOD = `
  const { print } = await import(${JSON.stringify(OUTPUT)});
  let taken = 0;
  while (taken < 4_000 && print(String(taken).padEnd(999, ".") + "\\n")) taken += 1;
  process.stderr.write(taken + "\\n");
  while (!print("last\\n")) await new Promise((resume) => setTimeout(resume, 1));
`;

const child = (source: string) =>
  Bun.spawn([process.execPath, "-e", source], { stdin: "pipe", stdout: "pipe", stderr: "pipe" });

test("print lets so much wait for a reader that stops, drops the rest, and goes on in order when it reads", async () => {
  // The reader begins when it is told to.
  const script = '"$0" -e "$1" | { read -r go <&3; cat; }';
  const flood = Bun.spawn(["sh", "-c", `exec 3<&0; ${script}`, process.execPath, FLOOD], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
  });
  const stderr = flood.stderr.getReader();
  const taken = Number(new TextDecoder().decode((await stderr.read()).value));
  // What waits here, and what the pipe itself holds.
  expect(taken * 1_000).toBeWithin(LIMITS.logWaitingCharsMax, LIMITS.logWaitingCharsMax + 1_100_000);
  flood.stdin.write("read\n");
  flood.stdin.flush();
  const lines = (await new Response(flood.stdout).text()).trimEnd().split("\n");
  expect(lines.pop()).toBe("last");
  expect(lines.map(Number.parseFloat)).toEqual(Array.from({ length: taken }, (_, index) => index));
  expect(await flood.exited).toBe(0);
});

test("print bears that its reader goes away", async () => {
  const talker = child(`
    const { print } = await import(${JSON.stringify(OUTPUT)});
    print("first\\n");
    for await (const _ of process.stdin) break;
    for (let line = 0; line < 1_000; line += 1) print("nobody reads\\n");
    await new Promise((resume) => setTimeout(resume, 20));
    process.stderr.write("alive");
  `);
  const reader = talker.stdout.getReader();
  await reader.read();
  await reader.cancel();
  talker.stdin.write("go on\n");
  talker.stdin.flush();
  expect(await new Response(talker.stderr).text()).toBe("alive");
  expect(await talker.exited).toBe(0);
});
