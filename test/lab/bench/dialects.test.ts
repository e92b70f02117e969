/** What the bench reads from a server's packets decides what it counts as lost. */

import { describe, expect, test } from "bun:test";
import { createDialect, type DialectName, PACKETS } from "./dialects.ts";
import { readNumber } from "./wire.ts";

/** Something stands before and after, as in a frame of many. */
function framed(text: string) {
  const bytes = Buffer.from(`}}}${text}\n{"id":9}`);
  return { bytes, start: 3, end: 3 + Buffer.byteLength(text) };
}

function seqOf(name: DialectName, text: string): number {
  const { bytes, start, end } = framed(text);
  const at = createDialect(name).seqAt(bytes, start, end);
  return at < 0 ? at : readNumber(bytes, at);
}

describe("centrifugo", () => {
  const publication = (rest: string) =>
    `{"push":{"channel":"r","pub":{"data":{"message":"\\"offset\\":7"},"info":{"user":""}${rest}}}}`;
  const dialect = createDialect("centrifugo");

  test("seqAt finds the offset, also where the epoch follows it", () => {
    expect(seqOf("centrifugo", publication(`,"offset":12`))).toBe(12);
    expect(seqOf("centrifugo", publication(`,"offset":1,"epoch":"wZPs"`))).toBe(1);
  });

  test("seqAt says so where there is none", () => {
    expect(seqOf("centrifugo", publication(""))).toBe(-1);
  });

  test("a publication is read in full", () => {
    const data = { room: "r", user_id: "ada", message: "hi" };
    const { bytes, start, end } = framed(
      JSON.stringify({ push: { channel: "r", pub: { data, offset: 4 } } }),
    );
    const delivered = { room: "r", seq: 4, id: undefined, sender: "ada", text: "hi" };
    expect(dialect.delivered(bytes, start, end)).toEqual(delivered);
  });

  test("packet tells pings, deliveries and acks apart", () => {
    const kindOf = (text: string) => {
      const { bytes, start, end } = framed(text);
      return dialect.packet(bytes, start, end);
    };
    expect(kindOf("{}")).toBe(PACKETS.ping);
    expect(kindOf(publication(`,"offset":1`))).toBe(PACKETS.delivery);
    expect(kindOf(`{"id":3,"publish":{}}`)).toBe(PACKETS.ack);
    expect(kindOf("nonsense")).toBe(PACKETS.strange);
  });

  test("an ack names the send it is for, and a refusal is no ack", () => {
    const sent = `${dialect.head(41)}${dialect.body("r", "hi")}`;
    const { id } = JSON.parse(sent) as { id: number };
    const good = framed(`{"id":${id},"publish":{}}`);
    const bad = framed(`{"id":${id},"error":{"code":103}}`);
    expect(dialect.ackedId(good.bytes, good.start)).toBe(41);
    expect(dialect.isOk(good.bytes, good.start, good.end)).toBe(true);
    expect(dialect.isOk(bad.bytes, bad.start, bad.end)).toBe(false);
  });
});

describe("socket.io", () => {
  test("seqAt finds the number wherever the names before it end", () => {
    const delivery = (room: string, seq: number) =>
      `42["receive_message",{"id":"x","room":"${room}","seq":${seq}}]`;
    const dialect = createDialect("socket.io");
    for (const [room, seq] of [
      ["a", 5],
      ["a", 6],
      ["longer", 70],
      ["a", 8],
    ] as const) {
      const { bytes, start, end } = framed(delivery(room, seq));
      expect(readNumber(bytes, dialect.seqAt(bytes, start, end))).toBe(seq);
    }
    expect(seqOf("socket.io", `42["user_joined",{"room":"a"}]`)).toBe(-1);
  });

  test("a delivery and an ack are read in full, and the number of an ack wherever it stands", () => {
    const dialect = createDialect("socket.io");
    const fields = { id: "x", room: "a", seq: 12, user_id: "ada", message: 'say "seq":7' };
    const delivery = framed(`42${JSON.stringify(["receive_message", fields])}`);
    expect(dialect.delivered(delivery.bytes, delivery.start, delivery.end)).toEqual({
      ...{ id: "x", room: "a", seq: 12 },
      ...{ sender: "ada", text: 'say "seq":7' },
    });
    for (const [ackId, room] of [
      [4, "a"],
      [40_000, "a"],
      [7, "longer"],
    ] as const) {
      const ack = { ok: true, id: "x", room, seq: 12, duplicate: false };
      const { bytes, start, end } = framed(`43${ackId}${JSON.stringify([ack])}`);
      expect(readNumber(bytes, dialect.ackedSeqAt(bytes, start, end))).toBe(12);
      expect(dialect.acked(bytes, start, end)).toEqual({ id: "x", room, seq: 12 });
    }
    const joined = framed(`430[{"ok":true}]`);
    expect(dialect.ackedSeqAt(joined.bytes, joined.start, joined.end)).toBe(-1);
  });
});
