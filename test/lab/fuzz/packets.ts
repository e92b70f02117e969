/** Socket.IO packets: types, namespaces, ids, attachments and JSON that is cut off, inside right Engine.IO messages. */

import type { Chance } from "../../fixture/chance.ts";
import { judgedAck, judgedError } from "./answers.ts";
import { changedText, MARK, oddJson, oddText } from "./hostile.ts";
import { must, type Surface } from "./surface.ts";
import { frame, openMember, type RawSocket, textFrame } from "./wire.ts";

/** A text is a text frame, a list of bytes a binary one. */
type PacketInput = readonly (string | readonly number[])[];

const RIGHT = [
  "0",
  '0{"token":"x"}',
  "0/admin,",
  "1",
  '2["send_message",{"room":"r","user_id":"u","message":"m"}]',
  '27["join_room",{"room":"r"}]',
  '2["leave_room","r"]',
  '30["ack of nothing"]',
  '4{"message":"no"}',
  '51-["send_message",{"_placeholder":true,"num":0}]',
  '52-/admin,9["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
  '61-3[{"_placeholder":true,"num":0}]',
];
const PIECES = [
  ...[
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "-",
    "/",
    ",",
    "[",
    "]",
    "{",
    "}",
    '"',
    "\\",
    "?",
    "#",
    "/admin,",
    "/,",
  ],
  ...[
    "99999999999999999999",
    "-1",
    "1e9",
    '"disconnect"',
    '"connect"',
    '"connect_error"',
    '"newListener"',
    "1000000-",
  ],
  ...[
    '"error"',
    '{"_placeholder":true,"num":1}',
    '{"_placeholder":true,"num":-1}',
    "\u0000",
    "\u2028",
    "😀",
    MARK,
  ],
];

function packet(chance: Chance, seen: readonly PacketInput[]): PacketInput[number] {
  if (chance.often(0.08)) return Array.from({ length: chance.below(20) }, () => chance.below(256));
  const kept = seen.length > 0 && chance.often(0.4) ? chance.pick(chance.pick(seen)) : undefined;
  const base = typeof kept === "string" ? kept : chance.pick(RIGHT);
  // Most changes to a text make it no packet, which closes at once: as many are right, or right in their grammar.
  if (chance.often(0.3)) return base;
  if (chance.often(0.6)) {
    const id = chance.pick(["", "0", "5", "999999999999999999999"]);
    const event = JSON.stringify(chance.often(0.5) ? oddText(chance) : "send_message");
    return `${chance.pick(["2", "51-", "53-"])}${chance.pick(["", "/admin,", `/${MARK},`])}${id}[${event},${oddJson(chance)}]`;
  }
  return changedText(chance, base, PIECES);
}

export function packets(port: number): Surface<PacketInput> {
  return {
    name: "packets",
    lanes: 8,
    show: (input) => JSON.stringify(input),
    async open() {
      let raw: RawSocket | undefined;
      let said: string[] = [];
      return {
        make: (chance, seen) => Array.from({ length: 1 + chance.below(3) }, () => packet(chance, seen)),
        async attempt(input) {
          if (raw === undefined || raw.isClosed) {
            raw = await openMember(port);
            raw.onText = (text) => said.push(text);
          }
          said = [];
          for (const one of input) {
            raw.write(typeof one === "string" ? textFrame(`4${one}`) : frame(2, Buffer.from(one)));
          }
          const lives = await raw.fence();
          const heard = new Set(said.map(judgedPacket));
          return `${lives ? "lives" : "closed"} ${[...heard].sort().join(" | ")}`;
        },
        close() {
          raw?.destroy();
        },
      };
    },
  };
}

/** Judges what the server sent; says it in short. */
function judgedPacket(text: string): string {
  // The library takes an id for a number: one of 22 digits comes back as `3e+21`, one with a space in it as `NaN`, and
  // only to the one who sent it.
  const parts = /^4([0-6])(?:(\/[^,]*),)?(\d+(?:\.\d+)?(?:e\+\d+)?|Infinity|NaN)?([\s\S]*)$/.exec(text);
  if (parts === null) {
    must(/^[0126]/.test(text) || text === "41", "the server sent what is no packet");
    return `engine ${text[0]}`;
  }
  const [, type, , , rest = ""] = parts;
  if (type === "3") return `ack ${judgedAck((JSON.parse(rest) as unknown[])[0])}`;
  if (type !== "2") {
    must(!rest.includes(MARK), `a packet of type ${type} repeats the input`);
    return `packet ${type}`;
  }
  const [name, body] = JSON.parse(rest) as [string, Record<string, unknown>];
  if (name !== "error") return `event ${name}`;
  // It repeats the event's name, as the contract says, and nothing else.
  const { event, ...error } = body;
  must(typeof event === "string" && event.length <= 128, "an error names no event");
  return `error ${judgedError(error)}`;
}
