/** A disk whose every sync takes longer: what is acked in spite of it, and whether the event loop waits for it. */

import { join } from "node:path";
import { slowDisk } from "../../fixture/slow-disk.ts";
import type { Kind } from "../scenario.ts";
import type { LoopStalls } from "../servers/loop-probe.ts";
import { saturate, sharesOf } from "./saturated.ts";

/** How long the probe may take to write what it saw. */
const PROBE_PATIENCE_MS = 5_000;

export function slowSyncs({
  syncMs,
  inFlight,
}: {
  readonly syncMs: number;
  readonly inFlight: number;
}): Kind {
  return {
    how: `every sync takes ${syncMs} ms longer, ${inFlight} in flight on one connection, alone in its room`,
    figures: [
      { name: "acks/s", digits: "k", compared: "subject by it" },
      { name: "p99 ms loop stall", digits: 2, compared: "subject by it" },
      { name: "longest ms", digits: 1 },
      { name: "CPU µs/ack", digits: 2 },
    ],
    async measure(contender, options) {
      const probeFile = join(options.folder, `loop-${Bun.randomUUIDv7()}`);
      let stalls: LoopStalls | undefined;
      const { measurement, faults } = await saturate(
        { rooms: 1, members: 1, senders: 1, inFlight, signal: "SIGUSR2" },
        contender,
        options,
        {
          env: { ...(await slowDisk({ ms: syncMs })), LOOP_PROBE_FILE: probeFile },
          runtimeFlags: ["--preload", join(import.meta.dir, "../servers/loop-probe.ts")],
          async beforeItEnds() {
            stalls = await seenIn(probeFile);
          },
        },
      );
      const { acks, seconds, serverCpuSeconds } = measurement;
      return {
        contender,
        figures: {
          "acks/s": acks / seconds,
          "p99 ms loop stall": stalls?.p99 ?? null,
          "longest ms": stalls?.longest ?? null,
          "CPU µs/ack": serverCpuSeconds === null ? null : (serverCpuSeconds / acks) * 1e6,
        },
        shares: sharesOf(measurement),
        faults,
      };
    },
  };
}

/** What the probe saw between the two signals around the measured time; the first one only begins it. */
async function seenIn(probeFile: string): Promise<LoopStalls> {
  for (const until = performance.now() + PROBE_PATIENCE_MS; performance.now() < until; await Bun.sleep(10)) {
    const file = Bun.file(probeFile);
    const seen = (await file.exists()) ? ((await file.json()) as LoopStalls) : undefined;
    if (seen?.windows === 1) return seen;
  }
  throw new Error("the probe of the event loop did not answer");
}
