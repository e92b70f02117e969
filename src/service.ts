/** The composition root: a store, a bus, the use cases, and the two faces on one port. */

import { name, version } from "../package.json";
import { createLocalBus } from "./bus/local.ts";
import { type Chat, createChat } from "./chat/chat.ts";
import type { Config } from "./config.ts";
import type { Epoch } from "./domain/ids.ts";
import { isOriginWelcome } from "./domain/origins.ts";
import { createHttpApp } from "./http/app.ts";
import { LIMITS } from "./limits.ts";
import type { Log } from "./observe/log.ts";
import { createMetrics, type Metrics } from "./observe/metrics.ts";
import { type ChatEngine, createEngine, type EngineHost } from "./engine/engine.ts";
import { nextTick } from "./runtime/ticks.ts";
import { readConnectionsMax } from "./runtime/connections-max.ts";
import { createFanout } from "./realtime/fanout.ts";
import { type ChatPeer, createBroadcast, createGateway, type Gateway } from "./realtime/gateway.ts";
import { createPipelines } from "./http/pipelines.ts";
import { createSocketIo } from "./engine/socket-io.ts";
import { openRepository } from "./repository/open.ts";

export interface Service {
  readonly port: number;
  /** Where the store keeps the messages, for the operator. */
  readonly store: { readonly kind: "sqlite" | "mongodb"; readonly place: string };
  readonly metrics: Metrics;
  /**
   * Lets go in order: not ready → no new connections → joins and sends in flight finish → connections let go one by one over
   * `drainMs` → requests answered → the store closed. False when the deadline (`drainMs` and LIMITS.drainGraceMs) came first.
   */
  drain(): Promise<boolean>;
  /** Lets everything go now, but for what was begun in the store. */
  stop(): Promise<void>;
}

const SOCKET_IO_PATH = "/socket.io/";

const newMessageId = (now: number) => Bun.randomUUIDv7("hex", now);
const newEpoch = () => Bun.randomUUIDv7() as string as Epoch;

/** What an operator can do about each of them. */
const LISTEN_FAULTS: Readonly<Record<string, string>> = {
  EADDRINUSE: ": another program listens there; stop it, or choose another PORT",
  EACCES: ": ports below 1024 need rights that this user has not; choose another PORT",
  EADDRNOTAVAIL: ": this machine has no such address; choose another HOST",
  ENOTFOUND: ": this host name is not known here; choose another HOST",
};

/** @throws Error of one line for the operator when the address cannot be listened on */
function listen({ host, port }: Config, serve: () => EngineHost): EngineHost {
  try {
    return serve();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    const why = LISTEN_FAULTS[code] ?? "";
    throw new Error(`HOST ${host}, PORT ${port} cannot be listened on (${code})${why}`);
  }
}

/**
 * Serves until it is drained or stopped. Rejects when the store cannot be used or the port is taken: one line each.
 * @param open how the store is opened; the bench puts one without a disk in its place
 */
