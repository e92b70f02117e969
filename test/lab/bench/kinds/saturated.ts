/** Closed loops: each sender has a fixed number of sends in flight, and when one is acked the next goes out. */

import { CONTENDERS, type ContenderName } from "../contenders.ts";
import type { Load, Measurement } from "../generator.ts";
import { generate, type Serving, serving, storeFaults } from "../run.ts";
import type { Figure, Kind, Run, RunOptions } from "../scenario.ts";

export interface Saturation {
  readonly rooms: number;
  /** Connections in each room; each gets every message of its room. */
  readonly members: number;
  /** Those of them that send as well. */
  readonly senders: number;
  /** Unanswered sends of each sender. */
  readonly inFlight: number;
  /** What is counted. */
  readonly unit: "deliveries" | "acks";
}

export function saturated(load: Saturation): Kind {
  const { rooms, members, senders, inFlight, unit } = load;
  const rate: Figure = { name: `${unit}/s`, digits: "k", compared: "subject by it" };
  const cpu: Figure = {
    name: `CPU µs/${unit === "acks" ? "ack" : "delivery"}`,
    digits: 2,
    compared: "it by subject",
  };
  return {
    how: `${rooms === 1 ? "one room" : `${rooms} rooms`} of ${members}, ${senders} sending in each, ${inFlight} in flight each`,
    figures: [rate, cpu, { name: "bytes/delivery", digits: 0 }, { name: "memory MB", digits: 0 }],
    async measure(contender, options) {
      const { measurement, faults } = await saturate(load, contender, options);
      const { seconds, serverCpuSeconds, serverBytes, deliveries, deliveryBytes } = measurement;
      const done = measurement[unit];
      const figures = {
        [rate.name]: done / seconds,
        [cpu.name]: serverCpuSeconds === null ? null : (serverCpuSeconds / done) * 1e6,
        "bytes/delivery": deliveryBytes / deliveries,
        "memory MB": serverBytes === null ? null : serverBytes / 1e6,
      };
      return { contender, figures, shares: sharesOf(measurement), faults };
    },
  };
}

interface Told extends Pick<Serving, "env" | "runtimeFlags"> {
  /** Once it is measured, while the server still runs. */
  readonly beforeItEnds?: () => Promise<void>;
}

/** One run of such a load, on a server that is told so much beside what every one is. */
export async function saturate(
  load: Omit<Saturation, "unit"> & Pick<Load, "signal">,
  contender: ContenderName,
  options: RunOptions,
  { beforeItEnds = async () => {}, ...told }: Told = {},
) {
  const faults: string[] = [];
  const { seed, warmUpMs, measureMs } = options;
  const measurement = await serving(
    { contender, options, ...told },
    async ({ port, pid }) => {
      const asked: Load = {
        ...{ hostname: "127.0.0.1", port, serverPid: pid, seed, warmUpMs, measureMs },
        ...load,
        dialect: CONTENDERS[contender].dialect ?? "socket.io",
      };
      const measured = await generate<Measurement>("generator.ts", asked);
      await beforeItEnds();
      return measured;
    },
    (path, { storedMessages }) => void faults.push(...storeFaults(contender, path, storedMessages)),
  );
  for (const [kind, count] of Object.entries(measurement.faults))
    if (count > 0) faults.push(`${kind} ${count}`);
  return { measurement, faults };
}

export const sharesOf = ({
  seconds,
  serverCpuSeconds,
  generatorShare,
  othersShare,
}: Measurement): Run["shares"] => ({
  server: serverCpuSeconds === null ? null : serverCpuSeconds / seconds,
  generator: generatorShare,
  others: othersShare,
});
