/** What is measured: a table of loads, who takes part in each, and what ours owes to whom. */

import type { ContenderName } from "./contenders.ts";

export interface Scenario {
  readonly name: string;
  readonly what: string;
  /** Connections in the one room; each gets every message. */
  readonly members: number;
  /** Those of them that send as well. */
  readonly senders: number;
  /** Unanswered sends of each sender: as soon as one is acked, the next goes out. */
  readonly inFlight: number;
  /** What is counted. */
  readonly unit: "deliveries" | "acks";
  readonly contenders: readonly ContenderName[];
  /** What ours must at least be, as a ratio of another contender's figure. */
  readonly bounds: readonly { readonly against: ContenderName; readonly atLeast: number }[];
}

export const SCENARIOS: readonly Scenario[] = [
  {
    name: "fanout-200",
    what: "durable fan-out, one room of 200, saturated",
    members: 200,
    senders: 4,
    inFlight: 16,
    unit: "deliveries",
    contenders: ["ours", "stock", "bare"],
    bounds: [
      { against: "bare", atLeast: 0.8 },
      { against: "stock", atLeast: 2.5 },
    ],
  },
  {
    name: "fanout-1000",
    what: "durable fan-out, one room of 1,000, saturated",
    members: 1_000,
    senders: 4,
    inFlight: 16,
    unit: "deliveries",
    contenders: ["ours", "stock", "bare"],
    bounds: [
      { against: "bare", atLeast: 0.8 },
      { against: "stock", atLeast: 2.5 },
    ],
  },
  {
    name: "acks-64",
    what: "durable acked sends, 64 in flight on one connection, alone in its room",
    members: 1,
    senders: 1,
    inFlight: 64,
    unit: "acks",
    contenders: ["ours", "stock-tx", "bare", "bare-cork"],
    bounds: [
      { against: "bare", atLeast: 0.7 },
      { against: "stock-tx", atLeast: 9 },
    ],
  },
];
