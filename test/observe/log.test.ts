import { expect, test } from "bun:test";
import { createLog, type LogLevel } from "../../src/observe/log.ts";

function logged(level: LogLevel, pretty: boolean) {
  const lines: string[] = [];
  const log = createLog({
    level,
    pretty,
    write: (line) => lines.push(line),
    now: () => Date.UTC(2026, 0, 31, 9, 5),
  });
  return { log, lines };
}

test("createLog writes one JSON line per event, errors with their cause", () => {
  const { log, lines } = logged("info", false);
  log.info("listening", { port: 8000 });
  log.error("failed", { error: new Error("outer", { cause: new Error("inner\nline") }) });
  expect(lines).toHaveLength(2);
  expect(lines.every((line) => line.indexOf("\n") === line.length - 1)).toBe(true);
  expect(JSON.parse(lines[0] ?? "")).toEqual({
    time: "2026-01-31T09:05:00.000Z",
    level: "info",
    event: "listening",
    port: 8000,
  });
  expect(JSON.parse(lines[1] ?? "").error).toContain("outer");
  expect(JSON.parse(lines[1] ?? "").error).toContain("inner");
});

test("createLog keeps quiet below its level", () => {
  const { log, lines } = logged("warn", false);
  log.debug("a");
  log.info("b");
  log.warn("c");
  log.error("d");
  expect(lines.map((line) => JSON.parse(line).event)).toEqual(["c", "d"]);
});

test("createLog is readable on a terminal", () => {
  const { log, lines } = logged("info", true);
  log.info("listening", { url: "http://localhost:8000", port: 8000 });
  expect(lines).toEqual(["09:05:00 info  listening url=http://localhost:8000 port=8000\n"]);
});

test("createLog says how many lines were dropped before the first that is taken again", () => {
  const lines: string[] = [];
  let isFull = false;
  const write = (line: string) => !isFull && lines.push(line) > 0;
  const log = createLog({ level: "info", pretty: false, write, now: () => 0 });
  log.info("a");
  isFull = true;
  log.info("b");
  log.debug("not said anyway");
  log.error("c");
  isFull = false;
  log.info("d");
  log.info("e");
  expect(lines.map((line) => JSON.parse(line)).map(({ event, lines: count }) => [event, count])).toEqual([
    ["a", undefined],
    ["log_lines_dropped", 2],
    ["d", undefined],
    ["e", undefined],
  ]);
});
