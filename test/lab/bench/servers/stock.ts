/** The stock stack over our own store and group commit, so that only the engine and the fan-out differ from ours. */

import { createCommits } from "../../../../src/chat/commits.ts";
import type { Epoch } from "../../../../src/domain/ids.ts";
import { LIMITS } from "../../../../src/limits.ts";
import { createLog } from "../../../../src/observe/log.ts";
import { createMetrics } from "../../../../src/observe/metrics.ts";
import { openRepository } from "../../../../src/repository/open.ts";
import { storePath } from "./serving.ts";
import { createStockIo } from "./stock-io.ts";

const log = createLog({
  level: "warn",
  pretty: false,
  write: (line) => process.stderr.write(line),
  now: Date.now,
});
const repository = await openRepository(
  { kind: "sqlite", path: storePath() },
  { log, newEpoch: () => Bun.randomUUIDv7() as string as Epoch },
);
const stock = createStockIo();
const commits = createCommits({
  repository,
  bus: { publish: ({ entries }) => stock.deliver(entries) },
  queueMs: LIMITS.commitQueueMs,
  monotonicNow: () => performance.now(),
  log,
  metrics: createMetrics(),
  onUnknownOutcome() {},
});
stock.serve({
  reads: repository,
  commit: async (draft) => (await commits.commit(draft)).message,
  close: () => repository.close(),
});
