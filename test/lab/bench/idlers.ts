/** Many clients that connect, join a room and then only listen: raw sockets that answer pings, and some that poll. */

import type { Socket } from "bun";
import { OPCODES, PONG_FRAME, readFrames, textFrame } from "./wire.ts";

/** How many connect at once when nobody asks for a storm: as many as keep a core of the server busy. */
const CONNECT_AT_ONCE = 256;
/** How long a client may take to be in its room. */
const PATIENCE_MS = 30_000;

/** What a join was answered with. */
export interface JoinAck {
  readonly ok: boolean;
  readonly seq?: number;
  readonly recovered?: boolean;
  readonly complete?: boolean;
  readonly messages?: readonly { readonly seq: number }[];
}

/** Whether it got all of a room after what it had seen, and nothing else. */
export const hasAllAfter = (ack: JoinAck, since: number, head: number): boolean =>
  ack.recovered === true &&
  ack.complete === true &&
  ack.messages?.length === head - since &&
  ack.messages.every(({ seq }, index) => seq === since + 1 + index);

export interface Idler {
  readonly room: string;
  readonly ack: JoinAck;
  /** Sends this to its room; nobody waits for the answer. */
  say(text: string): void;
  /** The numbers of what came live. */
  readonly live: readonly number[];
  /** Resolves once it is gone, by its own end or by ours. */
  readonly gone: Promise<void>;
  /** Vanishes without a word. */
  drop(): void;
}

export interface Joining {
  readonly hostname: string;
  readonly port: number;
  readonly room: string;
  readonly since?: number | undefined;
}

interface State {
  rest: Uint8Array | undefined;
  inHttp: boolean;
  live: number[];
}

const PONG = textFrame("3");
const NAMESPACE = textFrame("40");
const joinFrame = ({ room, since }: Joining) =>
  textFrame(`420${JSON.stringify(["join_room", { room, since }])}`);
const decoder = new TextDecoder();

/** Resolves once it is in its room; rejects, saying why, when it is refused, closed or too late. */
export async function joinBySocket(joining: Joining): Promise<Idler> {
  const joined = Promise.withResolvers<JoinAck>();
  const gone = Promise.withResolvers<void>();
  const state: State = { rest: undefined, inHttp: true, live: [] };
  const timer = setTimeout(() => joined.reject(new Error("not in its room in time")), PATIENCE_MS);

  function hear(socket: Socket, opcode: number, bytes: Uint8Array, start: number, end: number) {
    if (opcode === OPCODES.ping) socket.write(PONG_FRAME);
    if (opcode === OPCODES.close) socket.end();
    if (opcode !== OPCODES.text) return;
    const text = decoder.decode(bytes.subarray(start, end));
    if (text === "2") socket.write(PONG);
    else if (text.startsWith("0")) socket.write(NAMESPACE);
    else if (text.startsWith("40")) socket.write(joinFrame(joining));
    else if (text.startsWith("430")) joined.resolve(JSON.parse(text.slice(3))[0] as JoinAck);
    else if (text.startsWith('42["receive_message"')) state.live.push(JSON.parse(text.slice(2))[1].seq);
    else if (text.startsWith("44")) joined.reject(new Error(`refused: ${text}`));
  }

  const socket = await Bun.connect({
    hostname: joining.hostname,
    port: joining.port,
    socket: {
      open(opened) {
        opened.write(
          `GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: ${joining.hostname}:${joining.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${btoa("0123456789abcdef")}\r\n\r\n`,
        );
      },
      data(opened, chunk) {
        let bytes = state.rest === undefined ? chunk : Buffer.concat([state.rest, chunk]);
        if (state.inHttp) {
          const end = Buffer.from(bytes).indexOf("\r\n\r\n");
          state.rest = bytes;
          if (end < 0) return;
          const head = decoder.decode(bytes.subarray(0, end));
          if (!head.startsWith("HTTP/1.1 101")) joined.reject(new Error(head.split("\r\n", 1)[0]));
          state.inHttp = false;
          bytes = bytes.subarray(end + 4);
        }
        const read = readFrames(bytes, 0, (...frame) => hear(opened, ...frame));
        state.rest = read === bytes.length ? undefined : Buffer.from(bytes.subarray(read));
      },
      close() {
        joined.reject(new Error("closed before it was in its room"));
        gone.resolve();
      },
      error: (_, error) => joined.reject(error),
    },
  });
  try {
    const ack = await joined.promise;
    if (!ack.ok) throw new Error(`the join was refused: ${JSON.stringify(ack)}`);
    return {
      room: joining.room,
      ack,
      live: state.live,
      gone: gone.promise,
      say: (message) =>
        void socket.write(
          textFrame(`42${JSON.stringify(["send_message", { room: joining.room, user_id: "ada", message }])}`),
        ),
      drop: () => socket.terminate(),
    };
  } finally {
    clearTimeout(timer);
  }
}

/** The same over polling; it asks again and again until it is dropped. */
export async function joinByPolling(joining: Joining): Promise<Idler> {
  const at = `http://${joining.hostname}:${joining.port}/socket.io/?EIO=4&transport=polling`;
  const ended = new AbortController();
  const ask = async (path: string, body?: string): Promise<string> => {
    const response = await fetch(path, {
      signal: ended.signal,
      ...(body === undefined ? {} : { method: "POST", body }),
    });
    if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
    return response.text();
  };
  const { sid } = JSON.parse((await ask(at)).slice(1)) as { sid: string };
  const session = `${at}&sid=${sid}`;
  await ask(session, "40");
  await ask(session);
  const { room, since } = joining;
  await ask(session, `420${JSON.stringify(["join_room", { room, since }])}`);
  const live: number[] = [];
  let ack: JoinAck | undefined;
  const poll = async () => {
    for (const packet of (await ask(session)).split("\x1e")) {
      if (packet === "2") await ask(session, "3");
      else if (packet.startsWith("430")) ack = JSON.parse(packet.slice(3))[0];
      else if (packet.startsWith('42["receive_message"')) live.push(JSON.parse(packet.slice(2))[1].seq);
    }
  };
  while (ack === undefined) await poll();
  const polling = async () => {
    while (!ended.signal.aborted) await poll();
  };
  return {
    room,
    ack,
    live,
    gone: polling().catch(() => {}),
    say: (message) =>
      void ask(session, `42${JSON.stringify(["send_message", { room, user_id: "ada", message }])}`),
    drop: () => ended.abort(),
  };
}

/** Brings so many in, a few at once; `stormy`: all in the same moment. Counts what went wrong by its words. */
export async function bringIn(
  joinings: readonly Joining[],
  join: (joining: Joining) => Promise<Idler>,
  { stormy = false } = {},
): Promise<{ idlers: Idler[]; errors: Map<string, number> }> {
  const idlers: Idler[] = [];
  const errors = new Map<string, number>();
  const left = joinings.values();
  const one = async () => {
    for (const joining of left) {
      try {
        idlers.push(await join(joining));
      } catch (error) {
        const said = (error as Error).message;
        errors.set(said, (errors.get(said) ?? 0) + 1);
      }
    }
  };
  await Promise.all(Array.from({ length: stormy ? joinings.length : CONNECT_AT_ONCE }, one));
  return { idlers, errors };
}
