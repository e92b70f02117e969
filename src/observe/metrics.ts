/** Counters: what happened how often since the start. Names are Prometheus' style: noun, unit, `_total`. */

export const COUNTERS = [
  "messages_stored_total",
  "messages_duplicate_total",
  "messages_refused_total",
  "commits_total",
  "store_failures_total",
  "reads_failed_total",
  "reads_overloaded_total",
  "slow_clients_disconnected_total",
  "engine_abuse_closed_total",
  "handshakes_refused_total",
  "room_gaps_read_total",
  "sends_rate_limited_total",
  "sends_overloaded_total",
  "joins_rate_limited_total",
  "joins_overloaded_total",
  "events_overloaded_total",
  "pages_overloaded_total",
  "handshakes_rate_limited_total",
  "handshakes_overloaded_total",
  "requests_overloaded_total",
] as const;
export type Counter = (typeof COUNTERS)[number];

export interface Metrics {
  count(counter: Counter, by?: number): void;
  snapshot(): Readonly<Record<Counter, number>>;
}

export function createMetrics(): Metrics {
  const values = Object.fromEntries(COUNTERS.map((name) => [name, 0])) as Record<Counter, number>;
  return {
    count(counter, by = 1) {
      values[counter] += by;
    },
    snapshot: () => ({ ...values }),
  };
}
