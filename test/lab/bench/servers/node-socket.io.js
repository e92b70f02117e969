/** The least that a chat service on Node starts with: http, stock socket.io, and an answer to `GET /`. */

import { createServer } from "node:http";
import { Server } from "socket.io";

const { HOST = "127.0.0.1", PORT = "0" } = process.env;

const server = createServer((_, response) => {
  response.writeHead(200, { "content-type": "application/json" });
  response.end('{"status":"ok"}');
});
const io = new Server(server);
io.on("connection", (socket) => {
  socket.on("join_room", ({ room }, ack) => {
    socket.join(room);
    ack({ ok: true, room });
  });
  socket.on("send_message", (message, ack) => {
    io.to(message.room).emit("receive_message", message);
    ack({ ok: true });
  });
});
process.on("SIGTERM", () => process.exit(0));
server.listen(Number(PORT), HOST, () => {
  console.log(JSON.stringify({ event: "listening", url: `http://${HOST}:${server.address().port}` }));
});
