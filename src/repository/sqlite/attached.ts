/** The connections of a store with the statements that run on them, and the view that its reads have. */

import type { Epoch } from "../../domain/ids.ts";
import { createAppender } from "./append.ts";
import type { Connections } from "./connections.ts";
import { createReads, type Reads } from "./reads.ts";

/** `finalize` ends the statements; the connections are closed by the caller. */
export function attach(connections: Connections, epoch: Epoch) {
  const { writer, reader } = connections;
  const appender = createAppender(writer);
  const reads = createReads(reader, epoch);
  const [begin, end] = [reader.prepare("BEGIN"), reader.prepare("COMMIT")];
  const takeView = reader.prepare("SELECT epoch FROM store");
  return {
    ...connections,
    appender,
    reads,
    /** From here on reads see what is on disk now, whatever is committed; until `show`. */
    freezeView() {
      begin.run();
      takeView.values();
    },
    show() {
      if (reader.inTransaction) end.run();
    },
    /** Runs a read in one view: the one that was frozen before an unsynced commit, else one of its own. */
    read<T>(work: (reads: Reads) => T): T {
      if (reader.inTransaction) return work(reads);
      begin.run();
      try {
        return work(reads);
      } finally {
        end.run();
      }
    },
    finalize() {
      appender.finalize();
      reads.finalize();
      for (const statement of [begin, end, takeView]) statement.finalize();
    },
  };
}
