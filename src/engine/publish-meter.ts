/** How much was published to topics since the backlogs of the connections were last looked at. */

import { LIMITS } from "../limits.ts";

/**
 * A publish says nothing about who could not take it, and Bun's own `closeOnBackpressureLimit` leaves gaps: it drops,
 * only shuts the reading side, and while the client still sends it accepts the next message once the buffer has
 * drained. So Bun's limit must never be reached: backlogs are swept before a tick's publishes can lift a socket from our
 * ceiling to Bun's.
 */
export interface PublishMeter {
  /** False when this tick has published so much that the next message must be sent connection by connection. */
  mayPublish(bytes: number): boolean;
  stop(): void;
}

/** @param sweep looks at every backlog; called in a tick of its own */
export function createPublishMeter(sweep: () => void): PublishMeter {
  // Topics are flushed at the end of a tick: what was published before the last sweep is in the sockets' buffers by the
  // next one, what was published since may not be.
  let beforeSweep = 0;
  let sinceSweep = 0;
  let soon: Timer | undefined;
  let next: NodeJS.Immediate | undefined;

  function look() {
    stop();
    sweep();
    beforeSweep = sinceSweep;
    sinceSweep = 0;
    if (beforeSweep > 0) soon = setTimeout(look, LIMITS.backlogSweepMs);
  }

  function stop() {
    clearTimeout(soon);
    clearImmediate(next);
    soon = undefined;
    next = undefined;
  }

  return {
    mayPublish(bytes) {
      if (beforeSweep + sinceSweep + bytes > LIMITS.publishedUnflushedBytesMax) return false;
      sinceSweep += bytes;
      if (sinceSweep >= LIMITS.publishedUnsweptBytesMax) next ??= setImmediate(look);
      else soon ??= setTimeout(look, LIMITS.backlogSweepMs);
      return true;
    },
    stop,
  };
}
