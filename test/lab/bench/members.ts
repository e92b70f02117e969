/** Members of rooms over raw sockets: each checks every number it gets, and some send as fast as they are acked. */

import type { Socket } from "bun";
import { createDialect, type DialectName, PACKETS, SENDER } from "./dialects.ts";
import { createSamples, differing, isSampled, type Samples } from "./samples.ts";
import { OPCODES, PONG_FRAME, readFrames, readNumber, textFrame, writeFrame } from "./wire.ts";

/** What went wrong, by kind; a run is good only when all are 0. */
export interface Faults {
  /** Numbers that a member never got before a higher one. */
  skipped: number;
  /** Numbers that came again, or after a higher one. */
  repeatedOrLate: number;
  /** Deliveries that were still owed when everything had been acked and the patience was over. */
  missing: number;
  /** Sends that were answered with anything but `ok: true`, answered twice, or never. */
  unacked: number;
  /** Messages that were looked into and were not what was sent, or not what the ack or another member was told. */
  altered: number;
  /** Frames that nobody should have sent. */
  strange: number;
  /** Connections that the server closed. */
  closed: number;
}

export const noFaults = (): Faults => ({
  skipped: 0,
  repeatedOrLate: 0,
  missing: 0,
  unacked: 0,
  altered: 0,
  strange: 0,
  closed: 0,
});

export interface MembersOptions {
  readonly hostname: string;
  readonly port: number;
  /** Socket.IO where left out. */
  readonly dialect?: DialectName;
  readonly rooms: readonly string[];
  /** In each room. */
  readonly members: number;
  /** Whether they send as well. */
  readonly sending: boolean;
  readonly inFlight: number;
  /** The number of the first message that each room gets; 1 where left out. */
  readonly firstSeq?: number;
  /** What is said, over and over. */
  readonly texts: readonly string[];
  /** Is told when what came; members have their places from 0 on. */
  readonly heard?: Heard;
}

export interface Heard {
  acked(member: number, id: number, seq: number, atMs: number): void;
  delivered(member: number, seq: number, atMs: number): void;
}

export interface Counts {
  readonly acks: number;
  readonly deliveries: number;
  /** Of the frames that carried deliveries, headers included. */
  readonly deliveryBytes: number;
}

export interface Members {
  /** Sends for so long and resolves, once every send is acked, with how many each room had since the beginning. */
  send(durationMs: number): Promise<readonly number[]>;
  /** Sends one now, whatever is in flight, and gives its id: a place's ids are 1, 2, 3, … */
  say(place: number): number;
  /** Resolves, once every send is acked, with how many each room had since the beginning. */
  acked(patienceMs: number): Promise<readonly number[]>;
  /** Resolves when each of these members has so many messages of its room. What is still owed after PATIENCE_MS is a fault. */
  settle(messages: readonly number[]): Promise<void>;
  counts(): Counts;
  readonly faults: Faults;
  /** What was looked into. */
  samples(): Samples;
  /** Leaves, and holds what was looked into of the acks against that of the deliveries. */
  close(): void;
}

/** How long acks and deliveries may take once sending is over. */
export const PATIENCE_MS = 10_000;
/** How long a member may take to be in its room. */
const JOINING_MS_MAX = 30_000;
/** How many connect at once. */
const CONNECT_AT_ONCE = 32;
/** Bytes of sends written together. */
const OUT_BYTES = 256 * 1_024;

interface Member {
  readonly place: number;
  /** Which of the rooms it is in. */
  readonly room: number;
  socket: Socket<Member>;
  /** What of the last chunk was no whole frame. */
  rest: Uint8Array | undefined;
  /** "http", then how many answers of the greeting have come, then "live". */
  phase: "http" | number | "live";
  joined: PromiseWithResolvers<void>;
  /** The number that must come next. */
  next: number;
  sender: Sender | undefined;
  /** What the kernel did not take yet. */
  unwritten: Uint8Array | undefined;
}

interface Sender {
  nextId: number;
  /** Ids that are not acked yet. */
  readonly unacked: Set<number>;
}

