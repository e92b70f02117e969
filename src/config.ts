/** The environment, read once: a frozen Config, or every fault at once. */

import * as v from "valibot";
import { type OriginList, parseOrigin } from "./domain/origins.ts";
import type { Rate } from "./domain/rate.ts";
import { encodedMessageBytesMax, LIMITS } from "./limits.ts";
import { LOG_LEVELS, type LogLevel } from "./observe/log.ts";
import type { StoreChoice } from "./repository/open.ts";

export interface Config {
  readonly host: string;
  readonly port: number;
  readonly store: StoreChoice;
  readonly origins: OriginList;
  readonly messageBytesMax: number;
  readonly frameBytesMax: number;
  readonly outboundBytesMax: number;
  /** null: every rate limit is off. */
  readonly rate: Rate | null;
  readonly inFlightMax: number;
  readonly pingIntervalMs: number;
  readonly pingTimeoutMs: number;
  readonly drainMs: number;
  readonly logLevel: LogLevel;
}

/** Wrong values in the environment: one line each, naming the variable. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly lines: readonly string[];
  constructor(lines: readonly string[]) {
    super(lines.join("\n"));
    this.lines = lines;
  }
}

const whole = (min: number, max: number) =>
  v.pipe(
    v.string(),
    v.regex(/^\d{1,15}$/, `must be a whole number from ${min} to ${max}`),
    v.transform(Number),
    v.minValue(min, `must be at least ${min}`),
    v.maxValue(max, `must be at most ${max}`),
  );

const Origins = v.pipe(
  v.string(),
  v.rawTransform<string, OriginList>(({ dataset, addIssue, NEVER }) => {
    const entries = dataset.value
      .split(",")
      .map((entry) => entry.trim())
      .filter((entry) => entry !== "");
    if (entries.some((entry) => entry !== "*" && entry.includes("*"))) {
      addIssue({ message: "must name each host and port in full: * inside an origin is not supported" });
      return NEVER;
    }
    const named = entries.filter((entry) => entry !== "*").map(parseOrigin);
    if (named.some((origin) => origin === undefined)) {
      addIssue({ message: "must be a comma-separated list of origins like https://chat.example.org, or *" });
      return NEVER;
    }
    const known = named.filter((origin) => origin !== undefined);
    return {
      any: entries.includes("*"),
      named: new Set(known.map(({ origin }) => origin)),
      hosts: new Set(known.map(({ host }) => host)),
    };
  }),
);

const RATE = /^(\d{1,7})\/s$/;
const RateLimit = v.pipe(
  v.string(),
  v.rawTransform<string, Rate | null>(({ dataset, addIssue, NEVER }) => {
    if (dataset.value === "off") return null;
    const perSecond = Number(RATE.exec(dataset.value)?.[1] ?? 0);
    if (perSecond > 0) return { perSecond, burst: 2 * perSecond };
    addIssue({ message: "must be like 20/s, or off" });
    return NEVER;
  }),
);

// What MongoDB forbids in a database's name (its manual, "Naming Restrictions").
const DATABASE_NAME = /^(?!'.*'$)[^/\\. "$*<>:|?\u0000]{1,63}$/;
const DATABASE_NAME_RULE =
  'must be 1 to 63 characters without / \\ . " $ * < > : | ? or spaces, and not in quotes';
const DatabaseName = v.pipe(v.string(), v.regex(DATABASE_NAME, DATABASE_NAME_RULE));

const MONGO_URI = /^mongodb(?:\+srv)?:\/\/[^\s/?]+(?:\/([^\s?]*))?(?:\?\S*)?$/;
const MongoUri = v.pipe(
  v.string(),
  v.regex(MONGO_URI, "must begin with mongodb:// or mongodb+srv://, and name a server"),
  v.transform((uri) => ({ uri, databaseName: percentDecoded(MONGO_URI.exec(uri)?.[1] ?? "") })),
);

/** Undefined where the text is no percent-encoding. */
function percentDecoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** What is wrong with the path of the embedded store's file. Each of these would make a strange folder, or keep nothing. */
function sqlitePathFault(path: string): string | undefined {
  if (/^["']|["']$/.test(path)) return "must be a path without quotes";
  if (path.startsWith("~")) return "must not begin with ~, which only a shell replaces: write the whole path";
  // SQLite's names for databases that are no file of their own begin so too: what was acked would be gone with the process.
  if (/^(:|[a-z][a-z0-9+.-]*:)/i.test(path)) return "must be the path of a file, not an address";
  if (path.includes("\0")) return "must be the path of a file";
  return undefined;
}
const SqlitePath = v.pipe(
  v.string(),
  v.rawCheck(({ dataset, addIssue }) => {
    const fault = dataset.typed ? sqlitePathFault(dataset.value) : undefined;
    if (fault !== undefined) addIssue({ message: fault });
  }),
);

const Environment = v.object({
  HOST: v.optional(
    v.pipe(v.string(), v.regex(/^[0-9A-Za-z.:_-]{1,255}$/, "must be a host name or an address")),
    "0.0.0.0",
  ),
  PORT: v.optional(whole(0, 65_535), "8000"),
  MONGODB_URI: v.optional(MongoUri),
  MONGODB_DB_NAME: v.optional(DatabaseName),
  SQLITE_PATH: v.optional(SqlitePath, "./data/chat.db"),
  CORS_ORIGINS: v.optional(Origins, "http://localhost:3000,http://localhost:5173"),
  MAX_MESSAGE_BYTES: v.optional(whole(1, 10_000_000), "16384"),
  MAX_FRAME_BYTES: v.optional(whole(1_024, 100_000_000), "1000000"),
  OUTBOUND_LIMIT_BYTES: v.optional(whole(2 * LIMITS.replayBytesMax, 1_000_000_000), "1048576"),
  RATE_LIMIT: v.optional(RateLimit, "20/s"),
  MAX_IN_FLIGHT: v.optional(whole(1, LIMITS.commitQueueMessagesMax), "4096"),
  PING_INTERVAL_MS: v.optional(whole(100, 3_600_000), "25000"),
  PING_TIMEOUT_MS: v.optional(whole(100, 3_600_000), "20000"),
  DRAIN_MS: v.optional(whole(0, 3_600_000), "5000"),
  LOG_LEVEL: v.optional(v.picklist(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(", ")}`), "info"),
});

/** Reads the environment; an empty value means unset. Throws ConfigError with a line for each wrong variable. */
export function loadConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const set = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ""),
  );
  const read = v.safeParse(Environment, set);
  if (!read.success) {
    throw new ConfigError(
      read.issues.map((issue) => `${v.getDotPath(issue) ?? "environment"} ${issue.message}`),
    );
  }
  const values = read.output;
  const lines = relationFaults(values);
  if (lines.length > 0) throw new ConfigError(lines);
  const config: Config = {
    host: values.HOST,
    port: values.PORT,
    store: storeOf(values),
    origins: values.CORS_ORIGINS,
    messageBytesMax: values.MAX_MESSAGE_BYTES,
    frameBytesMax: values.MAX_FRAME_BYTES,
    outboundBytesMax: values.OUTBOUND_LIMIT_BYTES,
    rate: values.RATE_LIMIT,
    inFlightMax: values.MAX_IN_FLIGHT,
    pingIntervalMs: values.PING_INTERVAL_MS,
    pingTimeoutMs: values.PING_TIMEOUT_MS,
    drainMs: values.DRAIN_MS,
    logLevel: values.LOG_LEVEL,
  };
  return Object.freeze(config);
}

const DATABASE_NAME_DEFAULT = "campus_chat";

function storeOf({
  MONGODB_URI: mongo,
  MONGODB_DB_NAME,
  SQLITE_PATH,
}: v.InferOutput<typeof Environment>): StoreChoice {
  if (mongo === undefined) return { kind: "sqlite", path: SQLITE_PATH };
  const databaseName = MONGODB_DB_NAME ?? (mongo.databaseName || DATABASE_NAME_DEFAULT);
  return { kind: "mongodb", uri: mongo.uri, databaseName };
}

/** The relations between values: of the ceilings, that every message can be sent and no answer closes its reader. */
function relationFaults(values: v.InferOutput<typeof Environment>): string[] {
  const encodedMax = encodedMessageBytesMax(values.MAX_MESSAGE_BYTES);
  const lines: string[] = [];
  const { MONGODB_URI: mongo, MONGODB_DB_NAME } = values;
  // Where MONGODB_DB_NAME names the database, the one of the path is only where the user is known.
  const used = MONGODB_DB_NAME === undefined && mongo?.databaseName !== "" ? mongo : undefined;
  if (used !== undefined && !DATABASE_NAME.test(used.databaseName ?? ""))
    lines.push(`MONGODB_URI names a database, whose name ${DATABASE_NAME_RULE}`);
  if (encodedMax > values.MAX_FRAME_BYTES) {
    lines.push(
      `MAX_FRAME_BYTES must be at least ${encodedMax}: the longest message (MAX_MESSAGE_BYTES) must fit a frame`,
    );
  }
  if (2 * encodedMax > values.OUTBOUND_LIMIT_BYTES) {
    lines.push(
      `OUTBOUND_LIMIT_BYTES must be at least ${2 * encodedMax}: two of the longest messages (MAX_MESSAGE_BYTES) must fit`,
    );
  }
  return lines;
}
