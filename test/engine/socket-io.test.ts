/** The Socket.IO protocol packet by packet, over both transports: what is answered, what is ignored, what ends the session. */

import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Encoder, PacketType } from "socket.io-parser";
import { eventFrame } from "../../src/engine/socket-io.ts";
import {
  type GuestServerOptions,
  type GuestPeer,
  openPolling,
  openSocket,
  startGuestServer,
} from "../fixture/engine.ts";
import { type Part, play, type ScriptedServer, startOurs, WAYS } from "../fixture/frame-scripts.ts";

let ours: ScriptedServer;
beforeAll(() => {
  ours = startOurs();
});
afterAll(() => ours.stop());

const hosts: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  for (const host of hosts.splice(0)) await host.stop();
});
function start(options: GuestServerOptions) {
  const host = startGuestServer(options);
  hosts.push(host);
  return host;
}

const CONNECTED = '40{"sid":""}';
const OTHER = '40/other,{"sid":""}';
const placeholder = (num: number) => `{"_placeholder":true,"num":${num}}`;
const [ONE, TWO] = [Uint8Array.of(1, 255), Uint8Array.of(2)];

describe.each(WAYS)("createSocketIo over %s", (way) => {
  const answered: [string, Part[], string[]][] = [
    ["a connection is told its id", ["0"], [CONNECTED]],
    [
      "namespaces are apart from each other",
      ["0/other,", "0", '2/other,["m",1]'],
      [OTHER, CONNECTED, '42/other,["back",1]'],
    ],
    ["a namespace is named without a comma too", ["0/other"], [OTHER]],
    [
      "an unknown namespace is refused, and the session goes on",
      ["0/nowhere,", "0", '2["m"]', '0/__proto__,{"a":1}'],
      [
        '44/nowhere,{"message":"Invalid namespace"}',
        CONNECTED,
        '42["back"]',
        '44/__proto__,{"message":"Invalid namespace"}',
      ],
    ],
    ["who leaves may come again", ["0", "1", "0", '2["m",1]'], [CONNECTED, CONNECTED, '42["back",1]']],
    [
      "who leaves one namespace stays in the other",
      ["0", "0/other,", "1/other,", '2["m"]'],
      [CONNECTED, OTHER, '42["back"]'],
    ],
    [
      "an answer bears the number that was asked with, as a number",
      ["0", '20["m","a"]', '2007["m"]', '2999999999999999["m",{}]', '21234567890123456["m"]', '2/,8["n"]'],
      [CONNECTED, '430["a"]', "437[]", "43999999999999999[{}]", "431234567890123456[]", "438[]"],
    ],
    [
      "an event may be any name that is not reserved, and a number",
      ["0", '2["toString",1]', "27[7,1]"],
      [CONNECTED, '42["back",1]', "437[1]"],
    ],
    [
      "attachments come in pieces, and go so",
      ["0", `52-3["m",${placeholder(1)},[${placeholder(0)}]]`, ONE, TWO, '2["m","after"]'],
      [
        CONNECTED,
        `462-3[${placeholder(0)},[${placeholder(1)}]]`,
        "bytes 02",
        "bytes 01ff",
        '42["back","after"]',
      ],
    ],
    [
      "an acknowledgement that nobody asked for is ignored",
      ["0", "31[]", `61-2[${placeholder(0)}]`, ONE, '2["m"]'],
      [CONNECTED, '42["back"]'],
    ],
  ];
  test.each(answered)("%s", async (_, script, frames) => {
    expect(await play(ours, way, script)).toMatchObject({ isClosed: false, frames });
  });

  const closed: [string, Part[]][] = [
    ["a second CONNECT", ["0"]],
    ["an event of a namespace that was not joined", ['2/other,["m"]']],
    ["an event of a namespace that does not exist", ['2/nowhere,["m"]']],
    ["an event after the namespace was left", ["1", '2["m"]']],
    ["leaving a namespace that was not joined", ["1/other,"]],
    ["leaving with words", ['1"why"']],
    ["a refusal, which is the server's word", ['4{"message":"no"}']],
    ["nothing", [""]],
    ["an unknown type of packet", ["7"]],
    ["JSON that is none", ['2["m"']],
    ["JSON and more", ['2["m"]]']],
    ["an event that is no list", ['2{"0":"m"}']],
    ["an event of nothing", ["2"]],
    ["an event without a name", ["21[null]"]],
    ...["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"].map(
      (name): [string, Part[]] => [`the reserved name ${name}`, [`21["${name}"]`]],
    ),
    ["text amid attachments", [`52-["m",${placeholder(0)},${placeholder(1)}]`, ONE, '2["m"]']],
    ["an attachment that nobody announced", [ONE]],
    ["more attachments than are taken", ['511-["m"]']],
    ["a place for an attachment that there is not", [`51-["m",${placeholder(1)}]`, ONE]],
    ["an attachment too many", [`51-["m",${placeholder(0)}]`, ONE, TWO]],
    ["an auth payload that is no object", ["0/other,[]"]],
  ];
  test.each(closed)("%s ends the session, and what comes behind it is not heard", async (_, script) => {
    const { isClosed, book, frames } = await play(ours, way, ["0", ...script, '2["m","behind"]']);
    expect(isClosed).toBe(true);
    expect(book.join()).not.toContain("behind");
    expect(book.at(-1)).toBe("left /");
    expect(frames.every((frame) => !frame.startsWith("44"))).toBe(true);
  });

  test("an event before CONNECT ends the session", async () => {
    expect(await play(ours, way, ['2["m"]', "0"])).toEqual({ isClosed: true, frames: [], book: [] });
  });

  test("the namespace hears who comes, with what words, what they say and that they leave", async () => {
    const script = ['0{"token":"t"}', "0/other,", '2["m",1]', '2/other,4["n"]', "1", '2/other,["x"]'];
    expect((await play(ours, way, script)).book).toEqual([
      'connected / {"token":"t"}',
      "connected /other {}",
      'heard / ["m",1]',
      'heard /other ["n"] and answered',
      "left /",
      'heard /other ["x"]',
      "left /other",
    ]);
  });
});

