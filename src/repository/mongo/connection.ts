/** The way to a MongoDB that may come and go: whether it is up, which epoch of the store it holds, and how long we wait. */

import {
  type Collection,
  type Document,
  MongoError,
  MongoServerError,
  type TopologyDescription,
} from "mongodb";
import { ChatError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import { MONGO_TIMES, type MongoChoice, mongoClient, mongoDatabase } from "./client.ts";
import { createDeadline, type Deadline, within } from "./deadline.ts";
import { createEpochCheck, EpochChanged, prepareDatabase, type StoreEpoch } from "./epoch.ts";
import { IndexesClash } from "./indexes.ts";
import { createRoomNumbers, type RoomNumbers } from "./room-numbers.ts";
import { MESSAGES, type MessageDocument } from "./schema.ts";
import { createSharedReads, type SharedRead } from "./shared-reads.ts";
import { createTurns } from "./turns.ts";
import type { RepositoryWorld, StoreStatus } from "../repository.ts";

/** The store is down, or closed, and was before the operation touched it. */
class StoreDown extends Error {}

/** A write took as long as an operation may. */
class TooLate extends Error {}

/** A read took as long: it looked at much, or the server is slow. The heartbeat says whether the server is well. */
class SlowRead extends Error {}

type Run = <T>(work: (epoch: StoreEpoch, ended: AbortSignal) => Promise<T>) => Promise<T>;

export interface MongoConnection {
  /** The hosts and the database, without credentials. */
  readonly place: string;
  /** Majority reads on the primary; majority, journaled writes. */
  readonly messages: Collection<MessageDocument>;
  /** The same documents, of any program. */
  readonly documents: Collection<Document>;
  status(): StoreStatus;
  /**
   * Runs one operation of the port within MONGO_TIMES.operationMs. Whatever it throws comes out as `storage_unavailable`,
   * having told `failed`. `ended` is aborted when the caller stops waiting. Appends wait for no turn: there is one at a time.
   */
  run: Run;
  /**
   * The same for a read, of which LIMITS.storeReadsMax run at once. One that gets no turn in time is refused as
   * `overloaded`; one that takes too long is given up, and says nothing about the server.
   */
  read: Run;
  /** The same where many callers ask at once: callers with one key share a read, which begins after all of them asked. */
  readShared<T>(key: string, work: (epoch: StoreEpoch, ended: AbortSignal) => Promise<T>): Promise<T>;
  /** Resolves with the epoch once the store is up; rejects when it does not come up in that time. */
  up(withinMs: number): Promise<StoreEpoch>;
  /** An operation failed: where that speaks of the server, the store is down until it answers. */
  failed(error: unknown): void;
  /** Throws EpochChanged unless the store still has this epoch. */
  verify(epoch: StoreEpoch): Promise<void>;
  /** Where rooms end. */
  readonly numbers: RoomNumbers;
  close(): Promise<void>;
}

const hasWriter = (topology: TopologyDescription) =>
  [...topology.servers.values()].some(({ isWritable }) => isWritable);

/** Why the store is down, in words that contain no secret. */
function reasonOf(error: unknown): string {
  if (error instanceof MongoServerError && (error.code === 18 || error.code === 13))
    return "MongoDB does not accept the credentials";
  if (error instanceof MongoServerError) return "MongoDB refuses to work";
  if (error instanceof IndexesClash)
    return "documents or indexes of another program are in the way: migrate --dry-run names them";
  return error instanceof TooLate ? "MongoDB did not answer in time" : "MongoDB cannot be reached";
}

/** The server's code for an operation that took longer than its own ceiling. */
const MAX_TIME_EXPIRED = 50;

/** Whether a failure says that the server is not well, and not only that one operation was too much. */
const speaksOfServer = (error: unknown) =>
  error instanceof TooLate ||
  (error instanceof MongoError &&
    // The driver keeps the class of this one to itself.
    error.name !== "MongoWaitQueueTimeoutError" &&
    !(error instanceof MongoServerError && error.code === MAX_TIME_EXPIRED));

/** A read of one caller. */
const ALONE: SharedRead = { rest: () => Promise.resolve(), begin() {}, onJoin() {} };

/** Connects in the background and goes on doing so until `close`. */
export function connectMongo({
  uri,
  databaseName,
  log,
  newEpoch,
}: RepositoryWorld & MongoChoice): MongoConnection {
  const client = mongoClient(uri, MONGO_TIMES.silenceMs);
  const db = mongoDatabase(client, databaseName);
  const { srvHost, hosts } = client.options;
  const place = `mongodb://${srvHost ?? hosts.map(String).join(",")}/${databaseName}`;

  let state: StoreStatus = { up: false, reason: "MongoDB has not been reached yet" };
  /** The epoch that the store was found with, while it is up; and the operations that wait for one. */
  let held: StoreEpoch | undefined;
  /** How often the store came up. */
  let times = 0;
  const waiters = new Set<PromiseWithResolvers<StoreEpoch>>();
  let closed = false;
  let wake = () => {};
  let tries = Promise.resolve();
  const underway = new Set<Promise<unknown>>();
  // Where the address allows fewer connections, so many: a read then waits for its turn here and not in the driver.
  const turns = createTurns(
    Math.min(LIMITS.storeReadsMax, client.options.maxPoolSize || LIMITS.storeReadsMax),
    LIMITS.storeWaitersMax,
  );
  const share = createSharedReads(LIMITS.storeWaitersMax, MONGO_TIMES.operationMs);

  const down = (reason: string, error?: unknown) => {
    if (closed) return;
    if (!state.up) {
      state = { up: false, reason };
      return;
    }
    state = { up: false, reason };
    held = undefined;
    log.warn("store_down", { place, reason, ...(error === undefined ? {} : { error }) });
    bringUp();
  };

  /** Tries until the store is up. At most one runs: it starts with the connection, and when an up store goes down. */
  const bringUp = () => {
    const attempts = async () => {
      for (let logged = ""; !closed;) {
        try {
          await client.connect();
          const epoch = await prepareDatabase(db, newEpoch);
          if (closed) return;
          state = { up: true };
          log.info("store_up", { place, epoch: epoch.name });
          held = epoch;
          times++;
          for (const waiter of waiters) waiter.resolve(epoch);
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

  const up = async (withinMs: number): Promise<StoreEpoch> => {
    if (closed) throw new StoreDown("the store is closed");
    if (held !== undefined) return held;
    if (waiters.size >= LIMITS.storeWaitersMax) throw new StoreDown("too many wait for the store");
    const waiter = Promise.withResolvers<StoreEpoch>();
    waiters.add(waiter);
    try {
      const late = () => new StoreDown(`the store did not come up in ${withinMs} ms`);
      return await within(waiter.promise, withinMs, late);
    } finally {
      waiters.delete(waiter);
    }
  };

  const failed = (error: unknown) => {
    if (closed || error instanceof StoreDown) return;
    if (speaksOfServer(error)) down(reasonOf(error), error);
    else if (error instanceof MongoError || error instanceof SlowRead)
      log.warn("store_operation_slow", { place, error });
    // A document that cannot be read, or a defect of ours: the server is well.
    else log.error("store_operation_failed", { place, error });
  };

  /** Once, and once more where the store's epoch changed meanwhile. */
  const attempt = async <T>(
    work: (epoch: StoreEpoch, ended: AbortSignal) => Promise<T>,
    ended: AbortSignal,
  ) => {
    const epoch = await up(MONGO_TIMES.comeUpMs);
    try {
      return await work(epoch, ended);
    } catch (error) {
      if (!(error instanceof EpochChanged) || ended.aborted) throw error;
      down("the store has a new epoch", error);
      return work(await up(MONGO_TIMES.comeUpMs), ended);
    }
  };

  /** What the operation gives in time, or its refusal. */
  const settle = <T>(operation: Promise<T>, ended: AbortController, deadline: Deadline): Promise<T> => {
    const settled = Promise.race([operation, deadline.reached])
      .catch((error: unknown) => {
        if (error instanceof ChatError) throw error;
        failed(error);
        throw new ChatError("storage_unavailable", { cause: error });
      })
      .finally(() => {
        deadline.clear();
        ended.abort();
        underway.delete(settled);
      });
    underway.add(settled);
    return settled;
  };

  function read<T>(
    work: (epoch: StoreEpoch, ended: AbortSignal) => Promise<T>,
    { rest, begin, onJoin }: SharedRead = ALONE,
  ): Promise<T> {
    const ended = new AbortController();
    let hasTurn = false;
    const inTurn = async () => {
      // First, so that a caller that waits for a store that is away keeps no turn.
      await up(MONGO_TIMES.comeUpMs);
      await rest();
      const giveBack = await turns.take(ended.signal);
      hasTurn = true;
      begin();
      // The turn lasts as long as the driver works for it, also when no caller waits any more.
      return attempt(work, ended.signal).finally(giveBack);
    };
    const deadline = createDeadline(MONGO_TIMES.operationMs, () =>
      hasTurn ? new SlowRead(`the read took ${MONGO_TIMES.operationMs} ms`) : new ChatError("overloaded"),
    );
    onJoin(deadline.restart);
    return settle(inTurn(), ended, deadline);
  }

  return {
    place,
    messages: db.collection<MessageDocument>(MESSAGES),
    documents: db.collection(MESSAGES),
    status: () => state,
    up,
    failed,

    run(work) {
      const ended = new AbortController();
      const before = times;
      const deadline = createDeadline(MONGO_TIMES.operationMs, () =>
        // An operation that waited for the store most of its time says nothing about a store that has just come up.
        times === before
          ? new TooLate(`the operation took ${MONGO_TIMES.operationMs} ms`)
          : new StoreDown(`the store came up within the ${MONGO_TIMES.operationMs} ms of the operation`),
      );
      return settle(attempt(work, ended.signal), ended, deadline);
    },

    read,
    async readShared(key, work) {
      // Each caller by itself: one that comes late has its whole time for a store that comes up.
      await up(MONGO_TIMES.comeUpMs).catch((error: unknown) => {
        throw new ChatError("storage_unavailable", { cause: error });
      });
      return share(key, (mine) => read(work, mine));
    },

    verify: createEpochCheck(db),
    numbers: createRoomNumbers(db, failed),

    async close() {
      if (closed) return;
      closed = true;
      state = { up: false, reason: "the store is closed" };
      held = undefined;
      for (const waiter of waiters) waiter.reject(new StoreDown("the store is closed"));
      wake();
      await Promise.allSettled(underway);
      // The first cuts short a try to connect, the second closes what that try may have opened since.
      await client.close();
      await tries;
      await client.close();
    },
  };
}
