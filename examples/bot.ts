/** A bot in the lobby: answers every message that begins with "!ping". Start it beside the service: bun examples/bot.ts */

import { io } from "socket.io-client";

interface Message {
  seq: number;
  user_id: string;
  message: string;
}

const bot = { room: "lobby", user_id: "ping-bot" };
const socket = io(process.env.CHAT_URL ?? "http://localhost:8000");

socket.on("connect", async () => {
  const joined = await socket.emitWithAck("join_room", bot);
  console.log(joined.ok ? `in ${joined.room}, ${joined.seq} messages so far` : joined.error.message);
});
socket.on("receive_message", async ({ seq, user_id, message }: Message) => {
  if (user_id === bot.user_id || !message.startsWith("!ping")) return;
  // The client_id makes a retry harmless: the same answer to the same message is stored once.
  const answer = { ...bot, message: `pong, ${user_id}`, client_id: `pong-${seq}` };
  const ack = await socket.emitWithAck("send_message", answer);
  if (!ack.ok) console.error(ack.error.message);
});
