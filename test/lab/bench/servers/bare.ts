/**
 * The limit: what Bun itself can do when it does the same durable work and nothing else. Frames are taken apart and put
 * together by hand, fields are looked at but not validated, and what arrived in one turn of the event loop is committed
 * in one transaction with an fsync, then published, then acked. With `--cork` the acks of a turn go out in one write, and the
 * log grows to about what ours lets it grow to before it is written back.
 */

import { Database } from "bun:sqlite";
import type { ServerWebSocket } from "bun";
import { migrate, SEQ_BITS } from "../../../../src/repository/sqlite/schema.ts";
import { announce, HOST, PORT, storePath } from "./serving.ts";

interface Member {
  readonly rooms: Set<string>;
}

interface Sent {
  readonly socket: ServerWebSocket<Member>;
  readonly ackId: string;
  readonly id: string;
  readonly room: string;
  readonly userId: string;
  readonly text: string;
  readonly at: number;
}

interface Room {
  readonly id: number;
  seq: number;
}

const CORKED = process.argv.includes("--cork");
/** Of 4 kB; SQLite's default is 1,000. */
const CORKED_LOG_PAGES = 4_000;

const db = new Database(storePath(), { create: true, readwrite: true });
db.run("PRAGMA journal_mode = WAL");
migrate(db, storePath());
db.run("PRAGMA synchronous = FULL");
if (CORKED) db.run(`PRAGMA wal_autocheckpoint = ${CORKED_LOG_PAGES}`);
const begin = db.prepare("BEGIN IMMEDIATE");
const commit = db.prepare("COMMIT");
const addRoom = db.prepare("INSERT INTO rooms (name, seq, last_received_at) VALUES (?1, 0, 0)");
const writeRoom = db.prepare("UPDATE rooms SET seq = ?2, last_received_at = ?3 WHERE id = ?1");
const insert = db.prepare(
  `INSERT INTO messages (place, id, user_id, client_id, text, timestamp, received_at)
   VALUES (?1, ?2, ?3, NULL, ?4, ?5, ?5)`,
);

const rooms = new Map<string, Room>();
let turn: Sent[] = [];

function roomOf(name: string): Room {
  const known = rooms.get(name);
  if (known !== undefined) return known;
  const made = { id: Number(addRoom.run(name).lastInsertRowid), seq: 0 };
  rooms.set(name, made);
  return made;
}

function commitTurn() {
  const batch = turn;
  turn = [];
  const touched = new Map<Room, number>();
  const seqs: number[] = [];
  begin.run();
  for (const { room: name, id, userId, text, at } of batch) {
    const room = roomOf(name);
    room.seq += 1;
    insert.run(room.id * 2 ** SEQ_BITS + room.seq, id, userId, text, at);
    touched.set(room, at);
    seqs.push(room.seq);
  }
  for (const [room, at] of touched) writeRoom.run(room.id, room.seq, at);
  commit.run();

  const acks: string[] = [];
  for (const [index, { ackId, id, room, userId, text, at }] of batch.entries()) {
    const seq = seqs[index];
    const time = new Date(at).toISOString();
    const name = JSON.stringify(room);
    server.publish(
      room,
      `42["receive_message",{"id":"${id}","room":${name},"seq":${seq},"user_id":${JSON.stringify(userId)},"message":${JSON.stringify(text)},"timestamp":"${time}","received_at":"${time}"}]`,
    );
    acks.push(
      `43${ackId}[{"ok":true,"id":"${id}","room":${name},"seq":${seq},"timestamp":"${time}","received_at":"${time}","duplicate":false}]`,
    );
  }
  if (CORKED) sendCorked(batch, acks);
  else for (const [index, { socket }] of batch.entries()) socket.send(acks[index] as string);
}

/** The acks of each connection in one write to the kernel. */
function sendCorked(batch: readonly Sent[], acks: readonly string[]) {
  const bySocket = new Map<ServerWebSocket<Member>, string[]>();
  for (const [index, { socket }] of batch.entries()) {
    const own = bySocket.get(socket);
    if (own === undefined) bySocket.set(socket, [acks[index] as string]);
    else own.push(acks[index] as string);
  }
  for (const [socket, own] of bySocket) {
    socket.cork(() => {
      for (const ack of own) socket.send(ack);
    });
  }
}

function takeEvent(socket: ServerWebSocket<Member>, frame: string) {
  const list = frame.indexOf("[");
  const ackId = frame.slice(2, list);
  const [event, payload] = JSON.parse(frame.slice(list));
  const { room, user_id: userId, message: text } = payload;
  if (event === "send_message" && socket.data.rooms.has(room) && typeof text === "string") {
    const at = Date.now();
    if (turn.length === 0) setImmediate(commitTurn);
    turn.push({ socket, ackId, id: Bun.randomUUIDv7("hex", at), room, userId, text, at });
  } else if (event === "join_room" && typeof room === "string") {
    socket.data.rooms.add(room);
    socket.send(`43${ackId}[{"ok":true}]`);
    socket.subscribe(room);
  } else {
    socket.send(`43${ackId}[{"ok":false}]`);
  }
}

const server = Bun.serve<Member>({
  hostname: HOST,
  port: PORT,
  fetch(request, self) {
    return self.upgrade(request, { data: { rooms: new Set<string>() } })
      ? undefined
      : new Response(null, { status: 400 });
  },
  websocket: {
    perMessageDeflate: false,
    open(socket) {
      socket.send("0{}");
    },
    message(socket, frame) {
      const text = String(frame);
      if (text.startsWith("42")) takeEvent(socket, text);
      else if (text === "40") socket.send("40{}");
    },
  },
});

announce(server.port, () => db.close());
