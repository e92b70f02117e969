/** Connections of stock clients, whichever language they are written in, as the conversations speak through them. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PYTHON } from "../fixture/python.ts";
import { type Command, createStockClient, type Report, type Transport } from "./stock-client.ts";

export type Answer = Readonly<Record<string, unknown>>;

/** What came over a connection, in the order in which it came. */
export interface Heard {
  readonly kind: "event" | "ack";
  /** The event's name, or the name of the event that was acknowledged. */
  readonly name: string;
  readonly body: Answer;
}

export interface Link {
  /** Emits with a callback; resolves with what the callback got, rejects when the connection ends before. */
  call(event: string, ...args: unknown[]): Promise<Answer>;
  /** Emits without a callback. */
  tell(event: string, ...args: unknown[]): void;
  /** The first event of that name that `next` has not given yet; waits for it. */
  next(name: string): Promise<Answer>;
  /** As many of them. */
  take(name: string, count: number): Promise<Answer[]>;
  /** Resolves once that is true of everything so far. */
  until(is: (heard: readonly Heard[]) => boolean): Promise<void>;
  /** Everything so far. */
  readonly heard: readonly Heard[];
  /** Resolves once everything that the server has sent to this connection by now is in `heard`. */
  fence(): Promise<void>;
  /** Resolves once it speaks over the transport that it stays with. */
  readonly steady: Promise<void>;
  /** Resolves with the reason when the connection has ended. */
  readonly closed: Promise<string>;
  close(): Promise<void>;
}

export interface StockClient {
  readonly name: string;
  connect(url: string, transport: Transport): Promise<Link>;
  /** Ends the program behind it; its connections end with it. */
  end(): Promise<void>;
}

const WAIT_MS = 15_000;

interface LinkState extends Link {
  readonly opened: Promise<void>;
  hear(said: Report): void;
}

function createLink(link: number, staysPolling: boolean, send: (command: Command) => void): LinkState {
  const opened = Promise.withResolvers<void>();
  const upgraded = Promise.withResolvers<void>();
  const closed = Promise.withResolvers<string>();
  const heard: Heard[] = [];
  const given = new Map<string, number>();
  const calls: { readonly event: string; readonly resolve: (answer: Answer) => void }[] = [];
  let watchers: (() => void)[] = [];

  function hear(said: Report): void {
    if (said.kind === "opened") opened.resolve();
    else if (said.kind === "failed") opened.reject(new Error(`the connection failed: ${said.message}`));
    else if (said.kind === "upgraded") upgraded.resolve();
    else if (said.kind === "closed") closed.resolve(said.reason);
    else {
      const body = (said.args[0] ?? {}) as Answer;
      if (said.kind === "event") heard.push({ kind: "event", name: said.name, body });
      else {
        const { event, resolve } = calls[said.ack] as (typeof calls)[number];
        heard.push({ kind: "ack", name: event, body });
        resolve(body);
      }
    }
    const woken = watchers;
    watchers = [];
    for (const wake of woken) wake();
  }

  /** Fails loudly, with what was heard last, where the test's own timeout would only say that it took too long. */
  function inTime<T>(promise: Promise<T>, what: string): Promise<T> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new Error(`no ${what} on link ${link}; last heard: ${JSON.stringify(heard.slice(-5))}`));
    }, WAIT_MS);
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  }

  function call(event: string, ...args: unknown[]): Promise<Answer> {
    const { promise, resolve } = Promise.withResolvers<Answer>();
    send({ op: "emit", link, event, args, ack: calls.push({ event, resolve }) - 1 });
    const broken = closed.promise.then((reason) => {
      throw new Error(`${event} was never answered: ${reason}`);
    });
    return inTime(Promise.race([promise, broken]), `ack of ${event}`);
  }

  async function soon(name: string): Promise<Answer> {
    for (;;) {
      for (let index = given.get(name) ?? 0; index < heard.length; index += 1) {
        const one = heard[index] as Heard;
        if (one.kind !== "event" || one.name !== name) continue;
        given.set(name, index + 1);
        return one.body;
      }
      await new Promise<void>((wake) => watchers.push(wake));
    }
  }
  const next = (name: string) => inTime(soon(name), name);

  async function come(is: (heard: readonly Heard[]) => boolean): Promise<void> {
    while (!is(heard)) await new Promise<void>((wake) => watchers.push(wake));
  }

  return {
    hear,
    opened: opened.promise,
    heard,
    steady: staysPolling ? opened.promise : upgraded.promise,
    closed: closed.promise,
    call,
    tell: (event, ...args) => send({ op: "emit", link, event, args, ack: null }),
    next,
    until: (is) => inTime(come(is), "end of the waiting"),
    async take(name, count) {
      const taken: Answer[] = [];
      while (taken.length < count) taken.push(await next(name));
      return taken;
    },
    // Nothing overtakes on one connection, so the answer to anything comes after all that was sent before it.
    async fence() {
      await call("fence");
    },
    async close() {
      send({ op: "close", link });
      await inTime(closed.promise, "end of the connection");
    },
  };
}

function createClient(name: string, drive: (hear: (said: Report) => void) => Driven): StockClient {
  const links: LinkState[] = [];
  const { send, end } = drive((said) => links[said.link]?.hear(said));
  return {
    name,
    async connect(url, transport) {
      const link = createLink(links.length, transport === "polling", send);
      links.push(link);
      const transports =
        transport === "upgrade" ? (["polling", "websocket"] as const) : ([transport] as const);
      send({ op: "open", link: links.length - 1, url, transports });
      await link.opened;
      return link;
    },
    end,
  };
}

interface Driven {
  send(command: Command): void;
  end(): Promise<void>;
}

export function bunClient(): StockClient {
  return createClient("socket.io-client on Bun", (hear) => ({
    send: createStockClient(hear),
    end: async () => {},
  }));
}

export async function nodeClient(): Promise<StockClient> {
  const folder = await mkdtemp(join(tmpdir(), "chat-node-client-"));
  const built = await Bun.build({
    entrypoints: [join(import.meta.dir, "stock-client-node.ts")],
    target: "node",
    outdir: folder,
    naming: "client.mjs",
  });
  if (!built.success) throw new AggregateError(built.logs, "the client for Node does not build");
  return programClient("socket.io-client on Node", ["node", join(folder, "client.mjs")], {
    advice: "the tests need Node 20 or newer on the PATH: install nodejs",
    remove: () => rm(folder, { recursive: true }),
  });
}

export async function pythonClient(): Promise<StockClient> {
  return programClient("python-socketio", [PYTHON, join(import.meta.dir, "stock_client.py")], {
    advice: "the tests' Python packages are missing: run `bun test/fixture/prepare.ts`",
    remove: async () => {},
  });
}

interface ProgramCare {
  readonly advice: string;
  readonly remove: () => Promise<void>;
}

function programClient(name: string, command: string[], { advice, remove }: ProgramCare): StockClient {
  return createClient(name, (hear) => {
    const child = spawn(command, advice);
    const listening = readLines(child.stdout, (line) => hear(JSON.parse(line) as Report));
    return {
      send(order) {
        child.stdin.write(`${JSON.stringify(order)}\n`);
        child.stdin.flush();
      },
      async end() {
        child.stdin.end();
        await child.exited;
        await listening;
        await remove();
      },
    };
  });
}

function spawn(command: string[], advice: string) {
  try {
    return Bun.spawn(command, { stdin: "pipe", stdout: "pipe", stderr: "inherit" });
  } catch (cause) {
    throw new Error(advice, { cause });
  }
}

async function readLines(stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) take(line);
  }
}
