/** A disk whose every sync takes longer: what is acked in spite of it, and whether the event loop waits for it. */

import { join } from "node:path";
import { ownProcess } from "../belongings.ts";
import type { Kind } from "../scenario.ts";
import type { LoopStalls } from "../servers/loop-probe.ts";
import { saturate, sharesOf } from "./saturated.ts";

const SERVERS = join(import.meta.dir, "../servers");
/** How long the probe may take to write what it saw. */
const PROBE_PATIENCE_MS = 5_000;

export function slowSyncs({
  syncMs,
  inFlight,
}: {
  readonly syncMs: number;
  readonly inFlight: number;
}): Kind {
  let library: Promise<string> | undefined;
  return {
    how: `every sync takes ${syncMs} ms longer, ${inFlight} in flight on one connection, alone in its room`,
    figures: [
      { name: "acks/s", digits: "k", compared: "subject by it" },
      { name: "p99 ms loop stall", digits: 2, compared: "subject by it" },
      { name: "longest ms", digits: 1 },
      { name: "CPU µs/ack", digits: 2 },
    ],
    async measure(contender, options) {
      library ??= compiled(options.folder);
      const probeFile = join(options.folder, `loop-${Bun.randomUUIDv7()}`);
      let stalls: LoopStalls | undefined;
      const { measurement, faults } = await saturate(
        { rooms: 1, members: 1, senders: 1, inFlight, signal: "SIGUSR2" },
        contender,
        options,
        {
          env: { LD_PRELOAD: await library, SLOW_SYNCS_MS: String(syncMs), LOOP_PROBE_FILE: probeFile },
          runtimeFlags: ["--preload", join(SERVERS, "loop-probe.ts")],
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

/** The library that slows syncs down, built from the source as it stands. */
async function compiled(folder: string): Promise<string> {
  if (process.platform !== "linux") throw new Error("a slow disk needs Linux (LD_PRELOAD)");
  if (Bun.which("gcc") === null) throw new Error("a slow disk needs gcc: install gcc and libc6-dev");
  const library = join(folder, "slow-syncs.so");
  const command = ["gcc", "-shared", "-fPIC", "-O2", "-o", library, join(SERVERS, "slow-syncs.c")];
  const compiler = ownProcess(Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" }));
  const said = await new Response(compiler.stderr).text();
  if ((await compiler.exited) !== 0) throw new Error(`gcc failed:\n${said}`);
  return library;
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
