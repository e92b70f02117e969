import { expect, test } from "bun:test";

const TERMINAL = `${import.meta.dir}/../../src/runtime/terminal.ts`;
const ASKING = `
  const { hasTerminal } = await import(${JSON.stringify(TERMINAL)});
  process.stderr.write(String(hasTerminal()));
`;

/** What a program says whose standard input and output are these; its error output is a pipe. */
async function asked(redirections: string, isOnTerminal: boolean): Promise<string> {
  const answer = `${process.env.TMPDIR ?? "/tmp"}/chat-terminal-${Bun.randomUUIDv7()}`;
  const child = Bun.spawn(
    ["sh", "-c", `"$0" -e "$1" ${redirections} 2>"$2"`, process.execPath, ASKING, answer],
    isOnTerminal ? { terminal: {} } : { stdin: "ignore", stdout: "pipe" },
  );
  await child.exited;
  const said = await Bun.file(answer).text();
  await Bun.file(answer).delete();
  return said;
}

test.each([
  ["a terminal", "", true, "true"],
  ["a terminal to read from only", ">/dev/null", true, "true"],
  ["a terminal to write to only", "</dev/null", true, "true"],
  ["no terminal on one, as under nohup", "</dev/null >/dev/null", true, "false"],
  ["/dev/null and a pipe", "", false, "false"],
  ["closed descriptors", "<&- >&-", false, "false"],
])("hasTerminal knows %s", async (_, redirections, isOnTerminal, expected) => {
  expect(await asked(redirections, isOnTerminal)).toBe(expected);
});
