/** The way to a MongoDB that may come and go: whether it is up, which life of the store it holds, and how long we wait. */

import {
  type Collection,
  type Db,
  type Document,
  MongoClient,
  MongoError,
  MongoServerError,
  ReadConcern,
  ReadPreference,
  type TopologyDescription,
} from "mongodb";
import { ChatError } from "../errors.ts";
import { type Epoch, parseEpoch } from "../domain/ids.ts";
import { LIMITS } from "../limits.ts";
import type { Metrics } from "../observe/metrics.ts";
import { INDEXES, MESSAGES, type MessageDocument, META, type MetaDocument } from "./mongo-schema.ts";
import type { RepositoryWorld, StoreStatus } from "./repository.ts";

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
  heartbeatMs: 1_000,
  connectMs: 2_000,
  /** Between two tries to bring the store up. */
  retryMs: 500,
} as const;

/** For a read: the server gives up when we have. */
export const QUICK = { maxTimeMS: LIMITS.storeTimeoutMs } as const;

/** One life of the store. */
export interface Life {
  readonly epoch: Epoch;
  /** The server's name for the collection of messages in this life. */
  readonly collection: string;
}

/** The database was dropped, or another life began, under a running operation: it starts afresh. */
export class LifeChanged extends Error {}

/** The store is down, or closed, and was before the operation touched it. */
class StoreDown extends Error {}

/** The operation took as long as an operation may. */
class TooLate extends Error {}

export interface MongoConnection {
  /** The hosts and the database, without credentials. */
  readonly place: string;
  /** Majority reads on the primary; majority, journaled writes. */
  readonly messages: Collection<MessageDocument>;
  /** The same documents, whoever wrote them. */
  readonly documents: Collection<Document>;
  status(): StoreStatus;
  /**
   * Runs one operation of the port within MONGO_TIMES.operationMs. Whatever it throws comes out as `storage_unavailable`,
   * having told `failed`. `ended` says that nobody waits any more.
   */
  run<T>(work: (life: Life, ended: AbortSignal) => Promise<T>): Promise<T>;
  /** Resolves with the life once the store is up; rejects when it does not come up in that time. */
  up(withinMs: number): Promise<Life>;
  /** An operation failed: where that speaks of the server, the store is down until it answers. */
  failed(error: unknown): void;
  /** Throws LifeChanged unless the store still has this life. */
  verify(life: Life): Promise<void>;
  close(): Promise<void>;
}

export interface MongoChoice {
  readonly uri: string;
  readonly databaseName: string;
}

/**
 * A client that is not connected yet.
 * @throws Error of one line without credentials, when the address cannot be one
 */
export function mongoClient(uri: string, silenceMs: number): MongoClient {
  try {
    return new MongoClient(uri, {
      appName: "chat-service",
      serverSelectionTimeoutMS: MONGO_TIMES.selectMs,
      waitQueueTimeoutMS: MONGO_TIMES.comeUpMs,
      connectTimeoutMS: MONGO_TIMES.connectMs,
      socketTimeoutMS: silenceMs,
      heartbeatFrequencyMS: MONGO_TIMES.heartbeatMs,
      // One way to deal with an unknown outcome, not two: append asks by id what was stored.
      retryWrites: false,
      // Text that is no UTF-8, written by some other program, must not make its neighbours unreadable.
      enableUtf8Validation: false,
    });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`MONGODB_URI cannot be used: ${withoutCredentials(uri, why)}`);
  }
}

