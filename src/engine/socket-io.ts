/**
 * The Socket.IO protocol, revision 5, over sessions of the engine (https://socket.io/docs/v4/socket-io-protocol/). Packets are
 * read and written by Socket.IO's own parser, but for the two that nearly every packet is: an event that a namespace knows,
 * and an acknowledgement that is encoded already. What the stock server keeps for each connection (emitters, bound
 * functions, a decoder, rooms by name twice) costs four times what is kept here (docs/adr/0005).
 */

import { Decoder, Encoder, type Packet, PacketType } from "socket.io-parser";
import type { EngineSession, Receiver } from "./session.ts";

/** What is done with those who connect to a namespace, and with what they say. Nothing here may throw. */
export interface Namespace<T> {
  /** The events it knows; any other name comes to `onEvent` all the same. */
  readonly events: ReadonlySet<string>;
  /** A client connects, and is told so right after this; the value is kept as its `data`. */
  admit(peer: Peer<T>, auth: unknown): T;
  /** @param ackId the client waits for an acknowledgement by this number */
  onEvent(peer: Peer<T>, name: string | number, args: readonly unknown[], ackId: number | undefined): void;
  /** The session has a WebSocket from now on. */
  onUpgrade(peer: Peer<T>): void;
  /** The client has left the namespace, or is gone. */
  onDisconnect(peer: Peer<T>, reason: string): void;
}

export interface SocketIo {
  /** Takes a new session of the engine. */
  accept(session: EngineSession): Receiver;
}

export interface SocketIoOptions {
  /** By name; `/` is the default one. */
  readonly namespaces: ReadonlyMap<string, Namespace<unknown>>;
  /** How long a session may be in no namespace, from its beginning; and how long a packet may wait for its attachments. */
  readonly connectTimeoutMs: number;
  /** Longest packet with all its attachments: the session is ended beyond. */
  readonly packetBytesMax: number;
}

const EVENT_CHAR = "2".charCodeAt(0);
const ZERO_CHAR = "0".charCodeAt(0);
const NINE_CHAR = "9".charCodeAt(0);
const LIST_CHAR = "[".charCodeAt(0);
/** Digits of an acknowledgement's number that are surely a whole number. */
const ACK_DIGITS_MAX = 15;

/** Engine.IO's packet type `message`, in front of every Socket.IO packet. */
const MESSAGE = "4";
const DEFAULT_NAMESPACE = "/";

const encoder = new Encoder();

/** One client in one namespace. A class for its prototype: there is one for each connection. */
export class Peer<T> {
  readonly session: EngineSession;
  readonly namespace: string;
  /** Its public name: the session's own must stay a secret between client and server. */
  readonly id: string;
  /** Set by the namespace's `admit`. */
  data!: T;

  constructor(session: EngineSession, namespace: string, id: string) {
    this.session = session;
    this.namespace = namespace;
    this.id = id;
  }

  emit(name: string, ...args: readonly unknown[]) {
    writePacket(this.session, { type: PacketType.EVENT, nsp: this.namespace, data: [name, ...args] });
  }

  ack(id: number, ...args: readonly unknown[]) {
    writePacket(this.session, { type: PacketType.ACK, nsp: this.namespace, id, data: args });
  }

  /** As `ack`, of one argument that is JSON already. */
  ackJson(id: number, json: string) {
    const namespace = this.namespace === DEFAULT_NAMESPACE ? "" : `${this.namespace},`;
    this.session.sendText(`${MESSAGE}${PacketType.ACK}${namespace}${id}[${json}]`);
  }
}

/** An event of the default namespace as one frame, its one argument JSON already. */
export const eventFrame = (name: string, json: string) => `${MESSAGE}${PacketType.EVENT}["${name}",${json}]`;

/** With attachments a packet is several frames. */
function writePacket(session: EngineSession, packet: Packet) {
  for (const part of encoder.encode(packet) as (string | Uint8Array)[]) {
    if (typeof part === "string") session.sendText(MESSAGE + part);
    else session.sendBinary(part);
  }
}

/** A packet of which the parser has not seen all. */
interface Unfinished {
  readonly decoder: Decoder;
  /** Of it and its attachments so far. */
  bytes: number;
  /** Its session has a time for it to be whole. */
  isAwaited: boolean;
}

