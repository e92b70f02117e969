/**
 * The peers: how others build the same service, each from its packages and as its users run it, with the semantics of
 * ours (docs/BENCHMARKS.md). Each is installed into the cache folder when it is first asked for.
 */

import { copyFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { DialectName } from "./dialects.ts";
import { CACHE, installed, LeftOut, output } from "./peers/installing.ts";

export type PeerName = "fastapi" | "node-ws" | "node-uws" | "socketioxide" | "centrifugo";

export interface Peer {
  readonly what: string;
  readonly command: readonly string[];
  /** The bench makes the empty store, with our migrations, before it starts. */
  readonly storeMade: boolean;
  /** It keeps nothing on the disk. */
  readonly storeless?: true;
  readonly dialect?: DialectName;
  /** Installs it where it is not yet, and tells the versions of all that matters. Rejects with LeftOut. */
  prepare(): Promise<string>;
}

const source = (...path: readonly string[]) => join(import.meta.dir, "peers", ...path);

const PYTHON = join(CACHE, "fastapi", "bin", "python");
const NODE_SERVER = join(CACHE, "node", "server.mjs");
const NODE_MIN = 20;
const RUST_SERVER = join(CACHE, "socketioxide", "release", "socketioxide-peer");
/** uWebSockets.js itself is on no registry: a copy that somebody else put on npm, unless a path to one's own is given. */
const UWEBSOCKETS_COPY = "uwebsockets";
const UWEBSOCKETS = process.env.UWEBSOCKETS_PATH
  ? resolve(process.env.UWEBSOCKETS_PATH)
  : join(CACHE, "uwebsockets", "node_modules", UWEBSOCKETS_COPY);

export const PEERS: Readonly<Record<PeerName, Peer>> = {
  fastapi: {
    what: "FastAPI with python-socketio on uvicorn (uvloop, httptools, websockets), one worker; a transaction a message, on the loop",
    command: [PYTHON, source("fastapi", "server.py")],
    storeMade: true,
    prepare: prepareFastApi,
  },
  "node-ws": {
    what: "socket.io on Node with ws and better-sqlite3; a transaction a message",
    command: ["node", NODE_SERVER],
    storeMade: true,
    prepare: async () =>
      nodeVersions(await prepareNode(), ["socket.io", "engine.io", "ws", "better-sqlite3"]),
  },
  "node-uws": {
    what: "socket.io on Node with uWebSockets.js and better-sqlite3; a transaction a message",
    command: ["node", NODE_SERVER, "--uws", UWEBSOCKETS],
    storeMade: true,
    prepare: prepareUWebSockets,
  },
  socketioxide: {
    what: "socketioxide on axum and tokio with rusqlite; a transaction a message",
    command: [RUST_SERVER],
    storeMade: true,
    prepare: prepareSocketioxide,
  },
  centrifugo: {
    what: "Centrifugo, history in memory only and nothing validated; JSON over WebSocket, ack is the publish reply",
    command: [process.execPath, source("centrifugo", "launch.ts"), resolve(process.env.CENTRIFUGO_BIN ?? "")],
    storeMade: false,
    storeless: true,
    dialect: "centrifugo",
    prepare: prepareCentrifugo,
  },
};

export const SOCKET_IO_PEERS: readonly PeerName[] = ["fastapi", "node-ws", "node-uws", "socketioxide"];
export const PEER_NAMES: readonly PeerName[] = [...SOCKET_IO_PEERS, "centrifugo"];

async function prepareFastApi(): Promise<string> {
  const requirements = source("fastapi", "requirements.txt");
  const advice = "FastAPI needs python3 (3.10 or newer) with venv, and pip to reach PyPI";
  const runtime = await output(["python3", "--version"], advice);
  await installed("fastapi", { runtime, files: [requirements] }, async (folder) => {
    await output(["python3", "-m", "venv", folder], advice);
    const pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    await output([...pip, "--requirement", requirements], advice);
  });
  const packages = [
    "fastapi",
    "python-socketio",
    "python-engineio",
    "uvicorn",
    "uvloop",
    "httptools",
    "websockets",
  ];
  const script = `import sqlite3, importlib.metadata as m
print(", ".join([*(f"{p} {m.version(p)}" for p in ${JSON.stringify(packages)}), f"SQLite {sqlite3.sqlite_version}"]))`;
  return `${runtime}, ${await output([PYTHON, "-c", script], advice)}`;
}

async function prepareNode(): Promise<string> {
  const advice =
    "socket.io on Node needs node 20 or newer and npm, and what better-sqlite3's install takes: its prebuilt binary or python3 and a C++ compiler";
  const runtime = await output(["node", "--version"], advice);
  if (Number(/^v(\d+)/.exec(runtime)?.[1]) < NODE_MIN) throw new LeftOut(`${advice} (this is ${runtime})`);
  const files = ["package.json", "package-lock.json"].map((file) => source("node", file));
  const folder = await installed("node", { runtime, files }, (into) => npmInstall(files, into, advice));
  // Beside its packages, else it would find the project's own.
  await copyFile(source("node", "server.mjs"), NODE_SERVER);
  await output(["node", "-e", `new (require("better-sqlite3"))(":memory:")`], advice, folder);
  return folder;
}

async function npmInstall(
  files: readonly string[],
  folder: string,
  advice: string,
  ...flags: readonly string[]
): Promise<void> {
  for (const file of files) await copyFile(file, join(folder, file.slice(file.lastIndexOf("/") + 1)));
  await output(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", ...flags], advice, folder);
}

async function nodeVersions(folder: string, packages: readonly string[]): Promise<string> {
  const versions = await Promise.all(
    packages.map(async (name) => {
      const { version } = await Bun.file(join(folder, "node_modules", name, "package.json")).json();
      return `${name} ${version}`;
    }),
  );
  const script = `new (require("better-sqlite3"))(":memory:").prepare("SELECT sqlite_version()").pluck().get()`;
  const runtime = await output(["node", "-p", `process.version + " " + ${script}`], "node fails", folder);
  const [node, sqlite] = runtime.split(" ");
  return `Node ${node}, ${versions.join(", ")}, SQLite ${sqlite}`;
}

async function prepareUWebSockets(): Promise<string> {
  const versions = await nodeVersions(await prepareNode(), ["socket.io", "engine.io", "better-sqlite3"]);
  const own =
    "set UWEBSOCKETS_PATH to a folder of uWebSockets.js (its releases are on its own git host, on no registry) that fits this node and its C library";
  if (!process.env.UWEBSOCKETS_PATH) {
    const files = ["package.json", "package-lock.json"].map((file) => source("uwebsockets", file));
    const runtime = versions;
    await installed("uwebsockets", { runtime, files }, (into) =>
      npmInstall(files, into, own, "--ignore-scripts"),
    );
  }
  await output(["node", "-e", `require(${JSON.stringify(UWEBSOCKETS)}).App()`], own);
  const { name, version } = await Bun.file(join(UWEBSOCKETS, "package.json")).json();
  const abi = await output(["node", "-p", "process.versions.modules"], own);
  const [binary = ""] = await Array.fromAsync(
    new Bun.Glob(`uws_${process.platform}_${process.arch}_${abi}.node`).scan(UWEBSOCKETS),
  );
  const bytes = await Bun.file(join(UWEBSOCKETS, binary)).bytes();
  const hash = new Bun.CryptoHasher("sha256").update(bytes).digest("hex").slice(0, 16);
  const origin = process.env.UWEBSOCKETS_PATH
    ? "UWEBSOCKETS_PATH"
    : `the npm package ${name}, which is not its authors'`;
  return `${versions}, uWebSockets.js from ${origin}: ${version} (${binary}, sha256 ${hash}…)`;
}

async function prepareSocketioxide(): Promise<string> {
  const advice = "socketioxide needs cargo with Rust 1.94 or newer, a C compiler, and crates.io within reach";
  const runtime = await output(["rustc", "--version"], advice);
  const [manifest, lock, main] = ["Cargo.toml", "Cargo.lock", "src/main.rs"].map((file) =>
    source("socketioxide", file),
  ) as [string, string, string];
  await installed("socketioxide", { runtime, files: [manifest, lock, main] }, async (folder) => {
    const build = ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", manifest];
    await output([...build, "--target-dir", folder], advice);
  });
  const locked = await Bun.file(lock).text();
  const crates = ["socketioxide", "engineioxide", "axum", "hyper", "tokio", "tokio-tungstenite", "rusqlite"];
  const versions = crates.map(
    (crate) => `${crate} ${new RegExp(`name = "${crate}"\nversion = "(.+)"`).exec(locked)?.[1]}`,
  );
  const sqlite = await output([RUST_SERVER, "--sqlite-version"], advice);
  return `${runtime}, ${versions.join(", ")}, SQLite ${sqlite}`;
}

async function prepareCentrifugo(): Promise<string> {
  const binary = process.env.CENTRIFUGO_BIN;
  if (!binary)
    throw new LeftOut(
      "set CENTRIFUGO_BIN to its program, version 6: it is released on its own git host, and no package registry has it",
    );
  const advice = "CENTRIFUGO_BIN must name the program of Centrifugo 6";
  const version = await output([resolve(binary), "version"], advice);
  if (!version.startsWith("Centrifugo ")) throw new LeftOut(`${advice} (${version || "it says nothing"})`);
  return version;
}

/** What of the peers is here, with its versions, and what is not, with the reason. */
export interface Prepared {
  readonly ready: ReadonlyMap<PeerName, string>;
  readonly leftOut: ReadonlyMap<PeerName, string>;
}

/** Installs the peers one after the other. Faults other than a missing part are thrown. */
export async function preparePeers(names: readonly PeerName[]): Promise<Prepared> {
  const ready = new Map<PeerName, string>();
  const leftOut = new Map<PeerName, string>();
  for (const name of names) {
    try {
      ready.set(name, await PEERS[name].prepare());
    } catch (error) {
      if (!(error instanceof LeftOut)) throw error;
      leftOut.set(name, error.message);
    }
  }
  return { ready, leftOut };
}
