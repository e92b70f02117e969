/** A MongoDB server for one lane of plans, that can be killed, stalled and made to fail. */

import { rm } from "node:fs/promises";
import { type Document, MongoClient } from "mongodb";
import { type MongoServer, startMongo } from "../../fixture/mongodb.ts";
import { temporaryFolder } from "../../fixture/program.ts";

/** What the server does on purpose, to commands of the service only: the oracle and the operator must be able to look. */
export type FailCommand = Document & { readonly failCommands: readonly string[] };

export interface Database {
  readonly uri: string;
  /** Of its process now; a restart changes it. */
  pid(): number;
  kill(): Promise<void>;
  /** Resolves once it listens again, on what it kept. */
  restart(): Promise<void>;
  pause(): void;
  resume(): void;
  /** Resolves once it fails so, every time, until `null`. */
  fail(how: FailCommand | null): Promise<void>;
  drop(name: string): Promise<void>;
  /** Another program at the server; the faults do not reach it. */
  operate(work: (client: MongoClient) => Promise<unknown>): Promise<void>;
  close(): Promise<void>;
}

export async function openDatabase(): Promise<Database> {
  const folder = await temporaryFolder();
  const options = { storagePath: folder.path, failpoints: true };
  let server: MongoServer = await startMongo(options);
  let isUp = true;
  const { uri, port } = server;
  // It ends when this process does, but not while it is stopped.
  process.on("exit", () => server.resume());

  async function asOperator(work: (client: MongoClient) => Promise<unknown>): Promise<void> {
    const client = await MongoClient.connect(uri, { serverSelectionTimeoutMS: 10_000 });
    try {
      await work(client);
    } finally {
      await client.close();
    }
  }

  return {
    uri,
    pid: () => server.pid,
    async kill() {
      if (!isUp) return;
      isUp = false;
      await server.kill();
    },
    async restart() {
      if (isUp) return;
      server = await startMongo({ ...options, port });
      isUp = true;
    },
    pause: () => {
      if (isUp) server.pause();
    },
    resume: () => {
      if (isUp) server.resume();
    },
    fail: (how) =>
      asOperator((client) =>
        client.db("admin").command({
          configureFailPoint: "failCommand",
          mode: how === null ? "off" : "alwaysOn",
          data: { ...(how ?? { failCommands: [] }), appName: "chat-service" },
        }),
      ),
    operate: asOperator,
    drop: (name) => asOperator((client) => client.db(name).dropDatabase()),
    async close() {
      await server.stop();
      await rm(folder.path, { recursive: true, force: true });
    },
  };
}
