/** The bus of a single node: whoever listens has heard it when `publish` returns, in the tick of the commit. */

import type { Message } from "../domain/message.ts";
import type { Log } from "../observe/log.ts";
import type { Bus } from "./bus.ts";

export function createLocalBus({ log }: { log: Log }): Bus {
  const listeners: ((messages: readonly Message[]) => void)[] = [];
  return {
    publish(messages) {
      for (const listener of listeners) {
        try {
          listener(messages);
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
