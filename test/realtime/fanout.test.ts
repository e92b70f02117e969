/** Native topics against the stock adapter: the same deliveries, in the same order for each client. */

import { afterEach, describe, expect, test } from "bun:test";
import { type ManagerOptions, type Socket as Client, io as connectClient } from "socket.io-client";
import type { Socket } from "socket.io";
import { type EngineHouse, openPolling, openSocket, startEngineHouse } from "../fixture/engine.ts";

const CLIENTS = 6;
const ROOMS = ["red", "green", "blue"];
const STEPS = 60;
const seed = Number(process.env.FANOUT_SEED ?? Math.floor(Math.random() * 2 ** 31));

const houses: EngineHouse[] = [];
afterEach(async () => {
  for (const house of houses.splice(0)) await house.stop();
});
function start(adapter: "native" | "stock") {
  const house = startEngineHouse({ adapter });
  houses.push(house);
  return house;
}

/** mulberry32: small, and the same numbers for the same seed everywhere. */
function chance(start: number) {
  let state = start;
  return (below: number) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

const TRANSPORTS = {
  websocket: ["websocket"],
  polling: ["polling"],
  upgrade: ["polling", "websocket"],
} as const;
type Way = keyof typeof TRANSPORTS;

type Step =
  | { readonly do: "connect"; readonly who: number; readonly way: Way }
  | { readonly do: "disconnect" | "upgraded"; readonly who: number }
  | { readonly do: "join" | "leave"; readonly who: number; readonly room: string }
  | { readonly do: "direct" | "direct_to_sid" | "namespace_except"; readonly who: number }
  | { readonly do: "room_except"; readonly who: number; readonly room: string }
  | { readonly do: "room"; readonly room: string }
  | { readonly do: "rooms" | "room_except_room"; readonly room: string; readonly other: string }
  | { readonly do: "namespace" | "binary" | "other_namespace"; readonly room: string }
  | { readonly do: "burst"; readonly who: number; readonly room: string };

/** A script in which nothing is asked of a client that is not there. */
function scriptOf(startSeed: number): Step[] {
  const pick = chance(startSeed);
  const room = () => ROOMS[pick(ROOMS.length)] as string;
  const steps: Step[] = [];
  const connected = new Map<number, Way>();
  while (steps.length < STEPS) {
    const who = pick(CLIENTS);
    if (!connected.has(who)) {
      const way = (["websocket", "polling", "upgrade"] as const)[pick(3)] as Way;
      connected.set(who, way);
      steps.push({ do: "connect", who, way }, { do: "join", who, room: room() });
      continue;
    }
    const make: (() => Step)[] = [
      () => ({ do: "join", who, room: room() }),
      () => ({ do: "join", who, room: room() }),
      () => ({ do: "leave", who, room: room() }),
      () => ({ do: "direct", who }),
      () => ({ do: "direct_to_sid", who }),
      () => ({ do: "namespace_except", who }),
      () => ({ do: "room_except", who, room: room() }),
      () => ({ do: "room", room: room() }),
      () => ({ do: "room", room: room() }),
      () => ({ do: "rooms", room: room(), other: room() }),
      () => ({ do: "room_except_room", room: room(), other: room() }),
      () => ({ do: "namespace", room: room() }),
      () => ({ do: "binary", room: room() }),
      () => ({ do: "other_namespace", room: room() }),
      () => ({ do: "burst", who, room: room() }),
      () => ({ do: "burst", who, room: room() }),
    ];
    const way = connected.get(who);
    if (way === "upgrade" && pick(3) === 0) {
      connected.set(who, "websocket");
      steps.push({ do: "upgraded", who });
    } else if (pick(12) === 0) {
      connected.delete(who);
      steps.push({ do: "disconnect", who });
    } else {
      steps.push((make[pick(make.length)] as () => Step)());
    }
  }
  return steps;
}

/** Runs a script and gives what each client heard over its lives, in order. */
async function play(house: EngineHouse, script: readonly Step[]): Promise<string[][]> {
  const { io, url } = house;
  const heard: string[][] = Array.from({ length: CLIENTS }, () => []);
  const clients = new Map<number, Client>();
  const sockets = new Map<number, Socket>();
  const socketOf = (who: number) => sockets.get(who) as Socket;
  // In `/other` everyone is in every room: what is meant for it must not be heard here, nor the other way round.
  io.of("/other").on("connection", (socket) => socket.join(ROOMS));
  let n = 0;
  const label = (step: Step) => `${step.do}:${n++}`;

  const actions: { [K in Step["do"]]: (step: Step & { readonly do: K }) => unknown } = {
    async connect({ who, way }) {
      const options: Partial<ManagerOptions> = {
        transports: [...TRANSPORTS[way]],
        reconnection: false,
        multiplex: true,
        forceNew: true,
      } as Partial<ManagerOptions>;
      const arrived = new Promise<Socket>((resolve) => io.once("connection", resolve));
      const client = connectClient(url, options);
      const [socket] = await Promise.all([
        arrived,
        new Promise((resolve) => client.once("connect", () => resolve(null))),
      ]);
      const other = client.io.socket("/other");
      await new Promise((resolve) => other.once("connect", () => resolve(null)));
      const ear = heard[who] as string[];
      const shown = (args: unknown[]) =>
        args
          .map((arg) => (arg instanceof Uint8Array || arg instanceof ArrayBuffer ? "bytes" : String(arg)))
          .join();
      client.on("m", (...args) => ear.push(shown(args)));
      client.on("settle", (answer: () => void) => answer());
      other.on("m", (...args) => ear.push(`other ${shown(args)}`));
      clients.set(who, client);
      sockets.set(who, socket);
    },
    async disconnect({ who }) {
      const socket = socketOf(who);
      await settled(socket);
      const gone = new Promise((resolve) => socket.once("disconnect", resolve));
      clients.get(who)?.io.engine.close();
      await gone;
      sockets.delete(who);
    },
    async upgraded({ who }) {
      const { engine } = (clients.get(who) as Client).io;
      if (engine.transport.name !== "websocket") {
        await new Promise((resolve) => engine.once("upgrade", () => resolve(null)));
      }
    },
    join: ({ who, room }) => socketOf(who).join(room),
    leave: ({ who, room }) => socketOf(who).leave(room),
    direct: (step) => socketOf(step.who).emit("m", label(step)),
    direct_to_sid: (step) => io.to(socketOf(step.who).id).emit("m", label(step)),
    namespace_except: (step) => socketOf(step.who).broadcast.emit("m", label(step)),
    room_except: (step) => socketOf(step.who).to(step.room).emit("m", label(step)),
    room: (step) => io.to(step.room).emit("m", label(step)),
    rooms: (step) => io.to([step.room, step.other]).emit("m", label(step)),
    room_except_room: (step) => io.to(step.room).except(step.other).emit("m", label(step)),
    namespace: (step) => io.emit("m", label(step)),
    binary: (step) => io.to(step.room).emit("m", label(step), Buffer.from("bytes")),
    other_namespace: (step) => io.of("/other").to(step.room).emit("m", label(step)),
    // All in one turn: every kind of delivery after every other.
    burst(step) {
      const socket = socketOf(step.who);
      const kinds = [
        () => io.to(step.room).emit("m", label(step)),
        () => socket.emit("m", label(step)),
        () => socket.to(step.room).emit("m", label(step)),
        () => io.emit("m", label(step)),
        () => io.to(step.room).emit("m", label(step), Buffer.from("bytes")),
        () => io.to([step.room, "red"]).emit("m", label(step)),
        () => socket.leave(step.room),
        () => io.to(step.room).emit("m", label(step)),
        () => socket.join(step.room),
      ];
      const pick = chance(n);
      for (let i = 0; i < 12; i++) kinds[pick(kinds.length)]?.();
    },
  };
  for (const step of script) await (actions[step.do] as (step: Step) => unknown)(step);
  await Promise.all([...sockets.values()].map(settled));
  for (const client of clients.values()) client.close();
  return heard;
}

/** Resolves when a client has heard all that it was sent so far: it answers what is sent last. */
const settled = (socket: Socket) => socket.emitWithAck("settle");

describe("createFanoutAdapter delivers as the stock adapter does", () => {
  const rounds = 12;
  let delivered = 0;
  for (let round = 0; round < rounds; round++) {
    test(`script of seed ${seed + round} (FANOUT_SEED=${seed + round})`, async () => {
      const script = scriptOf(seed + round);
      const [native, stock] = await Promise.all([
        play(start("native"), script),
        play(start("stock"), script),
      ]);
      expect(native).toEqual(stock);
      delivered += native.flat().length;
    });
  }

  test("the scripts are no silent ones", () => {
    expect(delivered).toBeGreaterThan(rounds * STEPS);
  });
});

describe("createFanoutAdapter", () => {
  const numberOf = (frame: string) => Number(frame.slice(7, frame.indexOf(",", 7)));
  /** The next socket that is let in. */
  const nextSocket = ({ io }: EngineHouse) =>
    new Promise<Socket>((resolve) => io.once("connection", resolve));

  test("keeps the order of publishes and direct packets through an upgrade in the middle of a burst", async () => {
    for (const adapter of ["native", "stock"] as const) {
      const house = start(adapter);
      const arrived = nextSocket(house);
      const client = connectClient(house.url, { reconnection: false });
      const heard: number[] = [];
      client.on("m", (n: number) => heard.push(n));
      const socket = await arrived;
      await socket.join("room");
      let n = 0;
      let upgraded = false;
      socket.conn.once("upgrade", () => {
        upgraded = true;
        // In the turn of the upgrade, before the engine has flushed what it queued.
        socket.emit("m", n++);
      });
      for (let after = 0; after < 50; after += upgraded ? 1 : 0) {
        for (let i = 0; i < 3; i++) {
          house.io.to("room").emit("m", n++);
          socket.emit("m", n++);
        }
        await new Promise(setImmediate);
      }
      client.on("settle", (answer: () => void) => answer());
      await settled(socket);
      expect(heard).toEqual(Array.from({ length: n }, (_, i) => i));
      client.close();
    }
  });

  test("publishes to the WebSockets of a room, and to nobody who left or went", async () => {
    const house = start("native");
    const { io, server } = house;
    const clients = [];
    for (let i = 0; i < 3; i++) {
      const arrived = nextSocket(house);
      clients.push(connectClient(house.url, { transports: ["websocket"], reconnection: false }));
      await (await arrived).join("room");
    }
    const [first, second] = [...io.sockets.sockets.values()] as [Socket, Socket];
    expect(server.subscriberCount("/\nroom")).toBe(3);
    first.leave("room");
    expect(server.subscriberCount("/\nroom")).toBe(2);
    second.disconnect();
    expect(server.subscriberCount("/\nroom")).toBe(1);
    for (const client of clients) client.close();
    while (io.sockets.sockets.size > 0) await new Promise(setImmediate);
    expect(server.subscriberCount("/\nroom")).toBe(0);
  });

  test("delivers nothing to a socket that is not let in yet, and everything once it is", async () => {
    const house = start("native");
    let letIn = () => {};
    const waiting = new Promise<Socket>((resolve) => {
      house.io.use((socket, next) => {
        socket.join("room");
        letIn = next;
        resolve(socket);
      });
    });
    const client = openSocket(house.url, "");
    await client.frame();
    client.socket.send("40");
    await waiting;
    house.io.to("room").emit("m", "early");
    house.io.emit("m", "early");
    const arrived = nextSocket(house);
    letIn();
    await arrived;
    house.io.to("room").emit("m", "in time");
    expect(await client.frame()).toStartWith("40{");
    expect(await client.frame()).toBe('42["m","in time"]');
    client.socket.close();
  });

  test("delivers once for each socket, where two of a namespace share a connection", async () => {
    const house = start("native");
    const sockets: Socket[] = [];
    const both = new Promise<void>((resolve) => {
      house.io.on("connection", (socket) => {
        socket.join("room");
        if (sockets.push(socket) === 2) resolve();
      });
    });
    const session = await openPolling(house.url);
    await session.post("40\x1e40");
    await both;
    house.io.to("room").emit("m", 1);
    const polled = (await (await session.poll()).text()).split("\x1e");
    expect(polled.filter((packet) => packet === '42["m",1]')).toHaveLength(2);
    const client = openSocket(house.url, `&sid=${session.sid}`);
    await client.opened;
    client.socket.send("2probe");
    await client.frame();
    const upgraded = new Promise((resolve) => sockets[0]?.conn.once("upgrade", resolve));
    client.socket.send("5");
    await upgraded;
    house.io.to("room").emit("m", 2);
    for (const socket of sockets) {
      socket.leave("room");
      house.io.to("room").emit("m", 3);
    }
    house.io.emit("m", 4);
    const frames = [];
    while (frames.filter((frame) => frame === '42["m",4]').length < 2) frames.push(await client.frame());
    expect(frames.sort()).toEqual(['42["m",2]', '42["m",2]', '42["m",3]', '42["m",4]', '42["m",4]']);
    client.socket.close();
  });

  test("keeps a room that bears a socket's id apart from the socket", async () => {
    const house = start("native");
    const arrived = nextSocket(house);
    const victim = openSocket(house.url, "");
    victim.socket.onopen = () => victim.socket.send("40");
    const { id } = await arrived;
    await victim.frame();
    await victim.frame();
    const other = nextSocket(house);
    const namesake = openSocket(house.url, "");
    namesake.socket.onopen = () => namesake.socket.send("40");
    const second = await other;
    await namesake.frame();
    await namesake.frame();
    second.join(id);
    house.io.to(id).emit("m", "for two");
    house.io.to(second.id).emit("m", "for one");
    house.io.except(id).emit("m", "for neither");
    second.to(id).emit("m", "for the other");
    second.emit("m", "for me");
    expect(await namesake.frame()).toBe('42["m","for two"]');
    expect(await namesake.frame()).toBe('42["m","for one"]');
    expect(await namesake.frame()).toBe('42["m","for me"]');
    expect(await victim.frame()).toBe('42["m","for two"]');
    expect(await victim.frame()).toBe('42["m","for the other"]');
    victim.socket.close();
    namesake.socket.close();
  });

  test("loses nothing when one turn sends more than Bun may hold for topics", async () => {
    const house = startEngineHouse({ adapter: "native", outboundBytesMax: 60_000_000 });
    houses.push(house);
    const arrived = nextSocket(house);
    const client = openSocket(house.url, "");
    client.socket.onopen = () => client.socket.send("40");
    await (await arrived).join("room");
    await client.frame();
    await client.frame();
    const pad = "x".repeat(1_000_000);
    for (let n = 0; n < 40; n++) house.io.to("room").emit("m", n, pad);
    for (let n = 0; n < 40; n++) expect(numberOf(await client.frame())).toBe(n);
    client.socket.close();
  });
});
