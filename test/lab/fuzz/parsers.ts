/** The pure parsers, each beside an oracle that is written another way. */

import { parseClientId, parseRoomName } from "../../../src/domain/ids.ts";
import { textFault } from "../../../src/domain/message.ts";
import { foreignOrigin, isOriginWelcome, parseOrigin } from "../../../src/domain/origins.ts";
import { formatTimestamp, parseTimestamp } from "../../../src/domain/time.ts";
import { ChatError } from "../../../src/errors.ts";
import { targetOf } from "../../../src/http/target.ts";
import { parseJsonBody } from "../../../src/protocol/routes.ts";
import { countPayload, withoutStrayPongs } from "../../../src/engine/polling-post.ts";
import type { Chance } from "../../fixture/chance.ts";
import { changedText, oddJson, oddText } from "./hostile.ts";
import { must, type Surface } from "./surface.ts";

type Parser = keyof typeof PARSERS;
interface ParserInput {
  readonly parser: Parser;
  readonly text: string;
}

const two = (value: number) => String(value).padStart(2, "0");

const DATE_PIECES = [
  "T",
  "Z",
  "+",
  "-",
  ":",
  ".",
  ",",
  "00",
  "24",
  "60",
  "59",
  "29",
  "30",
  "31",
  "99",
  "0000",
  "9999",
  "10000",
  " ",
  "z",
  "٣",
];
const ORIGIN_PIECES = [
  "http://",
  "https://",
  "ftp://",
  "localhost",
  "127.0.0.1",
  "0x7f.1",
  "[::1]",
  ":3000",
  ":80",
  ":443",
  "/",
  "?",
  "#",
  "@",
  "a.b",
  "ü",
  "%41",
  " ",
];

/** RFC 3339 read by hand and given to ECMAScript's own Date in the one form that the standard defines. */
function timestampByDate(text: string): number | undefined {
  const match =
    /^(\d{4}-\d\d-\d\d)T(\d\d):(\d\d)(:(\d\d)([.,](\d{1,32}))?)?(Z|([+-])(\d\d)(:?(\d\d))?)?$/.exec(text);
  if (match === null) return undefined;
  const [
    ,
    day = "",
    hour = "",
    minute = "",
    ,
    second = "00",
    ,
    fraction = "",
    zone = "Z",
    sign,
    hours,
    ,
    minutes = "00",
  ] = match;
  if (Number(hour) > 23) return undefined;
  // Date knows no leap second.
  const clock = `${hour}:${minute}:${second === "60" ? "59" : second}`;
  const utc = Date.parse(`${day}T${clock}.${`${fraction}000`.slice(0, 3)}Z`);
  // Date may let 30 February be 1 March.
  if (Number.isNaN(utc) || new Date(utc).toISOString().slice(0, 10) !== day) return undefined;
  if (zone !== "Z" && (Number(hours) > 23 || Number(minutes) > 59)) return undefined;
  const offset = zone === "Z" ? 0 : (sign === "-" ? -1 : 1) * (Number(hours) * 60 + Number(minutes)) * 60_000;
  const at = utc - offset;
  const year = new Date(at).getUTCFullYear();
  return year >= 1 && year <= 9_999 ? at : undefined;
}

function isNameByCharacter(text: string): boolean {
  const points = Array.from(text);
  if (points.length < 1 || points.length > 128 || text === "." || text === "..") return false;
  if (points.some((point) => /\p{Cc}|\p{Cs}/u.test(point))) return false;
  return points.some((point) => !/[\s\ufeff]/u.test(point));
}

const depthOf = (value: unknown): number =>
  typeof value === "object" && value !== null
    ? 1 + Object.values(value).reduce((most: number, child) => Math.max(most, depthOf(child)), 0)
    : 0;

