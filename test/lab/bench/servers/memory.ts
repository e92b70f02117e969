/** The program's own stack over a store in memory: what a send costs when no disk is waited for. */

import { loadConfig } from "../../../../src/config.ts";
import { createLog } from "../../../../src/observe/log.ts";
import { startService } from "../../../../src/service.ts";
import { createMemoryRepository } from "./memory-repository.ts";
import { announce } from "./serving.ts";

const config = loadConfig(process.env);
const log = createLog({
  level: "warn",
  pretty: false,
  write: (line) => process.stderr.write(line),
  now: Date.now,
});
const service = await startService(config, log, async (_, { newEpoch }) =>
  createMemoryRepository(newEpoch()),
);
announce(service.port, () => service.stop());
