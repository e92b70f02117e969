/** The driver's client for an address: how long it waits for what, what every guarantee rests on, and no secret in a fault. */

import { type Db, MongoClient, ReadConcern, ReadPreference } from "mongodb";
import { SettingError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";

/** How long the driver waits for what, in milliseconds. It has no ceiling for a whole operation: that one is ours. */
export const MONGO_TIMES = {
  /** An operation of the port in total; the rest up to LIMITS.storeTimeoutMs is for the answer's own way. */
  operationMs: LIMITS.storeTimeoutMs - 500,
  /** What an operation that finds the store down waits for it to come up. */
  comeUpMs: 1_000,
  /** Finding the primary, names and handshakes included, from which a far one is not cut off. */
  selectMs: 4_000,
  /** A connection on which an answer is due and nothing comes. Leaves time to ask what became of a write. */
  silenceMs: 3_000,
  /** How often the server is asked whether it lives, and how long its answer may take. */
  heartbeatMs: 500,
  connectMs: 2_000,
  /** How often while an operation waits for the server: a store that is back must be used again within a second. */
  knockMs: 100,
  /** Between two tries to bring the store up. */
  retryMs: 250,
} as const;

/** For a read: the server gives up when we have. */
export const QUICK = { maxTimeMS: LIMITS.storeTimeoutMs } as const;

export interface MongoChoice {
  readonly uri: string;
  readonly databaseName: string;
}

/**
 * A client that is not connected yet.
 * @throws Error of one line that repeats no login, host or value, when the address cannot be one
 */
export function mongoClient(uri: string, silenceMs: number): MongoClient {
  try {
    return new MongoClient(uri, {
      appName: "chat-service",
      serverSelectionTimeoutMS: MONGO_TIMES.selectMs,
      waitQueueTimeoutMS: MONGO_TIMES.silenceMs,
      connectTimeoutMS: MONGO_TIMES.connectMs,
      socketTimeoutMS: silenceMs,
      heartbeatFrequencyMS: MONGO_TIMES.heartbeatMs,
      minHeartbeatFrequencyMS: MONGO_TIMES.knockMs,
      // A server that may tell of changes by itself is never asked in between, though one refusal made us doubt it: what was
      // over in a moment would last a heartbeat, and where its word got lost, as long as a connection may be silent.
      serverMonitoringMode: "poll",
      // One way to deal with an unknown outcome, not two: append asks by id what was stored.
      retryWrites: false,
      // Text that is no UTF-8, written by some other program, must not make its neighbours unreadable.
      enableUtf8Validation: false,
    });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new SettingError(`MONGODB_URI cannot be used: ${withoutAddress(uri, why)}`);
  }
}

/** The driver's words without anything that an address holds, but for the names of its options. */
function withoutAddress(uri: string, text: string): string {
  const rest = uri.replace(/^[^/]*\/\//, "");
  // Up to the last `@`, as a password may hold anything; without one the host may be a login whose host was forgotten.
  const authority = rest.includes("@")
    ? rest.slice(0, rest.lastIndexOf("@"))
    : (/^[^/?]*/.exec(rest)?.[0] ?? "");
  const options = rest.slice(authority.length).split("?").slice(1).join("?").split("&");
  const values = options.map((option) => option.slice(option.indexOf("=") + 1));
  const pieces = [authority, ...values].flatMap((whole) => [whole, ...whole.split(/[:,@]/)]);
  const secrets = [rest, ...pieces].flatMap((piece) => [piece, decoded(piece)]);
  const cleaned = secrets
    .filter((secret) => secret !== "")
    .toSorted((a, b) => b.length - a.length)
    .reduce((shown, secret) => shown.replaceAll(secret, "***"), text.replaceAll(uri, "the address"));
  return cleaned.replaceAll(/\s+/g, " ").trim();
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The database with what every guarantee rests on, whatever the address says. */
export const mongoDatabase = (client: MongoClient, databaseName: string): Db =>
  client.db(databaseName, {
    readPreference: ReadPreference.primary,
    readConcern: new ReadConcern("majority"),
    writeConcern: { w: "majority", journal: true },
  });
