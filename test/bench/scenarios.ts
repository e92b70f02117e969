/** What is measured: a table of loads, who takes part in each, and what ours owes to whom. */

import { saturated } from "./kinds/saturated.ts";
import type { Scenario } from "./scenario.ts";

export const SCENARIOS: readonly Scenario[] = [
  {
    name: "fanout-200",
    what: "durable fan-out, saturated",
    kind: saturated({ rooms: 1, members: 200, senders: 4, inFlight: 16, unit: "deliveries" }),
    usual: true,
    contenders: ["ours", "stock", "bare"],
    bounds: [
      { figure: "deliveries/s", against: "bare", atLeast: 0.95 },
      { figure: "deliveries/s", against: "stock", atLeast: 3.3 },
    ],
  },
  {
    name: "fanout-1000",
    what: "durable fan-out, saturated",
    kind: saturated({ rooms: 1, members: 1_000, senders: 4, inFlight: 16, unit: "deliveries" }),
    usual: true,
    contenders: ["ours", "stock", "bare"],
    bounds: [{ figure: "deliveries/s", against: "bare", atLeast: 0.97 }],
  },
  {
    name: "rooms-50x20",
    what: "durable fan-out, everyone sends",
    kind: saturated({ rooms: 50, members: 20, senders: 20, inFlight: 1, unit: "deliveries" }),
    usual: true,
    contenders: ["ours", "stock", "bare"],
    bounds: [{ figure: "deliveries/s", against: "bare", atLeast: 0.85 }],
  },
  {
    name: "acks-64",
    what: "durable acked sends of one connection, alone in its room",
    kind: saturated({ rooms: 1, members: 1, senders: 1, inFlight: 64, unit: "acks" }),
    usual: true,
    contenders: ["ours", "stock-tx", "bare", "bare-cork"],
    bounds: [
      { figure: "acks/s", against: "bare", atLeast: 0.85 },
      { figure: "acks/s", against: "stock-tx", atLeast: 12 },
    ],
  },
  {
    name: "acks-64x1",
    what: "durable acked sends of 64 connections, each alone in its room",
    kind: saturated({ rooms: 64, members: 1, senders: 1, inFlight: 1, unit: "acks" }),
    usual: true,
    contenders: ["ours", "stock-tx", "bare"],
    bounds: [{ figure: "acks/s", against: "bare", atLeast: 0.8 }],
  },
  {
    name: "acks-1024",
    what: "durable acked sends of one connection, alone in its room",
    kind: saturated({ rooms: 1, members: 1, senders: 1, inFlight: 1_024, unit: "acks" }),
    usual: true,
    contenders: ["ours", "stock-tx", "bare"],
    bounds: [{ figure: "acks/s", against: "bare", atLeast: 0.85 }],
  },
];
