/** What is measured: a table of loads, who takes part in each, and what ours owes to whom. */

import { idleConnections, resumes } from "./kinds/arrivals.ts";
import { historyPages } from "./kinds/history.ts";
import { paced } from "./kinds/paced.ts";
import { saturated } from "./kinds/saturated.ts";
import { slowSyncs } from "./kinds/slow-disk.ts";
import { startsToFirstAnswer } from "./kinds/starting.ts";
import { PEER_NAMES, SOCKET_IO_PEERS } from "./peers.ts";
import type { Scenario } from "./scenario.ts";

const MILLION = { rooms: 100, messagesPerRoom: 10_000, users: 1_000 };

export const SCENARIOS: readonly Scenario[] = [
  {
    name: "fanout-200",
    what: "durable fan-out, saturated",
    kind: saturated({ rooms: 1, members: 200, senders: 4, inFlight: 16, unit: "deliveries" }),
    usual: true,
    contenders: ["ours", "stock", "bare", "bare-cork"],
    peers: PEER_NAMES,
    bounds: [
      { figure: "deliveries/s", against: "bare", atLeast: 0.95 },
      { figure: "deliveries/s", against: "stock", atLeast: 3.3 },
      { figure: "deliveries/s", against: "fastapi", atLeast: 14 },
      { figure: "deliveries/s", against: "centrifugo", atLeast: 1.6 },
    ],
  },
  {
    name: "fanout-1000",
    what: "durable fan-out, saturated",
    kind: saturated({ rooms: 1, members: 1_000, senders: 4, inFlight: 16, unit: "deliveries" }),
    usual: true,
    contenders: ["ours", "stock", "bare", "bare-cork"],
    peers: PEER_NAMES,
    bounds: [{ figure: "deliveries/s", against: "bare", atLeast: 0.97 }],
  },
  {
    name: "rooms-50x20",
    what: "durable fan-out, everyone sends",
    kind: saturated({ rooms: 50, members: 20, senders: 20, inFlight: 1, unit: "deliveries" }),
    usual: true,
    contenders: ["ours", "stock", "bare", "bare-cork"],
    peers: PEER_NAMES,
    bounds: [{ figure: "deliveries/s", against: "bare", atLeast: 0.85 }],
  },
  {
    name: "acks-64",
    what: "durable acked sends of one connection, alone in its room",
    kind: saturated({ rooms: 1, members: 1, senders: 1, inFlight: 64, unit: "acks" }),
    usual: true,
    contenders: ["ours", "stock", "stock-tx", "bare", "bare-cork"],
    peers: PEER_NAMES,
    bounds: [
      { figure: "acks/s", against: "bare", atLeast: 0.85 },
      { figure: "acks/s", against: "stock-tx", atLeast: 12 },
      ...SOCKET_IO_PEERS.map((against) => ({ figure: "acks/s", against, atLeast: 12 })),
    ],
  },
  {
    name: "acks-64x1",
    what: "durable acked sends of 64 connections, each alone in its room",
    kind: saturated({ rooms: 64, members: 1, senders: 1, inFlight: 1, unit: "acks" }),
    usual: true,
    contenders: ["ours", "stock", "stock-tx", "bare", "bare-cork"],
    peers: PEER_NAMES,
    bounds: [{ figure: "acks/s", against: "bare", atLeast: 0.8 }],
  },
  {
    name: "acks-1024",
    what: "durable acked sends of one connection, alone in its room",
    kind: saturated({ rooms: 1, members: 1, senders: 1, inFlight: 1_024, unit: "acks" }),
    usual: true,
    contenders: ["ours", "stock", "stock-tx", "bare", "bare-cork"],
    peers: PEER_NAMES,
    bounds: [{ figure: "acks/s", against: "bare", atLeast: 0.85 }],
  },
  {
    name: "latency-20",
    what: "what durability adds to the latency of an ack",
    kind: paced({ members: 20, sendsPerSecond: 1_000, latencyOf: "ack", measureMs: 10_000 }),
    usual: true,
    contenders: ["ours", "memory"],
    peers: SOCKET_IO_PEERS,
    bounds: [{ figure: "p99 ms ack", against: "memory", atMost: 3 }],
  },
  {
    name: "latency-200",
    what: "latency of a delivery at about half of what one core carries",
    kind: paced({ members: 200, sendsPerSecond: 400, latencyOf: "delivery" }),
    usual: false,
    contenders: ["ours", "memory", "stock", "bare"],
    peers: ["node-ws", "node-uws", "socketioxide"],
    bounds: [],
  },
  {
    name: "latency-1000",
    what: "latency of a delivery at about half of what one core carries",
    kind: paced({ members: 1_000, sendsPerSecond: 80, latencyOf: "delivery" }),
    usual: false,
    contenders: ["ours", "memory", "stock", "bare"],
    bounds: [],
  },
  {
    name: "slow-disk",
    what: "durable acked sends on a disk as slow as a memory card",
    kind: slowSyncs({ syncMs: 20, inFlight: 1_024 }),
    usual: true,
    contenders: ["ours", "bare"],
    bounds: [
      { figure: "acks/s", atLeast: 20_000 },
      { figure: "p99 ms loop stall", atMost: 5 },
    ],
  },
  {
    name: "history-1k",
    what: "pages of rooms over HTTP",
    kind: historyPages({ rooms: 10, messagesPerRoom: 100, users: 10, pagesOf: "room", places: 256 }),
    usual: false,
    contenders: ["ours", "bare-page"],
    bounds: [],
  },
  {
    name: "history-1m",
    what: "pages of rooms over HTTP, each asked for once",
    kind: historyPages({ ...MILLION, pagesOf: "room", places: 200_000 }),
    usual: false,
    contenders: ["ours", "bare-page"],
    bounds: [{ figure: "requests/s", against: "bare-page", atLeast: 0.5 }],
  },
  {
    name: "history-1m-again",
    what: "pages of rooms at rest over HTTP that others have asked for before",
    kind: historyPages({ ...MILLION, pagesOf: "room", places: 64 }),
    usual: false,
    contenders: ["ours", "bare-page"],
    bounds: [],
  },
  {
    name: "history-1m-busy",
    what: "pages of rooms over HTTP that others have asked for before, while some of the rooms are sent to",
    kind: historyPages({
      ...{ ...MILLION, pagesOf: "room", places: 64 },
      sentTo: { rooms: 16, sendsPerSecond: 4 },
    }),
    usual: false,
    contenders: ["ours", "bare-page"],
    bounds: [],
  },
  {
    name: "history-1m-user",
    what: "pages of users over HTTP, each asked for once",
    kind: historyPages({ ...MILLION, pagesOf: "user", places: 200_000 }),
    usual: false,
    contenders: ["ours", "bare-page"],
    bounds: [{ figure: "requests/s", against: "bare-page", atLeast: 0.5 }],
  },
  {
    name: "start",
    what: "from the start of the process to the first answer",
    kind: startsToFirstAnswer({ starts: 10 }),
    usual: true,
    subject: "single-file",
    contenders: ["single-file", "ours", "node-socket.io"],
    peers: SOCKET_IO_PEERS,
    bounds: [{ figure: "ms to first answer", against: "node-socket.io", atMost: 0.2 }],
  },
  {
    name: "idle",
    what: "connections that come, join and rest",
    kind: idleConnections({ connections: 2_000, roomMembers: 20 }),
    usual: false,
    contenders: ["ours", "stock", "bare"],
    peers: SOCKET_IO_PEERS,
    bounds: [
      { figure: "kB each", against: "stock", atMost: 0.75 },
      { figure: "joined/s", against: "stock", atLeast: 1 },
    ],
  },
  {
    name: "resume",
    what: "clients that come back with since",
    kind: resumes({ clients: 10_000, roomMembers: 20, messagesPerRoom: 40, missed: 10 }),
    usual: false,
    contenders: ["ours", "stock"],
    bounds: [],
  },
];
