/** The bus of a single node: every listener has heard it when `publish` returns, in the tick of the commit. */

import type { Log } from "../observe/log.ts";
import type { Bus, CommittedEntries } from "./bus.ts";

export function createLocalBus({ log }: { log: Log }): Bus {
  const listeners: ((committed: CommittedEntries) => void)[] = [];
  return {
    publish(committed) {
      for (const listener of listeners) {
        try {
          listener(committed);
        } catch (error) {
          log.error("bus_listener_failed", { error });
        }
      }
    },
    subscribe(listener) {
      listeners.push(listener);
    },
    async close() {
      listeners.length = 0;
    },
  };
}
