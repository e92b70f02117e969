/** Who is compared: each a server process of its own that speaks the same wire and keeps the same rows. */

import { join, resolve } from "node:path";
import { FROM_SOURCE } from "../../fixture/program.ts";
import type { DialectName } from "./dialects.ts";
import { PEERS, type PeerName } from "./peers.ts";

export type ContenderName =
  | "ours"
  | "before"
  | "stock"
  | "stock-tx"
  | "bare"
  | "bare-cork"
  | "memory"
  | "bare-page"
  | "single-file"
  | "node-socket.io"
  | PeerName;

export interface Contender {
  readonly what: string;
  /** Listens at HOST and PORT, keeps its store at SQLITE_PATH, and prints the program's `listening` line. */
  readonly command: readonly string[];
  /** It keeps nothing on the disk, and nothing is looked for there. */
  readonly storeless?: true;
  /** The bench makes the empty store, with our migrations, before it starts. */
  readonly storeMade?: boolean;
  /** A program that must be on the PATH; where it is not, the contender is left out. */
  readonly needs?: string;
  /** Other than Socket.IO with the contract's events. */
  readonly dialect?: DialectName;
}

/** A folder with another commit of this repository, its packages installed; undefined where none is compared with. */
export const BEFORE = process.env.BENCH_BEFORE || undefined;

/** Where the bench builds the program as one file. */
export const SINGLE_FILE = resolve(import.meta.dir, "../../../.cache/bench/chat-service");

const server = (file: string, ...flags: readonly string[]) => [
  process.execPath,
  join(import.meta.dir, "servers", file),
  ...flags,
];

export const CONTENDERS: Readonly<Record<ContenderName, Contender>> = {
  ours: {
    what: "the program itself, src/main.ts, with RATE_LIMIT=off",
    command: FROM_SOURCE,
  },
  before: {
    what: "the program of another checkout, in the folder that BENCH_BEFORE names",
    command: [process.execPath, resolve(BEFORE ?? ".", "src/main.ts")],
  },
  stock: {
    what: "stock Socket.IO on bun-engine with its default adapter; our validation, group commit and store",
    command: server("stock.ts"),
  },
  "stock-tx": {
    what: "stock Socket.IO on bun-engine; our validation; one transaction, fsynced on the loop, a message",
    command: server("stock-tx.ts"),
  },
  bare: {
    what: "the limit: bare Bun.serve, hand-made frames, server.publish, one fsynced transaction a loop turn",
    command: server("bare.ts"),
  },
  "bare-cork": {
    what: "the strongest limit we could build: bare, a turn's acks to one connection in one write, a checkpoint each 4,000 pages of the log",
    command: server("bare.ts", "--cork"),
  },
  memory: {
    what: "ours with a store that keeps messages in memory only: the same stack without a disk",
    command: server("memory.ts"),
    storeless: true,
  },
  "bare-page": {
    what: "the limit over HTTP: Bun.serve that returns the same bytes each time",
    command: server("bare-page.ts"),
    storeless: true,
  },
  "single-file": {
    what: "ours as one compiled file",
    command: [SINGLE_FILE],
  },
  "node-socket.io": {
    what: "http and stock socket.io on Node, with nothing else to load",
    command: ["node", join(import.meta.dir, "servers/node-socket.io.js")],
    needs: "node",
    storeless: true,
  },
  ...PEERS,
};

/** Servers that take settings from the environment (ours) hear the same; the others have none to take. */
export const ENVIRONMENT: Readonly<Record<string, string>> = {
  RATE_LIMIT: "off",
  // Nothing is logged for a message at this level, and the line that names the port is.
  LOG_LEVEL: "info",
  DRAIN_MS: "0",
};
