/** Fan-out through Bun's topics: a packet for a room is encoded once and published, not written to each member. */

import type { Namespace, Socket } from "socket.io";
import { Adapter, type BroadcastOptions, type Room, type SocketId } from "socket.io-adapter";
import type { EngineHost, EngineSocket } from "./engine.ts";

export interface FanoutDeps {
  /** The WebSocket of a connection; undefined while it polls. Known when the connection emits `upgrade`. */
  readonly webSocketOf: (connection: object) => EngineSocket | undefined;
  readonly server: () => EngineHost;
  /** Whether so many bytes may go to a topic now; counts them when so. */
  readonly mayPublish: (bytes: number) => boolean;
}

type Packet = Parameters<Adapter["broadcast"]>[0];

/** Engine.IO's packet type `message`, in front of every Socket.IO packet. */
const MESSAGE = "4";

/**
 * An adapter for `io.adapter()` that delivers the same packets in the same order as the stock one, with one
 * difference: nobody's `onAnyOutgoing` is told of a broadcast that was published.
 *
 * Order: Bun flushes a socket's pending publishes before it sends anything to it directly, and a socket with a WebSocket
 * has no queue in the engine, so neither kind of delivery overtakes the other. Members that poll, or are not let in yet,
 * are in no topic: they take the loop, until the engine says `upgrade`, just before it flushes what it has queued.
 */
export function createFanoutAdapter(deps: FanoutDeps): typeof Adapter {
  return class extends FanoutAdapter {
    constructor(nsp: Namespace) {
      super(nsp, deps);
    }
  };
}

class FanoutAdapter extends Adapter {
  readonly #namespace: Namespace;
  readonly #deps: FanoutDeps;
  /** Members that hear by topic, each by its own WebSocket. */
  readonly #native = new Map<SocketId, EngineSocket>();
  /** Which member of this namespace a WebSocket speaks for: a second one on it takes the loop. */
  readonly #ownerOf = new WeakMap<EngineSocket, SocketId>();
  /** Members that take the loop: all of them, and by room. No entry where there are none. */
  readonly #looped = new Set<SocketId>();
  readonly #loopedIn = new Map<Room, Set<SocketId>>();

  constructor(nsp: Namespace, deps: FanoutDeps) {
    super(nsp);
    this.#namespace = nsp;
    this.#deps = deps;
  }

  override addAll(id: SocketId, rooms: Set<Room>): void {
    super.addAll(id, rooms);
    const native = this.#native.get(id);
    if (native !== undefined) {
      for (const room of rooms) if (room !== id) native.subscribe(this.#topic(room));
      return;
    }
    // A socket that is not let in yet (a middleware made it join) is in no list: the loop passes over it too, and
    // joining its own room, the first thing that happens when it is let in, brings it here again.
    const socket = this.#namespace.sockets.get(id);
    if (socket === undefined) return;
    if (this.#looped.has(id)) {
      for (const room of rooms) this.#loop(id, room);
      return;
    }
    this.#looped.add(id);
    for (const room of this.sids.get(id) ?? []) this.#loop(id, room);
    if (this.#goNative(id, socket)) return;
    socket.conn.once("upgrade", () => {
      // Not when it has left meanwhile.
      if (this.#looped.has(id)) this.#goNative(id, socket);
    });
  }

  override del(id: SocketId, room: Room): void {
    super.del(id, room);
    this.#unloop(id, room);
    const native = this.#native.get(id);
    if (native !== undefined && isOpen(native)) native.unsubscribe(this.#topic(room));
  }

  override delAll(id: SocketId): void {
    const rooms = [...(this.sids.get(id) ?? [])];
    super.delAll(id);
    for (const room of rooms) this.#unloop(id, room);
    this.#looped.delete(id);
    const native = this.#native.get(id);
    if (native === undefined) return;
    this.#native.delete(id);
    this.#ownerOf.delete(native);
    if (!isOpen(native)) return;
    for (const room of rooms) native.unsubscribe(this.#topic(room));
  }

  override broadcast(packet: Packet, opts: BroadcastOptions): void {
    if (!this.#published(packet, opts)) super.broadcast(packet, opts);
  }

  #published(packet: Packet, opts: BroadcastOptions): boolean {
    const plan = this.#plan(opts);
    if (plan === undefined) return false;
    const { topic, looped, except } = plan;
    packet.nsp = this.#namespace.name;
    const encoded: (string | Uint8Array)[] = this.#namespace.server.encoder.encode(packet);
    const [text] = encoded;
    // With attachments a packet is several frames, which a publish cannot keep together.
    if (encoded.length !== 1 || typeof text !== "string") return false;
    const frame = MESSAGE + text;
    if (!this.#deps.mayPublish(Buffer.byteLength(frame))) return false;

    const sender = except === undefined ? undefined : this.#native.get(except);
    if (sender === undefined) this.#deps.server().publish(topic, frame);
    else sender.publish(topic, frame);
    for (const id of looped ?? []) {
      if (id !== except) this.#namespace.sockets.get(id)?.conn.write(text);
    }
    return true;
  }

  /** How a broadcast can be published; undefined when only the stock loop does what was asked. */
  #plan({ rooms, except, flags }: BroadcastOptions) {
    const [room] = rooms;
    if (flags?.volatile || rooms.size > 1 || room === undefined) return undefined;
    // The room that every socket is alone in has no topic; nor has the whole namespace, which nobody here speaks to: it
    // would cost each connection a subscription.
    if (this.sids.has(room)) return undefined;
    const excluded = this.#onlySocket(except);
    if (excluded === "several") return undefined;
    return {
      topic: this.#topic(room),
      looped: this.#loopedIn.get(room),
      except: excluded,
    };
  }

  #onlySocket(except: Set<Room> | undefined): SocketId | undefined | "several" {
    if (except === undefined || except.size === 0) return undefined;
    const [room] = except;
    if (except.size > 1 || room === undefined) return "several";
    const members = this.rooms.get(room);
    if (members === undefined) return undefined;
    return this.sids.has(room) && members.size === 1 && members.has(room) ? room : "several";
  }

  #goNative(id: SocketId, socket: Socket): boolean {
    const native = this.#deps.webSocketOf(socket.conn);
    if (native === undefined || !isOpen(native) || this.#ownerOf.has(native)) return false;
    this.#native.set(id, native);
    this.#ownerOf.set(native, id);
    this.#looped.delete(id);
    for (const room of this.sids.get(id) ?? []) {
      this.#unloop(id, room);
      if (room !== id) native.subscribe(this.#topic(room));
    }
    return true;
  }

  #loop(id: SocketId, room: Room): void {
    if (room === id) return;
    const members = this.#loopedIn.get(room);
    if (members === undefined) this.#loopedIn.set(room, new Set([id]));
    else members.add(id);
  }

  #unloop(id: SocketId, room: Room): void {
    const members = this.#loopedIn.get(room);
    if (members?.delete(id) && members.size === 0) this.#loopedIn.delete(room);
  }

  /** The topic of a room. No namespace's name has a line break, so no two topics are alike. */
  #topic(room: Room): string {
    return `${this.#namespace.name}\n${room}`;
  }
}

const isOpen = (socket: EngineSocket) => socket.readyState === WebSocket.OPEN;