function withoutCredentials(uri: string, text: string): string {
  const login = /^[^/]*\/\/(.*)@/.exec(uri)?.[1];
  const secrets = login === undefined ? [] : [login, ...login.split(":"), ...login.split(":").map(decoded)];
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

/** Makes what is missing: indexes, and the name of this life of the store. Harmless when repeated, or done by two. */
export async function prepareDatabase(db: Db, newEpoch: () => Epoch): Promise<Life> {
  await db.collection(MESSAGES).createIndexes(INDEXES);
  const collection = await collectionName(db);
  if (collection === undefined) throw new LifeChanged("the collection went as soon as it was made");
  const meta = db.collection<MetaDocument>(META);
  const found = await meta.findOne({ _id: "store" });
  if (found === null) {
    // Two services that start at once: the first insert wins, both then read it.
    await meta
      .updateOne({ _id: "store" }, { $setOnInsert: { epoch: newEpoch(), collection } }, { upsert: true })
      .catch(ignoreDuplicate);
  } else if (found.collection !== collection) {
    await meta.updateOne({ _id: "store", epoch: found.epoch }, { $set: { epoch: newEpoch(), collection } });
  }
  const life = await readLife(db);
  if (life === undefined || life.collection !== collection)
    throw new LifeChanged("another life began meanwhile");
  return life;
}

async function readLife(db: Db): Promise<Life | undefined> {
  const row = await db.collection<MetaDocument>(META).findOne({ _id: "store" }, QUICK);
  const epoch = typeof row?.epoch === "string" ? parseEpoch(row.epoch) : undefined;
  return epoch === undefined || row === null ? undefined : { epoch, collection: row.collection };
}

/** The server's name for the collection of messages; a server that gives none always has the same one. */
async function collectionName(db: Db): Promise<string | undefined> {
  const [entry] = await db.listCollections({ name: MESSAGES }, { nameOnly: false }).toArray();
  if (entry === undefined) return undefined;
  const uuid = entry.info?.uuid;
  return uuid === undefined ? "unnamed" : String(uuid);
}

/** The server's code for a value that a unique index holds already. */
export const DUPLICATE_KEY = 11_000;

function ignoreDuplicate(error: unknown): void {
  if (!(error instanceof MongoServerError && error.code === DUPLICATE_KEY)) throw error;
}

const hasWriter = (topology: TopologyDescription) =>
  [...topology.servers.values()].some(({ isWritable }) => isWritable);

/** Why the store is down, in words that anyone may read. */
function reasonOf(error: unknown): string {
  if (error instanceof MongoServerError && (error.code === 18 || error.code === 13))
    return "MongoDB does not accept the credentials";
  if (error instanceof MongoServerError) return "MongoDB refuses to work";
  return error instanceof TooLate ? "MongoDB did not answer in time" : "MongoDB cannot be reached";
}

/** Connects in the background and goes on doing so until `close`. */
export function connectMongo({
  uri,
  databaseName,
  log,
  newEpoch,
  metrics,
}: RepositoryWorld & MongoChoice & { readonly metrics?: Metrics }): MongoConnection {
  const client = mongoClient(uri, MONGO_TIMES.silenceMs);
  const db = mongoDatabase(client, databaseName);
  const { srvHost, hosts } = client.options;
  const place = `mongodb://${srvHost ?? hosts.map(String).join(",")}/${databaseName}`;

  let state: StoreStatus = { up: false, reason: "MongoDB has not been reached yet" };
  let coming = Promise.withResolvers<Life>();
  coming.promise.catch(() => {});
  let closed = false;
  let wake = () => {};
  let tries = Promise.resolve();
  const underway = new Set<Promise<unknown>>();

  const down = (reason: string, error?: unknown) => {
    if (closed) return;
    if (!state.up) {
      state = { up: false, reason };
      return;
    }
    state = { up: false, reason };
    log.warn("store_down", { place, reason, ...(error === undefined ? {} : { error }) });
    coming = Promise.withResolvers<Life>();
    coming.promise.catch(() => {});
    bringUp();
  };

  /** Tries until the store is up. At most one runs: it starts with the connection, and when an up store goes down. */
  const bringUp = () => {
    const attempts = async () => {
      for (let logged = ""; !closed;) {
        try {
          await client.connect();
          const life = await prepareDatabase(db, newEpoch);
          if (closed) return;
          state = { up: true };
          log.info("store_up", { place, epoch: life.epoch });
          coming.resolve(life);
          return;
        } catch (error) {
          const reason = reasonOf(error);
          down(reason);
          if (reason !== logged && !closed) log.warn("store_unreachable", { place, reason, error });
          logged = reason;
          await pause();
        }
      }
    };
    tries = attempts();
  };

  const pause = () =>
    new Promise<void>((resolve) => {
      if (closed) return resolve();
      const timer = setTimeout(resolve, MONGO_TIMES.retryMs);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  client.on("topologyDescriptionChanged", ({ newDescription }) => {
    if (hasWriter(newDescription)) wake();
    else if (state.up) down("MongoDB cannot be reached");
  });
  bringUp();

  const up = async (withinMs: number): Promise<Life> => {
    if (closed) throw new StoreDown("the store is closed");
    return within(
      coming.promise,
      withinMs,
      () => new StoreDown(`the store did not come up in ${withinMs} ms`),
    );
  };

  const failed = (error: unknown) => {
    if (closed || error instanceof StoreDown) return;
    metrics?.count("store_failures_total");
    if (error instanceof MongoError || error instanceof TooLate) down(reasonOf(error), error);
    // A document that cannot be read, or a defect of ours: the server is well.
    else log.error("store_operation_failed", { place, error });
  };

  return {
    place,
    messages: db.collection<MessageDocument>(MESSAGES),
    documents: db.collection(MESSAGES),
    status: () => state,
    up,
    failed,

    run(work) {
      const ended = new AbortController();
      const attempt = async () => {
        const life = await up(MONGO_TIMES.comeUpMs);
        try {
          return await work(life, ended.signal);
        } catch (error) {
          if (!(error instanceof LifeChanged) || ended.signal.aborted) throw error;
          down("the store begins a new life", error);
          return work(await up(MONGO_TIMES.comeUpMs), ended.signal);
        }
      };
      const settled = within(
        attempt(),
        MONGO_TIMES.operationMs,
        () => new TooLate(`the operation took ${MONGO_TIMES.operationMs} ms`),
      )
        .catch((error: unknown) => {
          if (error instanceof ChatError) throw error;
          failed(error);
          throw new ChatError("storage_unavailable", { cause: error });
        })
        .finally(() => {
          ended.abort();
          underway.delete(settled);
        });
      underway.add(settled);
      return settled;
    },

    async verify(life) {
      const [now, collection] = await Promise.all([readLife(db), collectionName(db)]);
      if (now?.epoch !== life.epoch || collection !== life.collection)
        throw new LifeChanged("the database was dropped or replaced");
    },

    async close() {
      if (closed) return;
      closed = true;
      state = { up: false, reason: "the store is closed" };
      coming.reject(new StoreDown("the store is closed"));
      wake();
      await Promise.allSettled(underway);
      // The first cuts short a try to connect, the second closes what that try may have opened since.
      await client.close();
      await tries;
      await client.close();
    },
  };
}

/** What the promise gives, or that fault when it takes longer. */
function within<T>(promise: Promise<T>, ms: number, late: () => Error): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const lateness = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), ms);
  });
  return Promise.race([promise, lateness]).finally(() => clearTimeout(timer));
}
