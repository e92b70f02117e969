/** The cable between some clients and a service: it can be cut, cut in the middle of an answer, go dead, or clog. */

import { connect, createServer, type Socket } from "node:net";

export interface Cable {
  readonly url: string;
  /** Where the service is from now on. */
  plug(port: number): void;
  /** Breaks every connection at once, both ends told. */
  cut(): void;
  /** From every connection the clients get half of the next bytes, and then its end. */
  halve(): void;
  /**
   * Nothing passes any more on the connections that are there, and nobody is told. `count` says how many they are, `kept`
   * how many of the WebSockets among them the service has not given up yet, `polled` which sessions polled: they come with
   * a connection for each request, and the next ones are dead too. `restore` cuts the rest.
   */
  die(): { readonly count: number; kept(): number; polled(): readonly string[]; restore(): void };
  /** The clients stop reading; what the service writes piles up. */
  clog(): { restore(): void };
  close(): Promise<void>;
}

interface Line {
  readonly client: Socket;
  readonly server: Socket;
  isWebSocket: boolean;
  /** The session of its last polling request. */
  sid: string | undefined;
  isHalved: boolean;
  isServerGone: boolean;
  isDead: boolean;
}

const UPGRADE = /^upgrade: *websocket/im;
const POLL = /^(?:GET|POST) \/socket\.io\/\?[^ ]*\bsid=([^& ]+)/;
/** Who is there polls more often than this: it is pinged. */
const POLLED_MS = 2_000;
/** Where in a request its headers are. */
const HEADERS_WITHIN = 2_000;

export async function openCable(servicePort: number): Promise<Cable> {
  let target = servicePort;
  const lines = new Set<Line>();
  /** When each session last polled. */
  const polled = new Map<string, number>();
  /** Sessions whose clients have vanished, with the connections that are dead for that. */
  const vanished = new Map<string, Line[]>();

  const open = (client: Socket) => {
    const server = connect(target, "127.0.0.1");
    const line: Line = {
      client,
      server,
      isWebSocket: false,
      sid: undefined,
      isHalved: false,
      isServerGone: false,
      isDead: false,
    };
    lines.add(line);
    client.on("data", (bytes: Buffer) => {
      if (line.isDead) return;
      const head = bytes.toString("latin1", 0, HEADERS_WITHIN);
      line.isWebSocket ||= UPGRADE.test(head);
      line.sid = POLL.exec(head)?.[1] ?? line.sid;
      const { sid = "", isWebSocket } = line;
      if (sid !== "" && !isWebSocket) polled.set(sid, performance.now());
      const dead = vanished.get(sid);
      if (dead !== undefined) {
        // Who polls comes with a connection for each request.
        line.isDead = true;
        dead.push(line);
        return;
      }
      if (!server.write(bytes)) client.pause();
    });
    server.on("drain", () => client.resume());
    server.on("data", (bytes: Buffer) => {
      if (line.isDead) return;
      if (line.isHalved) {
        client.end(bytes.subarray(0, bytes.length >> 1));
        server.destroy();
      } else if (!client.write(bytes)) server.pause();
    });
    client.on("drain", () => server.resume());
    const over = (other: Socket) => () => {
      if (other === client) line.isServerGone = true;
      if (line.isDead) return;
      lines.delete(line);
      other.destroy();
    };
    server.on("close", over(client));
    client.on("close", over(server));
    client.on("error", () => {});
    server.on("error", () => {});
  };
  const hub = createServer(open);
  await new Promise<void>((resolve) => hub.listen(0, "127.0.0.1", resolve));
  const address = hub.address();
  if (address === null || typeof address === "string") throw new Error("the cable has no port");

  const destroy = (line: Line) => {
    line.isDead = false;
    lines.delete(line);
    line.client.destroy();
    line.server.destroy();
  };
  return {
    url: `http://127.0.0.1:${address.port}`,
    plug(port) {
      target = port;
    },
    cut() {
      for (const line of [...lines]) destroy(line);
    },
    halve() {
      for (const line of lines) line.isHalved = true;
    },
    die() {
      const dead = [...lines];
      for (const line of dead) line.isDead = true;
      const since = performance.now() - POLLED_MS;
      const sids = [...polled].filter(([, at]) => at > since).map(([sid]) => sid);
      for (const sid of [...sids, ...dead.map(({ sid = "" }) => sid)])
        if (sid !== "") vanished.set(sid, dead);
      return {
        count: dead.length,
        polled: () => sids,
        kept: () => dead.filter(({ isWebSocket, isServerGone }) => isWebSocket && !isServerGone).length,
        restore() {
          for (const [sid, lines] of vanished) if (lines === dead) vanished.delete(sid);
          for (const line of dead) destroy(line);
        },
      };
    },
    clog() {
      const clogged = [...lines];
      for (const { server } of clogged) server.pause();
      return {
        restore() {
          for (const { server } of clogged) server.resume();
        },
      };
    },
    async close() {
      for (const line of [...lines]) destroy(line);
      await new Promise<void>((resolve) => hub.close(() => resolve()));
    },
  };
}