const PARSERS = {
  timestamp: {
    make(chance: Chance) {
      const date = `${String(chance.pick([0, 1, 99, 1582, 1970, 2000, 2024, 2026, 9999])).padStart(4, "0")}-${two(chance.below(14))}-${two(chance.below(33))}`;
      const clock = `${two(chance.below(26))}:${two(chance.below(62))}${chance.often(0.7) ? `:${two(chance.below(62))}` : ""}`;
      const digits = Array.from({ length: chance.pick([1, 2, 3, 6, 9, 10, 31, 32, 33]) }, () =>
        chance.below(10),
      ).join("");
      const fraction = chance.often(0.4) ? `${chance.pick([".", ","])}${digits}` : "";
      const zone = chance.pick(["", "Z", "+02:00", "-0930", "+14", "-23:59", "+24:00", "+01:60"]);
      const text = `${date}T${clock}${fraction}${zone}`;
      return chance.often(0.6) ? text : changedText(chance, text, DATE_PIECES);
    },
    check(text: string) {
      const read = parseTimestamp(text);
      must(Object.is(read ?? null, timestampByDate(text) ?? null), "parseTimestamp differs from Date");
      if (read === undefined) return "no";
      must(
        parseTimestamp(formatTimestamp(read)) === read,
        "a timestamp does not survive being written and read",
      );
      return `yes ${text.length}`;
    },
  },
  name: {
    make: (chance: Chance) => (chance.often(0.5) ? oddText(chance) : changedText(chance, oddText(chance))),
    check(text: string) {
      const is = parseRoomName(text) !== undefined;
      must(is === isNameByCharacter(text), "parseRoomName differs from its rule");
      must(is === (parseClientId(text) !== undefined), "names differ in their form");
      const fault = textFault(text);
      const isText = !text.includes("\u0000") && text.isWellFormed() && /[^\s\ufeff]/u.test(text);
      must((fault === undefined) === isText, "textFault differs from its rule");
      return `${is} ${fault}`;
    },
  },
  origin: {
    make: (chance: Chance) =>
      changedText(
        chance,
        chance.pick(["http://localhost:3000", "https://chat.example.org", "http://[::1]:80"]),
        ORIGIN_PIECES,
      ),
    check(text: string) {
      const told = foreignOrigin(text).message;
      must(/^[\x20-\x7e]{1,240}$/.test(told), "a refusal repeats what is not printable, or too much");
      const read = parseOrigin(text);
      if (read === undefined) return `no ${told.startsWith("Origin")}`;
      must(/^https?:\/\/[^/?#@\s]+$/.test(read.origin), "an origin is no origin");
      must(parseOrigin(read.origin)?.origin === read.origin, "an origin does not survive being read again");
      const named = { any: false, named: new Set([read.origin]), hosts: new Set([read.host]) };
      must(isOriginWelcome(named, text, null), "a named origin is not welcome");
      const nobody = { any: false, named: new Set<string>(), hosts: new Set<string>() };
      const own = isOriginWelcome(nobody, text, new URL(read.origin).host);
      const isAddress = /^(localhost|\[.*\]|\d{1,3}(\.\d{1,3}){3})$/.test(read.host);
      must(own === isAddress, "the server's own origin is welcome by its name alone");
      return `yes ${own}`;
    },
  },
  target: {
    make: (chance: Chance) =>
      changedText(chance, chance.pick(["http://h/a/b?c=d#e", "/a?b", "http://h:80/?x=/", "http://h"]), [
        "/",
        "?",
        "#",
        "//",
        ":",
        "%2F",
      ]),
    check(text: string) {
      const { path, query } = targetOf(text);
      must(!path.includes("?") && !`${path}${query}`.includes("#"), "a target keeps what is not its own");
      return `${path.length > 0} ${query.length > 0}`;
    },
  },
  payload: {
    make(chance: Chance) {
      const packets = Array.from({ length: chance.below(8) }, () =>
        chance.pick(["3", "40", '42["x"]', "", "2", "30", "4", "é3"]),
      );
      return changedText(chance, packets.join("\x1e"), ["3", "\x1e", "40", "é", "\x1e3\x1e"]).toWellFormed();
    },
    check(text: string) {
      const packets = text.split("\x1e");
      const pongs = packets.filter((packet) => packet.startsWith("3"));
      const count = countPayload(Buffer.from(text));
      must(count.pongs === Math.min(3, pongs.length), "countPayload miscounts pongs");
      if (count.pongs <= 2) {
        must(count.packets === packets.length, "countPayload miscounts packets");
      }
      for (const awaited of [true, false]) {
        const left = withoutStrayPongs(text, awaited);
        const kept = left === undefined ? [] : left.split("\x1e");
        must(
          kept.length === packets.length - pongs.length + (awaited && pongs.length > 0 ? 1 : 0),
          "pongs are dropped wrongly",
        );
      }
      return `${count.packets} ${count.pongs}`;
    },
  },
  json: {
    make: (chance: Chance) => (chance.often(0.7) ? oddJson(chance) : changedText(chance, oddJson(chance))),
    check(text: string) {
      let value: unknown;
      let isJson = true;
      try {
        value = JSON.parse(text);
      } catch {
        isJson = false;
      }
      try {
        const read = parseJsonBody(text);
        must(isJson && Bun.deepEquals(read, value), "parseJsonBody differs from JSON.parse");
        must(depthOf(read) <= 33, "a body is deeper than it may be");
        return "yes";
      } catch (error) {
        if (!(error instanceof ChatError)) throw error;
        must(!isJson || depthOf(value) > 32, "a right body is refused");
        return `no ${isJson}`;
      }
    },
  },
} satisfies Record<string, { make: (chance: Chance) => string; check: (text: string) => string }>;

const NAMES = Object.keys(PARSERS) as Parser[];

export const parsers: Surface<ParserInput> = {
  name: "parsers",
  lanes: 1,
  show: (input) => JSON.stringify(input),
  open: () => ({
    make(chance, seen) {
      const kept = seen.length > 0 && chance.often(0.3) ? chance.pick(seen) : undefined;
      if (kept !== undefined) return { parser: kept.parser, text: changedText(chance, kept.text) };
      const parser = chance.pick(NAMES);
      return { parser, text: PARSERS[parser].make(chance) };
    },
    attempt: ({ parser, text }) =>
      `${parser} ${PARSERS[parser].check(parser === "payload" ? text.toWellFormed() : text)}`,
    close() {},
  }),
};
