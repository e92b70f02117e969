/**
 * Points in time: milliseconds since 1970-01-01T00:00:00Z inside, ISO-8601 text outside.
 * The calendar is the proleptic Gregorian one, as in ECMA-262 21.4.1; years 0001 to 9999: databases and other languages have
 * no year 0000.
 */

declare const brand: unique symbol;
/** Milliseconds since the Unix epoch, within the years 0001–9999 of UTC. */
export type Millis = number & { readonly [brand]: "Millis" };

const FIRST = Date.UTC(2000, 0, 1) - 730_119 * 86_400_000; // 0001-01-01T00:00:00Z: Date.UTC reads years 0–99 as 19xx
const LAST = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

const DATE_TIME =
  /^(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9})\d{0,23})?)?(Z|[+-]\d{2}(?::?\d{2})?)?$/;

/** A clock reading as a point in time; out of range is our defect or a broken clock, and is cut to the range. */
export const toMillis = (ms: number): Millis => Math.min(Math.max(Math.trunc(ms), FIRST), LAST) as Millis;

/**
 * Reads an ISO-8601 date and time. Any offset, none means UTC, digits finer than a millisecond are cut, and
 * second 60, a leap second, is taken as 59, as clocks that count milliseconds have none.
 * Undefined for anything else: a date alone, a day the calendar does not have, a result outside the years 0001–9999.
 */
export function parseTimestamp(text: string): Millis | undefined {
  const match = DATE_TIME.exec(text);
  if (match === null) return undefined;
  const [, year, month, day, hour, minute, second = "0", fraction = "", offset = "Z"] = match;
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 60) return undefined;
  const date = new Date(0);
  date.setUTCFullYear(Number(year), Number(month) - 1, Number(day));
  // A day that the calendar does not have rolls over into another month.
  if (date.getUTCMonth() !== Number(month) - 1 || date.getUTCDate() !== Number(day)) return undefined;
  const wholeSecond = Math.min(Number(second), 59);
  date.setUTCHours(Number(hour), Number(minute), wholeSecond, Number(fraction.padEnd(3, "0").slice(0, 3)));
  const shift = offsetMinutes(offset);
  if (shift === undefined) return undefined;
  const ms = date.getTime() - shift * 60_000;
  return ms >= FIRST && ms <= LAST ? (ms as Millis) : undefined;
}

function offsetMinutes(offset: string): number | undefined {
  if (offset === "Z") return 0;
  const hours = Number(offset.slice(1, 3));
  const minutes = offset.length > 3 ? Number(offset.slice(-2)) : 0;
  if (hours > 23 || minutes > 59) return undefined;
  return (offset[0] === "-" ? -1 : 1) * (hours * 60 + minutes);
}

// Messages that come together have the same times, mostly: the last one is worth remembering.
let formatted: { readonly at: Millis; readonly text: string } | undefined;

/** UTC with milliseconds: `2026-01-31T09:05:00.000Z`. */
export function formatTimestamp(at: Millis): string {
  if (formatted?.at === at) return formatted.text;
  formatted = { at, text: new Date(at).toISOString() };
  return formatted.text;
}