export function createSocketIo({ namespaces, connectTimeoutMs, packetBytesMax }: SocketIoOptions): SocketIo {
  /** In no namespace yet, or with a packet that lacks attachments; the oldest first, and until when they may be so. */
  const waiting = new Map<Client, number>();
  let timer: Timer | undefined;

  function watch() {
    const [first] = waiting.values();
    timer = first === undefined ? undefined : setTimeout(closeLate, Math.max(first - performance.now(), 1));
    timer?.unref();
  }

  function closeLate() {
    const now = performance.now();
    for (const [client, until] of waiting) {
      if (until > now) break;
      waiting.delete(client);
      client.onLate();
    }
    watch();
  }

  function awaitFrom(client: Client) {
    waiting.set(client, performance.now() + connectTimeoutMs);
    if (timer === undefined) watch();
  }

  class Client implements Receiver {
    readonly session: EngineSession;
    /** Its connection to the default namespace, and to others where it has any. */
    #root: Peer<unknown> | undefined = undefined;
    #others: Map<string, Peer<unknown>> | undefined = undefined;
    /** There while a packet waits for its attachments. */
    #unfinished: Unfinished | undefined = undefined;

    constructor(session: EngineSession) {
      this.session = session;
    }

    onText(text: string, at: number) {
      if (this.#root !== undefined && this.#unfinished === undefined && this.#takeEvent(this.#root, text, at))
        return;
      // Nothing at all would pass for a CONNECT with the parser.
      if (text.length === at) this.session.close();
      else this.#decode(text.slice(at));
    }

    onBinary(bytes: Uint8Array) {
      this.#decode(bytes);
    }

    onUpgrade() {
      for (const peer of this.#peers()) namespaces.get(peer.namespace)?.onUpgrade(peer);
    }

    onClose(reason: string) {
      waiting.delete(this);
      this.#unfinished = undefined;
      for (const peer of this.#peers()) this.#leave(peer, reason);
    }

    /** What it owed has not come in time. */
    onLate() {
      if (this.#unfinished === undefined) this.session.close();
      else this.session.endForAbuse("packet_unfinished");
    }

    #peers(): Peer<unknown>[] {
      const others = this.#others?.values() ?? [];
      return this.#root === undefined ? [...others] : [this.#root, ...others];
    }

    /** An event that the default namespace knows, without attachments; false for everything else. */
    #takeEvent(peer: Peer<unknown>, text: string, at: number): boolean {
      if (text.charCodeAt(at) !== EVENT_CHAR) return false;
      let list = at + 1;
      let ackId = 0;
      for (;;) {
        const char = text.charCodeAt(list);
        if (char === LIST_CHAR) break;
        if (!(char >= ZERO_CHAR && char <= NINE_CHAR) || list - at > ACK_DIGITS_MAX) return false;
        ackId = ackId * 10 + (char - ZERO_CHAR);
        list += 1;
      }
      const packet = parsedOrUndefined(text.slice(list));
      if (!Array.isArray(packet)) return false;
      const [name, ...args] = packet as unknown[];
      const namespace = namespaces.get(DEFAULT_NAMESPACE);
      if (typeof name !== "string" || !namespace?.events.has(name)) return false;
      namespace.onEvent(peer, name, args, list === at + 1 ? undefined : ackId);
      return true;
    }

    #decode(part: string | Uint8Array) {
      const packet = this.#unfinished ?? this.#begin();
      packet.bytes += typeof part === "string" ? Buffer.byteLength(part) : part.length;
      if (packet.bytes > packetBytesMax) {
        this.session.endForAbuse("packet_too_long");
        return;
      }
      try {
        packet.decoder.add(part);
      } catch {
        // Not a packet: a client that says such a thing cannot be talked to.
        this.#unfinished = undefined;
        this.session.close();
      }
      // Clients without a namespace already have a timeout.
      if (this.#unfinished === undefined || waiting.has(this)) return;
      packet.isAwaited = true;
      awaitFrom(this);
    }

    #begin(): Unfinished {
      const decoder = new Decoder();
      const begun: Unfinished = { decoder, bytes: 0, isAwaited: false };
      decoder.on("decoded", (packet: Packet) => {
        this.#unfinished = undefined;
        if (begun.isAwaited) waiting.delete(this);
        this.#take(packet);
      });
      this.#unfinished = begun;
      return begun;
    }

    #take({ type, nsp, data, id }: Packet) {
      const peer = nsp === DEFAULT_NAMESPACE ? this.#root : this.#others?.get(nsp);
      if (peer === undefined && type === PacketType.CONNECT) this.#connect(nsp, data);
      else if (peer === undefined || type === PacketType.CONNECT || type === PacketType.CONNECT_ERROR)
        this.session.close();
      else if (type === PacketType.DISCONNECT) this.#leave(peer, "client namespace disconnect");
      else if (type === PacketType.EVENT) {
        const [name, ...args] = data as [string | number, ...unknown[]];
        namespaces.get(nsp)?.onEvent(peer, name, args, id);
      }
      // An acknowledgement: nobody here asks for one.
    }

    #connect(name: string, auth: unknown = {}) {
      const { session } = this;
      const namespace = namespaces.get(name);
      if (namespace === undefined) {
        const data = { message: "Invalid namespace" };
        writePacket(session, { type: PacketType.CONNECT_ERROR, nsp: name, data });
        return;
      }
      waiting.delete(this);
      const peer = new Peer<unknown>(session, name, Bun.randomUUIDv7("base64url"));
      if (name === DEFAULT_NAMESPACE) {
        this.#root = peer;
      } else {
        this.#others ??= new Map();
        this.#others.set(name, peer);
      }
      peer.data = namespace.admit(peer, auth);
      writePacket(session, { type: PacketType.CONNECT, nsp: name, data: { sid: peer.id } });
    }

    #leave(peer: Peer<unknown>, reason: string) {
      if (peer === this.#root) this.#root = undefined;
      else this.#others?.delete(peer.namespace);
      namespaces.get(peer.namespace)?.onDisconnect(peer, reason);
    }
  }

  return {
    accept(session) {
      const client = new Client(session);
      awaitFrom(client);
      return client;
    },
  };
}

function parsedOrUndefined(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}
