/** The log: pretty on a terminal, else one JSON line per event. Values are facts, never sentences. */

const LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LEVELS)[number];
export const LOG_LEVELS: readonly LogLevel[] = LEVELS;

export type Facts = Record<string, unknown>;

/** One method a level; `event` is a snake_case name, `facts` what it was about. */
export type Log = Record<LogLevel, (event: string, facts?: Facts) => void>;

export interface LogOptions {
  readonly level: LogLevel;
  readonly pretty: boolean;
  /** Answers `false` when it dropped the line: how many were is said as soon as lines are taken again. */
  readonly write: (line: string) => unknown;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
}

export function createLog({ level, pretty, write, now }: LogOptions): Log {
  const threshold = LEVELS.indexOf(level);
  let dropped = 0;

  /** Whether it was taken. */
  function say(name: LogLevel, event: string, facts: Facts): boolean {
    const time = new Date(now()).toISOString();
    const shown = Object.fromEntries(Object.entries(facts).map(([key, value]) => [key, inWords(value)]));
    const line = pretty
      ? prettyLine(time, name, event, shown)
      : `${JSON.stringify({ time, level: name, event, ...shown })}\n`;
    return write(line) !== false;
  }

  const at =
    (name: LogLevel) =>
    (event: string, facts: Facts = {}) => {
      if (LEVELS.indexOf(name) < threshold) return;
      if (dropped > 0 && say("warn", "log_lines_dropped", { lines: dropped })) dropped = 0;
      if (dropped > 0 || !say(name, event, facts)) dropped += 1;
    };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

function inWords(value: unknown): unknown {
  if (!(value instanceof Error)) return value;
  const cause = value.cause === undefined ? "" : ` (${String(inWords(value.cause))})`;
  return `${value.stack ?? value.message}${cause}`;
}

const prettyLine = (time: string, level: LogLevel, event: string, facts: Facts) =>
  `${time.slice(11, 19)} ${level.padEnd(5)} ${event}${Object.entries(facts)
    .map(([key, value]) => ` ${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join("")}\n`;
