/** Which browser origins are welcome: the named ones, and the server's own. Pure. */

import { ChatError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

/** The origins of `CORS_ORIGINS`, each `scheme://host[:port]` in lower case; `any` when `*` was asked for by name. */
export interface OriginList {
  readonly any: boolean;
  readonly named: ReadonlySet<string>;
  /** Host names (without port) of the named origins. */
  readonly hosts: ReadonlySet<string>;
}

/** Reads one entry of the list; undefined when it is no origin (a path, a query, a scheme other than http or https). */
export function parseOrigin(text: string): { origin: string; host: string } | undefined {
  const url = URL.parse(text);
  if (url === null || !["http:", "https:"].includes(url.protocol)) return undefined;
  if (text.toLowerCase() !== url.origin && text.toLowerCase() !== `${url.origin}:${defaultPort(url)}`)
    return undefined;
  return { origin: url.origin, host: url.hostname };
}

const defaultPort = (url: URL) => (url.protocol === "https:" ? "443" : "80");

/**
 * Whether a request that names this `Origin` may act. No origin is welcome: it is no browser. The server's own is, where
 * its host is an address, `localhost`, or named in the list: a foreign name that points here is foreign (DNS rebinding).
 * @param host the request's `Host` header
 */
export function isOriginWelcome(origins: OriginList, origin: string | null, host: string | null): boolean {
  if (origin === null || origins.any) return true;
  const parsed = parseOrigin(origin);
  if (parsed === undefined) return false;
  if (origins.named.has(parsed.origin)) return true;
  if (host === null) return false;
  const url = new URL(parsed.origin);
  const own = URL.parse(`${url.protocol}//${host}`);
  if (own === null || own.host !== url.host) return false;
  return isAddress(own.hostname) || own.hostname === "localhost" || origins.hosts.has(own.hostname);
}

// The URL parser has already turned every spelling of an IPv4 address into dotted decimals and put IPv6 in brackets.
const isAddress = (hostname: string) => hostname.startsWith("[") || /^\d{1,3}(\.\d{1,3}){3}$/.test(hostname);

/** `null`, or scheme, host and port in printable ASCII. Looser than `parseOrigin`: pages of any scheme are told. */
const ORIGIN = /^(null|[a-z][a-z0-9+.-]*:\/\/[a-z0-9._:[\]-]*)$/i;

/** Refuses a page whose origin is not welcome. The header is input: only a valid origin of bounded length is repeated. */
export function foreignOrigin(origin: string | null): ChatError {
  const isShown =
    origin !== null &&
    origin.length <= LIMITS.originCharsMax &&
    ORIGIN.test(origin) &&
    (origin === "null" || URL.canParse(origin));
  const named = isShown ? `Origin ${origin}` : "The request's Origin";
  return new ChatError("forbidden", { text: `${named} is not in CORS_ORIGINS.` });
}