export async function startService(config: Config, log: Log, open = openRepository): Promise<Service> {
  const metrics = createMetrics();
  const repository = await open(config.store, { log, newEpoch });
  try {
    const bus = createLocalBus({ log });
    let draining = false;

    const engine = createEngine({
      path: SOCKET_IO_PATH,
      pingIntervalMs: config.pingIntervalMs,
      pingTimeoutMs: config.pingTimeoutMs,
      frameBytesMax: config.frameBytesMax,
      outboundBytesMax: config.outboundBytesMax,
      connectionsMax: await readConnectionsMax(),
      admitHandshake: (address) => chat.admission.admitHandshake(address),
      accept: (session) => socketIo.accept(session),
      isOriginWelcome: (origin, host) => isOriginWelcome(config.origins, origin, host),
      corsOrigin: (origin, host) => {
        if (config.origins.any) return "*";
        return origin !== null && isOriginWelcome(config.origins, origin, host) ? origin : undefined;
      },
      log,
      metrics,
    });
    const fanout = createFanout<ChatPeer>({ mayPublish: engine.mayPublish, server: () => server });

    const chat = createChat({
      repository,
      bus,
      ...createBroadcast(fanout),
      rate: config.rate,
      inFlightMax: config.inFlightMax,
      now: Date.now,
      monotonicNow: () => performance.now(),
      newMessageId,
      log,
      metrics,
    });
    const gateway = createGateway({
      chat,
      fanout,
      messageBytesMax: config.messageBytesMax,
      inFlightMax: config.inFlightMax,
      monotonicNow: () => performance.now(),
      log,
      metrics,
    });
    const socketIo = createSocketIo({
      namespaces: new Map([["/", gateway]]),
      connectTimeoutMs: LIMITS.connectTimeoutMs,
      packetBytesMax: config.frameBytesMax,
    });

    const started = performance.now();
    const http = createHttpApp({
      chat,
      origins: config.origins,
      messageBytesMax: config.messageBytesMax,
      bodyBytesMax: config.frameBytesMax,
      service: { name, version },
      uptimeSeconds: () => Math.floor((performance.now() - started) / 1_000),
      readiness() {
        if (draining) return { ready: false, reason: "draining" };
        return repository.status().up ? { ready: true } : { ready: false, reason: "storage_unavailable" };
      },
      log,
      metrics,
    });

    const pipelines = createPipelines({ metrics });
    const server = listen(config, () =>
      Bun.serve({
        hostname: config.host,
        port: config.port,
        maxRequestBodySize: engine.maxRequestBodySize,
        websocket: engine.websocket,
        // Bun's page for developers shows the source to the client whose request failed.
        development: false,
        // Which would also let a second process listen on the same port, and take every other connection.
        reusePort: false,
        // The client's bundles lie beside the engine's path and are plain files.
        fetch: (request, self) =>
          pipelines.refusal(request, self) ??
          (engine.serves(request) ? engine.handle(request, self) : http.fetch(request, self)),
      }),
    );

    const closeAll = async () => {
      chat.close();
      engine.close();
      // Requests too that are not answered yet.
      await server.stop(true);
      await bus.close();
      await repository.close();
    };

    return {
      port: server.port as number,
      store: { kind: repository.kind, place: repository.place },
      metrics,
      async drain() {
        draining = true;
        engine.refuseHandshakes();
        const deadline = Bun.sleep(config.drainMs + LIMITS.drainGraceMs).then(() => false);
        const inOrder = async () => {
          await letGo({ chat, engine, gateway, drainMs: config.drainMs });
          engine.close();
          // Ends once every request is answered. One whose body does not end is cut off; nothing of it was stored.
          await Promise.race([server.stop(), Bun.sleep(LIMITS.lastWordsMs)]);
          await closeAll();
          return true;
        };
        return Promise.race([inOrder(), deadline]);
      },
      stop: closeAll,
    };
  } catch (error) {
    await repository.close();
    throw error;
  }
}

/** A connection in the engine's sense. */
type Connection = ReturnType<ChatEngine["connections"]> extends Iterable<infer C> ? C : never;

interface LettingGo {
  readonly chat: Chat;
  readonly engine: ChatEngine;
  readonly gateway: Gateway;
  readonly drainMs: number;
}

/**
 * Lets connections go one by one, evenly over `drainMs`, so that their clients do not all come back at once elsewhere.
 * Until its turn a connection is served as ever; then it is taken no more events from, has its answers, and is closed.
 */
async function letGo({ chat, engine, gateway, drainMs }: LettingGo): Promise<void> {
  await answered(chat);
  const connections = [...engine.connections()];
  const began = performance.now();
  const leaving: Promise<void>[] = [];
  for (const [index, connection] of connections.entries()) {
    const dueMs = began + (drainMs * index) / connections.length - performance.now();
    if (dueMs > 1) await Bun.sleep(dueMs);
    gateway.letGo(connection);
    // Each connection waits for its own answers only, side by side with the others.
    leaving.push(answered(chat).then(() => closed(connection)));
  }
  await Promise.all(leaving);
  await answered(chat);
}

/** Closes it and resolves when it is: one that polls fetches its last answers first, if it does so soon. */
async function closed(connection: Connection): Promise<void> {
  // It has gone by itself before its turn.
  if (connection.readyState === "closed") return;
  const end = new Promise<void>((resolve) => connection.once("close", () => resolve()));
  connection.close();
  await Promise.race([end, Bun.sleep(LIMITS.lastWordsMs)]);
}

/** Resolves when what was taken before is answered and the answers, the last words of a polling connection too, are written. */
async function answered(chat: Chat): Promise<void> {
  await chat.settled();
  await nextTick();
}
