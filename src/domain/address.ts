/** Which callers' addresses count as one for a rate. Pure. */

const MAPPED = "::ffff:";

/**
 * The name under which an address is rated: an IPv4 address itself, an IPv6 address by its first 64 bits, since a
 * site is given all addresses behind them (RFC 6177). An IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2) is IPv4. Anything else stays as it is.
 */
export function ratedAs(address: string): string {
  const plain = address.toLowerCase().split("%", 1)[0] as string;
  if (!plain.includes(":")) return plain;
  if (plain.startsWith(MAPPED) && plain.includes(".")) return plain.slice(MAPPED.length);
  const [head = "", tail] = plain.split("::");
  const [before, after] = [groupsOf(head), groupsOf(tail ?? "")];
  const gap = tail === undefined ? 0 : Math.max(8 - before.length - after.length, 0);
  const groups = [...before, ...Array<string>(gap).fill("0"), ...after];
  return `${groups
    .slice(0, 4)
    .map((group) => group.replace(/^0+(?=.)/, ""))
    .join(":")}::/64`;
}

/** The groups of 16 bits; a dotted end stands for two. */
const groupsOf = (part: string): string[] =>
  part === "" ? [] : part.split(":").flatMap((group) => (group.includes(".") ? [group, group] : [group]));
