/** Two well-behaved clients that chat on while the others do their worst: what they say arrives, in order, once. */

import { io, type Socket } from "socket.io-client";
import type { WireMessage } from "../../../src/protocol/wire.ts";
import type { SendAnswer } from "../../fixture/member.ts";

export interface Canary {
  readonly faults: readonly string[];
  readonly acked: number;
  /** Says no more, waits for what is under way, and judges that both were shown everything. */
  stop(): Promise<void>;
}

const ROOM = "canary";
const GAP_MS = 25;
const ANSWER_MS = 20_000;

async function join(
  url: string,
  transport: string,
  onMessage: (message: WireMessage) => void,
): Promise<Socket> {
  const socket = io(url, { transports: [transport], forceNew: true, reconnection: false });
  socket.on("receive_message", onMessage);
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("connect_error", reject);
  });
  await socket.timeout(ANSWER_MS).emitWithAck("join_room", { room: ROOM, user_id: transport });
  return socket;
}

export async function startCanary(url: string): Promise<Canary> {
  const faults: string[] = [];
  const heard = new Map<string, number>();
  let acked = 0;
  let over = false;
  const sockets: Socket[] = [];
  const fault = (what: string) => {
    if (faults.length < 10) faults.push(what);
  };
  for (const transport of ["websocket", "polling"]) {
    const socket = await join(url, transport, (message) => {
      const last = heard.get(transport) ?? 0;
      if (message.seq !== last + 1)
        fault(`the canary on ${transport} was shown ${message.seq} after ${last}`);
      if (!/^tweet \d+$/.test(message.message)) fault("somebody else spoke in the canaries' room");
      heard.set(transport, message.seq ?? last);
    });
    socket.on("disconnect", (reason) => {
      if (!over) fault(`the canary on ${transport} was cut off: ${reason}`);
    });
    sockets.push(socket);
  }
  const said = async () => {
    for (let n = 0; !over; n += 1) {
      const socket = sockets[n % 2] as Socket;
      const draft = { room: ROOM, user_id: "canary", message: `tweet ${n}` };
      try {
        const answer: SendAnswer = await socket.timeout(ANSWER_MS).emitWithAck("send_message", draft);
        if (!answer.ok) fault(`the canary was refused with ${answer.error.code}`);
        else if (answer.seq !== acked + 1)
          fault(`the canary's message ${acked + 1} was acked as ${answer.seq}`);
        acked += 1;
      } catch (error) {
        fault(`the canary was not answered: ${String(error)}`);
        return;
      }
      await Bun.sleep(GAP_MS);
    }
  };
  const talking = said();
  return {
    faults,
    get acked() {
      return acked;
    },
    async stop() {
      over = true;
      await talking;
      const deadline = performance.now() + ANSWER_MS;
      const isShort = () => ["websocket", "polling"].some((transport) => (heard.get(transport) ?? 0) < acked);
      while (isShort() && performance.now() < deadline) await Bun.sleep(10);
      if (isShort()) fault(`of ${acked} messages the canaries were shown ${JSON.stringify([...heard])}`);
      for (const socket of sockets) socket.disconnect();
    },
  };
}
