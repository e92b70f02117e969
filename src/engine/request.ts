/** What Engine.IO on Node says to a request that breaks the protocol; the engine on Bun lets half of them through. */

/** The numbers are part of the protocol. */
export const FAULTS = {
  unknownTransport: { code: 0, message: "Transport unknown" },
  unknownSession: { code: 1, message: "Session ID unknown" },
  badHandshakeMethod: { code: 2, message: "Bad handshake method" },
  badRequest: { code: 3, message: "Bad request" },
  unsupportedVersion: { code: 5, message: "Unsupported protocol version" },
} as const;
export type Fault = (typeof FAULTS)[keyof typeof FAULTS];

const TRANSPORTS = new Set(["polling", "websocket"]);

export interface EngineRequest {
  readonly method: string;
  /** Whether it asks for a WebSocket: see `asksForWebSocket`. */
  readonly upgrades: boolean;
  readonly query: URLSearchParams;
  /** Of the session that `sid` names; undefined when there is none. */
  readonly session: "polling" | "websocket" | undefined;
}

/** Without a `sid`, or with an empty one, a request opens a session. */
export const isHandshake = (query: URLSearchParams) => !query.get("sid");

/** An `Upgrade` to any other protocol is an offer that a server may ignore (RFC 9110, 7.8), and this one does. */
export const asksForWebSocket = (headers: Headers) => headers.get("upgrade")?.toLowerCase() === "websocket";

/** What is wrong with a request; undefined when nothing is. A second WebSocket of a session is no fault. */
export function faultOf({ method, upgrades, query, session }: EngineRequest): Fault | undefined {
  const transport = query.get("transport") ?? "";
  if (!TRANSPORTS.has(transport)) return FAULTS.unknownTransport;
  if (isHandshake(query)) {
    if (method !== "GET") return FAULTS.badHandshakeMethod;
    if (query.get("EIO") !== "4") return FAULTS.unsupportedVersion;
  } else if (session === undefined) return FAULTS.unknownSession;
  const fits = upgrades
    ? transport === "websocket" && method === "GET"
    : transport === "polling" && session !== "websocket" && (method === "GET" || method === "POST");
  return fits ? undefined : FAULTS.badRequest;
}
