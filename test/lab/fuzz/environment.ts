/** The environment: any values give a Config within its bounds, or lines that name the variables. */

import { type Config, ConfigError, loadConfig } from "../../../src/config.ts";
import { encodedMessageBytesMax } from "../../../src/limits.ts";
import type { Chance } from "../../fixture/chance.ts";
import { changedText, MARK, oddText } from "./hostile.ts";
import { must, type Surface } from "./surface.ts";

type Environment = Readonly<Record<string, string>>;

const RIGHT: Readonly<Record<string, readonly string[]>> = {
  HOST: ["127.0.0.1", "::1", "chat.example.org"],
  PORT: ["8000", "0", "65535"],
  MONGODB_URI: ["mongodb://localhost:27017/", "mongodb+srv://u:p@h/x?y=1"],
  MONGODB_DB_NAME: ["campus_chat"],
  SQLITE_PATH: ["./data/chat.db", ":memory:"],
  CORS_ORIGINS: ["*", "http://localhost:3000,https://chat.example.org", "https://chat.example.org:443"],
  MAX_MESSAGE_BYTES: ["16384", "1", "100000"],
  MAX_FRAME_BYTES: ["1000000", "1024"],
  OUTBOUND_LIMIT_BYTES: ["1048576", "512000"],
  RATE_LIMIT: ["20/s", "off", "1/s"],
  MAX_IN_FLIGHT: ["4096", "1"],
  PING_INTERVAL_MS: ["25000"],
  PING_TIMEOUT_MS: ["20000"],
  DRAIN_MS: ["0", "5000"],
  LOG_LEVEL: ["debug", "info", "warn", "error"],
};
const NAMES = Object.keys(RIGHT);
const PIECES = [
  "",
  " ",
  "-1",
  "0",
  "1e3",
  "0x10",
  "٣",
  "1.5",
  "99999999999999999999",
  "*",
  ",",
  "/",
  ":",
  "@",
  "\n",
  "\u0000",
  "😀",
  MARK,
];

const value = (chance: Chance, name: string) => {
  const right = chance.pick(RIGHT[name] ?? [""]);
  if (chance.often(0.4)) return right;
  if (chance.often(0.4)) return chance.pick(PIECES);
  return chance.often(0.7) ? changedText(chance, right, PIECES) : oddText(chance);
};

const within = (number: number, least: number, most: number) =>
  Number.isSafeInteger(number) && number >= least && number <= most;

function judge(config: Config): void {
  must(Object.isFrozen(config), "a Config can be changed");
  must(within(config.port, 0, 65_535), "a Config has an odd port");
  must(config.host !== "", "a Config has no host");
  must(config.rate === null || within(config.rate.perSecond, 1, 1e7), "a Config has an odd rate");
  for (const number of [
    config.messageBytesMax,
    config.inFlightMax,
    config.pingIntervalMs,
    config.pingTimeoutMs,
  ])
    must(within(number, 1, 1e9), "a Config has an odd number");
  must(within(config.drainMs, 0, 3_600_000), "a Config has an odd drain");
  const encodedMax = encodedMessageBytesMax(config.messageBytesMax);
  must(encodedMax <= config.frameBytesMax, "the longest message fits no frame");
  must(2 * encodedMax <= config.outboundBytesMax, "two of the longest messages do not fit");
  for (const origin of config.origins.named)
    must(new URL(origin).origin === origin, "a Config names what is no origin");
}

export const environment: Surface<Environment> = {
  name: "environment",
  lanes: 1,
  show: (input) => JSON.stringify(input),
  open: () => ({
    make(chance, seen) {
      const kept = seen.length > 0 && chance.often(0.5) ? chance.pick(seen) : {};
      const names = Array.from({ length: 1 + chance.below(4) }, () => chance.pick(NAMES));
      return { ...kept, ...Object.fromEntries(names.map((name) => [name, value(chance, name)])) };
    },
    attempt(input) {
      try {
        judge(loadConfig(input));
        return "config";
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error;
        must(error.lines.length > 0, "a refusal says nothing");
        for (const line of error.lines) {
          must(
            NAMES.some((name) => line.startsWith(`${name} `)),
            "a line names no variable",
          );
          must(!line.includes("\n") && !line.includes(MARK), "a line repeats its value");
        }
        return error.lines.join("; ").replace(/\d{2,}/g, "N");
      }
    },
    close() {},
  }),
};