export async function openMembers(options: MembersOptions): Promise<Members> {
  const { hostname, port, rooms, inFlight, heard, firstSeq = 1, dialect: spoken = "socket.io" } = options;
  const dialect = createDialect(spoken);
  const { separator } = dialect;
  const faults = noFaults();
  const bodies = rooms.map((room) => options.texts.map((text) => Buffer.from(dialect.body(room, text))));
  const handshake = `GET ${dialect.path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${btoa("0123456789abcdef")}\r\n\r\n`;
  const greetings = rooms.map(dialect.greeting);
  const pong = textFrame(dialect.pong);
  const out = Buffer.alloc(OUT_BYTES);
  const samples = createSamples();
  const said = new Set(options.texts);

  let acks = 0;
  let deliveries = 0;
  let deliveryBytes = 0;
  let sent = 0;
  const sentTo = rooms.map(() => 0);
  let sendUntil = 0;
  let closing = false;
  let waiting: { readonly isOver: () => boolean; readonly resolve: () => void } | undefined;

  function write(member: Member, bytes: Uint8Array) {
    if (member.unwritten !== undefined) {
      member.unwritten = Buffer.concat([member.unwritten, bytes]);
      return;
    }
    const written = Math.max(member.socket.write(bytes), 0);
    if (written < bytes.length) member.unwritten = Buffer.from(bytes.subarray(written));
  }

  function fill(member: Member, sender: Sender, most = inFlight) {
    const texts = bodies[member.room] as Buffer[];
    const before = sent;
    let end = 0;
    while (sender.unacked.size < most) {
      const id = sender.nextId;
      const body = texts[id % texts.length] as Buffer;
      if (end + body.length + 32 > out.length) {
        write(member, out.subarray(0, end));
        end = 0;
      }
      sender.nextId += 1;
      sender.unacked.add(id);
      sent += 1;
      end = writeFrame(out, end, dialect.head(id), body);
    }
    if (end > 0) write(member, out.subarray(0, end));
    sentTo[member.room] = (sentTo[member.room] as number) + sent - before;
  }

  function takeDelivery(member: Member, bytes: Uint8Array, start: number, end: number) {
    const at = dialect.seqAt(bytes, start, end);
    if (at < 0) {
      faults.strange += 1;
      return;
    }
    const seq = readNumber(bytes, at);
    heard?.delivered(member.place, seq, performance.now());
    deliveries += 1;
    deliveryBytes += end - start + (end - start < 126 ? 2 : 4);
    if (seq === member.next) {
      member.next += 1;
      if (isSampled(seq - firstSeq)) lookIntoDelivery(member, bytes, start, end);
    } else if (seq > member.next) {
      faults.skipped += seq - member.next;
      member.next = seq + 1;
    } else {
      faults.repeatedOrLate += 1;
    }
  }

  function lookIntoDelivery({ room }: Member, bytes: Uint8Array, start: number, end: number) {
    const message = dialect.delivered(bytes, start, end);
    const isGood = message.room === rooms[room] && message.sender === SENDER && said.has(message.text);
    if (!samples.deliver(message) || !isGood) faults.altered += 1;
  }

  function takeAck({ sender, place }: Member, bytes: Uint8Array, start: number, end: number) {
    const id = dialect.ackedId(bytes, start);
    const isOk = dialect.isOk(bytes, start, end);
    const at = isOk ? dialect.ackedSeqAt(bytes, start, end) : -1;
    if (at >= 0) {
      const seq = readNumber(bytes, at);
      heard?.acked(place, id, seq, performance.now());
      if (isSampled(seq - firstSeq)) {
        const text = options.texts[id % options.texts.length] as string;
        samples.ack({ ...dialect.acked(bytes, start, end), sender: SENDER, text });
      }
    } else if (heard !== undefined) faults.strange += 1;
    if (sender?.unacked.delete(id) && isOk) acks += 1;
    else faults.unacked += 1;
  }

  /** Frames before the member is in the room come one by one, each an answer to what was said last. */
  function takeGreeting(member: Member, bytes: Uint8Array, start: number, end: number) {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString();
    const answers = greetings[member.room]?.answers ?? [];
    const come = Number(member.phase);
    const answer = answers[come];
    if (answer === undefined || !text.startsWith(answer.begins)) {
      member.joined.reject(new Error(`no answer for ${member.phase}: ${text}`));
      return;
    }
    if (answer.say !== undefined) write(member, textFrame(answer.say));
    if (come + 1 < answers.length) {
      member.phase = come + 1;
    } else {
      member.phase = "live";
      member.joined.resolve();
    }
  }

  function takePacket(member: Member, bytes: Uint8Array, start: number, end: number) {
    const packet = dialect.packet(bytes, start, end);
    if (packet === PACKETS.ping) write(member, pong);
    else if (member.phase !== "live") takeGreeting(member, bytes, start, end);
    else if (packet === PACKETS.delivery) takeDelivery(member, bytes, start, end);
    else if (packet === PACKETS.ack) takeAck(member, bytes, start, end);
    else faults.strange += 1;
  }

  function takePackets(member: Member, bytes: Uint8Array, start: number, end: number, between: number) {
    for (let from = start; from < end;) {
      const next = bytes.indexOf(between, from);
      const until = next < 0 || next > end ? end : next;
      takePacket(member, bytes, from, until);
      from = until + 1;
    }
  }

  function takeChunk(member: Member, chunk: Uint8Array) {
    let bytes = chunk;
    if (member.rest !== undefined) bytes = Buffer.concat([member.rest, chunk]);
    let from = 0;
    if (member.phase === "http") {
      const end = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).indexOf("\r\n\r\n");
      if (end >= 0) {
        member.phase = 0;
        from = end + 4;
        const first = greetings[member.room]?.first;
        if (first !== undefined) write(member, textFrame(first));
      }
    }
    if (member.phase !== "http") {
      from = readFrames(bytes, from, (opcode, frame, start, end) => {
        if (opcode === OPCODES.ping) write(member, PONG_FRAME);
        else if (opcode !== OPCODES.text) faults.strange += 1;
        else if (separator === undefined) takePacket(member, frame, start, end);
        else takePackets(member, frame, start, end, separator);
      });
    }
    member.rest = from < bytes.length ? Buffer.from(bytes.subarray(from)) : undefined;
  }

  /** Looks after each chunk whether it is so; gives up, late enough. */
  async function until(isOver: () => boolean, patienceMs: number) {
    if (isOver()) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    waiting = { isOver, resolve };
    const patience = setTimeout(resolve, patienceMs);
    await promise;
    clearTimeout(patience);
    waiting = undefined;
  }

  const handler = {
    binaryType: "uint8array",
    data({ data: member }: Socket<Member>, chunk: Uint8Array) {
      takeChunk(member, chunk);
      if (member.sender !== undefined && performance.now() < sendUntil) fill(member, member.sender);
      else if (waiting?.isOver()) waiting.resolve();
    },
    drain({ data: member }: Socket<Member>) {
      const { unwritten } = member;
      member.unwritten = undefined;
      if (unwritten !== undefined) write(member, unwritten);
    },
    close({ data: member }: Socket<Member>) {
      if (closing) return;
      faults.closed += 1;
      member.joined.reject(new Error(`closed in phase ${member.phase}`));
    },
  } as const;

  const connect = async (place: number): Promise<Member> => {
    const joined = Promise.withResolvers<void>();
    const socket = await Bun.connect<Member>({
      hostname,
      port,
      socket: handler,
      data: {
        place,
        room: place % rooms.length,
        rest: undefined,
        phase: "http",
        joined,
        next: firstSeq,
        sender: options.sending ? { nextId: 1, unacked: new Set() } : undefined,
        unwritten: undefined,
      } as unknown as Member,
    });
    socket.data.socket = socket;
    write(socket.data, Buffer.from(handshake));
    const late = setTimeout(() => joined.reject(new Error("not in its room in time")), JOINING_MS_MAX);
    await joined.promise.finally(() => clearTimeout(late));
    return socket.data;
  };

  const members: Member[] = [];
  const count = rooms.length * options.members;
  while (members.length < count) {
    const begun = members.length;
    const batch = Math.min(CONNECT_AT_ONCE, count - begun);
    const connecting = Array.from({ length: batch }, (_, index) => connect(begun + index));
    members.push(...(await Promise.all(connecting)));
  }

  async function acked(patienceMs: number) {
    await until(() => performance.now() >= sendUntil && acks === sent, patienceMs);
    for (const { sender } of members) faults.unacked += sender?.unacked.size ?? 0;
    return sentTo;
  }

  return {
    faults,
    samples: samples.all,
    counts: () => ({ acks, deliveries, deliveryBytes }),
    acked,
    send(durationMs) {
      sendUntil = performance.now() + durationMs;
      for (const member of members) if (member.sender !== undefined) fill(member, member.sender);
      return acked(durationMs + PATIENCE_MS);
    },
    say(place) {
      const member = members[place];
      if (member?.sender === undefined) throw new RangeError(`nobody sends at ${place}`);
      fill(member, member.sender, member.sender.unacked.size + 1);
      return member.sender.nextId - 1;
    },
    async settle(messages) {
      const owed = messages.reduce((sum, count) => sum + count, 0) * options.members;
      await until(() => deliveries >= owed, PATIENCE_MS);
      for (const { room, next } of members)
        faults.missing += Math.max((messages[room] as number) - (next - firstSeq), 0);
    },
    close() {
      closing = true;
      const { acked: told, delivered } = samples.all();
      if (options.sending && dialect.acksNumbered) faults.altered += differing(told, delivered);
      for (const { socket } of members) socket.terminate();
    },
  };
}
