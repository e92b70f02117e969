/** Hostile texts, JSON and bytes, made by chance and by changing what worked before. */

import type { Chance } from "../../fixture/chance.ts";

/** Part of every made-up string: no refusal may ever repeat it. */
export const MARK = "zqxj";

const ODD_TEXTS = [
  "",
  " ",
  ".",
  "..",
  "\u0000",
  "\n",
  "\u0085",
  "\u200b",
  "\ufeff",
  "\u202e",
  "\ud800",
  "\udfff\ud83d",
  "\uffff",
  "\u{10ffff}",
  "👩‍👩‍👧‍👦",
  "e\u0301",
  "ﷺ",
  "İ",
  "%",
  "%00",
  "%ff",
  "+",
  "../../x",
  "$where",
  "a.b",
  "-0",
  "1e400",
  "2026-01-31T09:05:00.000Z",
  "2026-02-30T00:00:00Z",
  "+099999-01-01T00:00:00Z",
  "room:x",
  "\x1e",
  "constructor",
  "__proto__",
  "toString",
  "hasOwnProperty",
  "error",
  "connect",
  "disconnect",
  "disconnecting",
  "newListener",
  "removeListener",
];
const KEYS = [
  ...["room", "user_id", "message", "timestamp", "client_id", "since", "epoch"],
  ...[
    "__proto__",
    "constructor",
    "prototype",
    "toString",
    "toJSON",
    "then",
    "length",
    "_placeholder",
    "num",
    "$gt",
    "",
  ],
];
const NUMBERS = [
  ...["0", "-0", "1", "-1", "0.5", "1e400", "-1e400", "1e-400", "9007199254740991", "9007199254740992"],
  ...[
    "9007199254740993",
    "-9007199254740993",
    "2147483648",
    "4294967296",
    "1e21",
    "1.7976931348623157e308",
    "5e-324",
  ],
];

export function oddText(chance: Chance): string {
  const kind = chance.below(8);
  if (kind === 0) return chance.pick(ODD_TEXTS);
  if (kind === 1) return MARK + chance.pick(ODD_TEXTS);
  if (kind === 2) return chance.pick(ODD_TEXTS) + MARK + chance.pick(ODD_TEXTS);
  if (kind === 3) return (MARK + chance.pick(["", "é", "😀", "\ud83d"])).repeat(1 + chance.below(60));
  if (kind === 4)
    return (
      MARK + String.fromCharCode(...Array.from({ length: chance.below(12) }, () => chance.below(65_536)))
    );
  if (kind === 5)
    return chance.pick(["a", "é", "😀", " ", "\u0000"]).repeat(chance.pick([127, 128, 129, 255, 256, 257]));
  if (kind === 6 && chance.often(0.1))
    return chance.pick(["x", "é", "😀", "\u0001"]).repeat(chance.pick([5_461, 16_384, 16_385, 60_000]));
  return `${MARK}${chance.below(1_000)}`;
}

/** JSON, nearly always valid as JSON: what is asked of a parser is that the value is wrong, not the grammar. */
export function oddJson(chance: Chance, depth = 0): string {
  const kind = chance.below(depth > 3 ? 5 : 9);
  if (kind === 0) return chance.pick(["null", "true", "false", '""', "[]", "{}"]);
  if (kind === 1) return chance.pick(NUMBERS);
  if (kind === 2 && chance.often(0.002)) return `"${"x".repeat(chance.pick([900_000, 999_900, 1_000_100]))}"`;
  if (kind <= 3) return JSON.stringify(oddText(chance));
  if (kind === 4) return `{"$gt":"${MARK}"}`;
  if (kind === 5) {
    const levels = chance.pick([5, 33, 200, 3_000]);
    return chance.often(0.5)
      ? "[".repeat(levels) + "]".repeat(levels)
      : `${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`;
  }
  if (kind === 6) return `{"_placeholder":true,"num":${chance.pick(NUMBERS)}}`;
  const count = chance.below(5);
  const values = Array.from({ length: count }, () => oddJson(chance, depth + 1));
  if (kind === 7) return `[${values.join(",")}]`;
  return `{${values.map((value) => `${JSON.stringify(oddKey(chance))}:${value}`).join(",")}}`;
}

const oddKey = (chance: Chance) => (chance.often(0.8) ? chance.pick(KEYS) : oddText(chance));

/** An object's fields as JSON texts: they may come twice, and `__proto__` is a name like any other. */
export type Fields = readonly (readonly [string, string])[];

export const jsonOf = (fields: Fields): string =>
  `{${fields.map(([key, value]) => `${JSON.stringify(key)}:${value}`).join(",")}}`;

/** Changes one to three things about an object that is right. */
export function changedFields(chance: Chance, fields: Fields): Fields {
  const changed = [...fields];
  for (let times = 1 + chance.below(3); times > 0; times -= 1) {
    const at = chance.below(changed.length + 1);
    const [key] = changed[at] ?? [oddKey(chance)];
    const kind = chance.below(6);
    if (kind === 0) changed.splice(at, 1);
    else if (kind === 1) changed.push([oddKey(chance), oddJson(chance)]);
    else if (kind === 2) changed.push([key, changed[at]?.[1] ?? oddJson(chance)]);
    else changed[at] = [kind === 3 && chance.often(0.2) ? oddKey(chance) : key, oddJson(chance)];
  }
  return changed;
}

/** Changes a text as text: cuts, repeats, swaps, inserts. */
export function changedText(chance: Chance, text: string, alphabet: readonly string[] = ODD_TEXTS): string {
  let changed = text;
  for (let times = 1 + chance.below(3); times > 0; times -= 1) {
    const from = chance.below(changed.length + 1);
    const to = Math.min(changed.length, from + chance.below(8));
    const kind = chance.below(6);
    if (kind === 0) changed = changed.slice(0, from) + changed.slice(to);
    else if (kind === 1) changed = changed.slice(0, to) + changed.slice(from);
    else if (kind === 2) changed = changed.slice(0, from) + chance.pick(alphabet) + changed.slice(to);
    else if (kind === 3) changed = changed.slice(0, from) + chance.pick(alphabet) + changed.slice(from);
    else if (kind === 4) changed = changed.slice(0, from);
    else {
      const code = (changed.charCodeAt(from) || 0) ^ (1 << chance.below(8));
      changed = changed.slice(0, from) + String.fromCharCode(code) + changed.slice(from + 1);
    }
  }
  return changed.length > 200_000 ? changed.slice(0, 200_000) : changed;
}

/** The same for bytes. */
export function changedBytes(chance: Chance, bytes: Uint8Array): Buffer {
  const changed = Buffer.from(bytes);
  for (let times = 1 + chance.below(4); times > 0 && changed.length > 0; times -= 1) {
    const at = chance.below(changed.length);
    changed[at] = chance.often(0.5) ? (changed[at] as number) ^ (1 << chance.below(8)) : chance.below(256);
  }
  return chance.often(0.2) ? changed.subarray(0, chance.below(changed.length + 1)) : changed;
}
