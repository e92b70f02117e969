/**
 * A peer of the bench: socket.io on Node, over ws or (with `--uws`) over uWebSockets.js; each message a transaction of its
 * own, fsynced before it is delivered and acked.
 */

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import Database from "better-sqlite3";
import { Server } from "socket.io";

const MESSAGE_BYTES_MAX = 16_384;
const NAME_CODE_POINTS_MAX = 128;
const SEQ_FACTOR = 2 ** 32;
const HEALTHY = JSON.stringify({ status: "ok" });
const CONTROL = /\p{Cc}/u;

const host = process.env.HOST ?? "127.0.0.1";
const port = Number(process.env.PORT ?? 0);
/** The module's path follows the flag. */
const uws = process.argv.indexOf("--uws");

const db = new Database(process.env.SQLITE_PATH);
db.pragma("journal_mode = WAL");
db.pragma("synchronous = FULL");
const findRoom = db.prepare("SELECT id, seq FROM rooms WHERE name = ?");
const addRoom = db.prepare("INSERT INTO rooms (name, seq, last_received_at) VALUES (?, 0, 0)");
const writeRoom = db.prepare("UPDATE rooms SET seq = ?, last_received_at = ? WHERE id = ?");
const insert = db.prepare(
  `INSERT INTO messages (place, id, user_id, client_id, text, timestamp, received_at)
   VALUES (?, ?, ?, ?, ?, ?, ?)`,
);

/** On disk when it returns the number. */
const append = db.transaction((id, { room: name, user_id, client_id, message }, timestamp, receivedAt) => {
  const room = findRoom.get(name) ?? { id: Number(addRoom.run(name).lastInsertRowid), seq: 0 };
  const seq = room.seq + 1;
  insert.run(room.id * SEQ_FACTOR + seq, id, user_id, client_id ?? null, message, timestamp, receivedAt);
  writeRoom.run(seq, receivedAt, room.id);
  return seq;
});

const isName = (text) =>
  typeof text === "string" &&
  text.trim() !== "" &&
  text.length <= 2 * NAME_CODE_POINTS_MAX &&
  (text.length <= NAME_CODE_POINTS_MAX || [...text].length <= NAME_CODE_POINTS_MAX) &&
  !CONTROL.test(text) &&
  text.isWellFormed() &&
  text !== "." &&
  text !== "..";

const isText = (text) =>
  typeof text === "string" &&
  text.trim() !== "" &&
  !text.includes("\0") &&
  text.isWellFormed() &&
  Buffer.byteLength(text) <= MESSAGE_BYTES_MAX;

const isSend = (sent) =>
  isName(sent?.room) &&
  isName(sent.user_id) &&
  isText(sent.message) &&
  (sent.client_id === undefined || isName(sent.client_id)) &&
  (sent.timestamp === undefined || !Number.isNaN(Date.parse(sent.timestamp)));

const refusal = (code) => ({ ok: false, error: { code } });

const io = new Server();

io.on("connection", (socket) => {
  socket.on("join_room", (payload, ack) => {
    if (!isName(payload?.room)) return ack(refusal("invalid_payload"));
    socket.join(payload.room);
    ack({ ok: true, room: payload.room });
  });
  socket.on("send_message", (sent, ack) => {
    if (!isSend(sent)) return ack(refusal("invalid_payload"));
    const { room, user_id, message } = sent;
    if (!socket.rooms.has(room)) return ack(refusal("not_in_room"));
    const id = randomUUID();
    const receivedAt = Date.now();
    const given = sent.timestamp === undefined ? receivedAt : Date.parse(sent.timestamp);
    const seq = append.immediate(id, sent, given, receivedAt);
    const timestamp = new Date(given).toISOString();
    const received_at = new Date(receivedAt).toISOString();
    io.to(room).emit("receive_message", { id, room, seq, user_id, message, timestamp, received_at });
    ack({ ok: true, id, room, seq, timestamp, received_at, duplicate: false });
  });
});

function announce(at) {
  process.on("SIGTERM", () => {
    db.close();
    process.exit(0);
  });
  console.log(JSON.stringify({ event: "listening", url: `http://${host}:${at}` }));
}

if (uws < 0) {
  const server = createServer((request, response) => {
    const isHealth = request.url === "/";
    response.writeHead(isHealth ? 200 : 404, { "content-type": "application/json" });
    response.end(isHealth ? HEALTHY : "{}");
  });
  io.attach(server);
  server.listen(port, host, () => announce(server.address().port));
} else {
  const { App, us_socket_local_port: portOf } = createRequire(import.meta.url)(process.argv[uws + 1]);
  const app = App();
  app.get("/", (response) => {
    response.writeHeader("content-type", "application/json").end(HEALTHY);
  });
  io.attachApp(app);
  app.listen(host, port, (listening) => {
    if (!listening) throw new Error(`uWebSockets.js cannot listen at ${host}:${port}`);
    announce(portOf(listening));
  });
}