describe("createSocketIo", () => {
  test("ends a session that joins nothing in time, and none that has joined once", async () => {
    const host = start({ connectTimeoutMs: 400, events: { ask: (peer) => peer.emit("answer") } });
    const [joined, left] = [openSocket(host.url, ""), openSocket(host.url, "")];
    for (const { frame, socket } of [joined, left]) {
      await frame();
      socket.send("40");
      await frame();
    }
    left.socket.send("41");
    const [silent, refused, polling] = [
      openSocket(host.url, ""),
      openSocket(host.url, ""),
      await openPolling(host.url),
    ];
    await refused.frame();
    refused.socket.send("40/nowhere,");
    await Promise.all([silent.closed, refused.closed]);
    // The one that polls is younger by a little.
    while ((await polling.poll()).status === 200);
    expect([...host.engine.connections()]).toHaveLength(2);
    joined.socket.send('42["ask"]');
    expect(await joined.frame()).toBe('42["answer"]');
    left.socket.send("40");
    expect(await left.frame()).toStartWith("40{");
    for (const { socket } of [joined, left]) socket.close();
  });

  const withAttachments = `452-1["m",${placeholder(0)},${placeholder(1)}]`;

  test.each(["40", ""])(
    "ends a session whose packet is too long with its attachments, after %j",
    async (first) => {
      const heard: unknown[] = [];
      const host = start({ packetBytesMax: 1_000, onEvent: (_, name) => heard.push(name) });
      const client = openSocket(host.url, "");
      await client.frame();
      if (first !== "") {
        client.socket.send(first);
        await client.frame();
        // Each packet for itself: all of a packet's bytes count, and none of another's.
        for (let n = 1; n <= 3; n++) {
          client.socket.send(withAttachments);
          client.socket.send(new Uint8Array(1_000 - withAttachments.length));
          client.socket.send(new Uint8Array(1));
          client.socket.send("40/nowhere,");
          expect(await client.frame()).toStartWith("44/nowhere,");
          expect(heard).toHaveLength(n);
        }
      }
      const before = heard.length;
      client.socket.send(withAttachments);
      client.socket.send(new Uint8Array(1_000 - withAttachments.length));
      client.socket.send(new Uint8Array(2));
      await client.closed;
      expect(heard).toHaveLength(before);
      expect(host.metrics.snapshot().engine_abuse_closed_total).toBe(1);
    },
  );

  test("ends a session whose packet does not get its attachments in time, and none whose did", async () => {
    const host = start({ connectTimeoutMs: 200 });
    const [whole, lacking, early] = [0, 1, 2].map(() => openSocket(host.url, ""));
    for (const client of [whole, lacking, early]) await client?.frame();
    for (const client of [whole, lacking]) {
      client?.socket.send("40");
      await client?.frame();
    }
    for (const client of [whole, lacking, early]) client?.socket.send(withAttachments);
    for (const part of [ONE, TWO]) whole?.socket.send(part);
    await Promise.all([lacking?.closed, early?.closed]);
    expect(host.metrics.snapshot().engine_abuse_closed_total).toBe(2);
    // A connection that comes now is late only after all that came before.
    await openSocket(host.url, "").closed;
    whole?.socket.send("40/nowhere,");
    expect(await whole?.frame()).toStartWith("44/nowhere,");
    whole?.socket.close();
  });

  test("ends each session in its own time, the later ones too", async () => {
    const host = start({ connectTimeoutMs: 40 });
    for (let round = 0; round < 3; round++) {
      const began = performance.now();
      const late = openSocket(host.url, "");
      await late.frame();
      await late.closed;
      expect(performance.now() - began).toBeGreaterThan(35);
    }
  });

  test("tells every namespace of the session that it has upgraded, and how it ended", async () => {
    const upgrades: string[] = [];
    const ends: string[] = [];
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    const host = start({
      onUpgrade: (peer) => upgrades.push(peer.namespace),
      onDisconnect(peer, reason) {
        if (ends.push(`${peer.namespace} ${reason}`) === 2) resolve();
      },
    });
    const arrived = host.nextPeer();
    const session = await openPolling(host.url);
    await session.post("40/other,\x1e40");
    const peer = await arrived;
    const [other] = host.others as ReadonlySet<GuestPeer>;
    expect(other?.session === peer.session).toBe(true);
    expect(peer.session.socket).toBeUndefined();
    const client = openSocket(host.url, `&sid=${session.sid}`);
    await client.opened;
    client.socket.send("2probe");
    expect(await client.frame()).toBe("3probe");
    const polled = (await (await session.poll()).text()).split("\x1e");
    expect(polled.map((frame) => frame.slice(0, 3))).toEqual(["40/", "40{"]);
    client.socket.send("5");
    client.socket.send("41");
    while (host.peers.size > 0) await new Promise(setImmediate);
    expect(peer.session.socket).toBeDefined();
    expect(upgrades).toEqual(["/", "/other"]);
    other?.ackJson(7, '{"ok":true}');
    expect(await client.frame()).toBe('43/other,7[{"ok":true}]');
    client.socket.close();
    await ended;
    expect(ends).toEqual(["/ client namespace disconnect", "/other transport close"]);
  });

  test("gives each connection an id that is not the session's", async () => {
    const host = start({});
    const seen = new Set<string>();
    const client = openSocket(host.url, "");
    const { sid } = JSON.parse((await client.frame()).slice(1)) as { sid: string };
    for (const packet of ["40", "40/other,", "41", "40"]) {
      client.socket.send(packet);
      if (packet !== "41")
        seen.add((JSON.parse((await client.frame()).replace(/^40(\/other,)?/, "")) as { sid: string }).sid);
    }
    expect(seen.size).toBe(3);
    expect(seen).not.toContain(sid);
    client.socket.close();
  });
});

test("eventFrame is what Socket.IO's own encoder writes", () => {
  const encoder = new Encoder();
  fc.assert(
    fc.property(fc.constantFrom("receive_message", "user_joined", "m"), fc.jsonValue(), (name, value) => {
      const [text] = encoder.encode({ type: PacketType.EVENT, nsp: "/", data: [name, value] });
      expect(eventFrame(name, JSON.stringify(value))).toBe(`4${text}`);
    }),
  );
});
