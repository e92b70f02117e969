/** HTTP requests sent on one connection without waiting for answers: bounded, as all of them are read in one tick. */

import { ChatError, REFUSALS, retryAfterSeconds } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Metrics } from "../observe/metrics.ts";
import { errorToWire } from "../protocol/events.ts";
import { currentTick } from "../runtime/ticks.ts";

/** Where the connection of a request comes from; what Bun's server knows. */
interface Origins {
  requestIP(request: Request): { readonly address: string; readonly port: number } | null;
}

export interface Pipelines {
  /**
   * The refusal of a request that is too much for this tick, after which its connection is closed; undefined for all
   * others. Many connections may ask in one tick: beyond the ceiling only one that asks twice in a row is refused.
   */
  refusal(request: Request, server: Origins): Response | undefined;
}

export function createPipelines({ metrics }: { readonly metrics: Metrics }): Pipelines {
  let tick = 0;
  let requests = 0;
  /** Who asked last, beyond the ceiling. */
  let last = "";

  function refuse(): Response {
    metrics.count("requests_overloaded_total");
    const error = new ChatError("overloaded");
    return Response.json(
      { error: errorToWire(error) },
      {
        status: REFUSALS.overloaded.status,
        headers: { Connection: "close", "Retry-After": retryAfterSeconds(error) ?? "0" },
      },
    );
  }

  return {
    refusal(request, server) {
      const now = currentTick();
      if (now !== tick) {
        tick = now;
        requests = 0;
        last = "";
      }
      requests += 1;
      if (requests <= LIMITS.requestsPerTickMax) return undefined;
      const from = server.requestIP(request);
      const asking = from === null ? "" : `${from.address} ${from.port}`;
      if (asking !== last) {
        last = asking;
        return undefined;
      }
      return asking === "" ? undefined : refuse();
    },
  };
}
