/** The payloads of events: right ones, changed in their structure; each event with an ack gets exactly one answer. */

import type { Chance } from "../../fixture/chance.ts";
import { judgedAck } from "./answers.ts";
import { changedFields, type Fields, jsonOf, oddJson, oddText } from "./hostile.ts";
import { type Lane, must, type Surface } from "./surface.ts";
import { openMember, type RawSocket } from "./wire.ts";

interface PayloadInput {
  readonly event: string;
  readonly fields: Fields;
  /** The arguments as JSON texts, the payload first; empty: only the ack. */
  readonly args: readonly string[];
}

/** Inputs that one connection tries before another takes its place: it would join too many rooms. */
const INPUTS_A_CONNECTION = 600;
const EVENTS = ["send_message", "send_message", "send_message", "join_room", "join_room", "leave_room"];

function fieldsOf(chance: Chance, event: string, room: string): Fields {
  const text = (value: string) => JSON.stringify(value);
  const fields: [string, string][] = [
    ["room", text(room)],
    ["user_id", text(chance.pick(["ana", "ben", "çağla", "u\u0301"]))],
  ];
  if (event === "send_message") {
    fields.push(["message", text(chance.often(0.8) ? "hello" : `two\nlines ${oddText(chance)}`)]);
    if (chance.often(0.5)) fields.push(["timestamp", text("2026-01-31T09:05:00+02:00")]);
    if (chance.often(0.5)) fields.push(["client_id", text(`c${chance.below(50)}`)]);
  } else if (event === "join_room" && chance.often(0.5)) {
    fields.push(["since", String(chance.below(20))]);
    if (chance.often(0.3)) fields.push(["epoch", text("0192")]);
  }
  return fields;
}

export function payloads(port: number): Surface<PayloadInput> {
  let lanes = 0;
  return {
    name: "payloads",
    lanes: 8,
    show: ({ event, args }) => `42["${event}",${args.join(",")}]`,
    async open() {
      lanes += 1;
      const lane = lanes;
      let raw: RawSocket | undefined;
      let tried = 0;
      let nextId = 0;
      let answers: { id: number; answer: unknown }[] = [];
      const room = () => `fuzz-${lane}-${Math.floor(tried / INPUTS_A_CONNECTION)}`;

      async function connection(): Promise<RawSocket> {
        if (raw !== undefined && !raw.isClosed && tried % INPUTS_A_CONNECTION !== 0) return raw;
        raw?.destroy();
        raw = await openMember(port);
        raw.onText = (text) => {
          const ack = /^43(\d+)(\[.*)$/s.exec(text);
          if (ack !== null) answers.push({ id: Number(ack[1]), answer: JSON.parse(ack[2] as string)[0] });
        };
        raw.send(`42["join_room",${JSON.stringify(room())}]`);
        return raw;
      }

      return {
        make(chance, seen) {
          const again = seen.length > 0 && chance.often(0.5) ? chance.pick(seen) : undefined;
          const event =
            again?.event ?? (chance.often(0.97) ? chance.pick(EVENTS) : oddText(chance).slice(0, 200));
          const right = fieldsOf(chance, event, room());
          const fields = chance.often(0.1) ? right : changedFields(chance, again?.fields ?? right);
          const payload = chance.often(0.9) ? jsonOf(fields) : oddJson(chance);
          const args = chance.often(0.95) ? [payload] : [payload, oddJson(chance)].slice(chance.below(3));
          return { event, fields, args };
        },
        async attempt({ event, args }) {
          const socket = await connection();
          tried += 1;
          const id = nextId;
          nextId += 1;
          answers = [];
          const text = `42${id}[${[JSON.stringify(event), ...args].join(",")}]`;
          socket.send(text);
          const answered = await socket.fence();
          if (!answered) {
            // The library closes what it cannot decode, and what says the client's own `disconnect`.
            must(LIBRARY_CLOSES.has(event) || isUnreadable(args), `the connection ended after ${event}`);
            return "closed";
          }
          const own = answers.filter((one) => one.id === id);
          // An event that waits for the store is answered after the fence.
          while (own.length === 0) {
            must(await socket.fence(), `the connection ended before ${event} was answered`);
            own.push(...answers.filter((one) => one.id === id));
          }
          must(own.length === 1, `${event} was answered ${own.length} times`);
          return `${EVENTS.includes(event) ? event : "other"} ${judgedAck(own[0]?.answer)}`;
        },
        close() {
          raw?.destroy();
        },
      } satisfies Lane<PayloadInput>;
    },
  };
}

/** Names that are Socket.IO's own: an event of that name is no event. */
const LIBRARY_CLOSES = new Set([
  "connect",
  "connect_error",
  "disconnect",
  "disconnecting",
  "newListener",
  "removeListener",
]);

/** The default of MAX_FRAME_BYTES, and what a packet has around its arguments. */
const FRAME_BYTES_MAX = 1_000_000;
const PACKET_BYTES = 1_000;

/** Longer than a frame may be, or too deep for JSON.parse. */
const isUnreadable = (args: readonly string[]) => {
  const text = `[${args.join(",")}]`;
  if (Buffer.byteLength(text) + PACKET_BYTES > FRAME_BYTES_MAX) return true;
  try {
    JSON.parse(text);
    return false;
  } catch {
    return true;
  }
};
