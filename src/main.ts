/** The program: environment in, a serving process out, signals and exit codes. */

import { ConfigError, loadConfig } from "./config.ts";
import { SettingError } from "./errors.ts";
import { endNow } from "./runtime/exit.ts";
import { createLog } from "./observe/log.ts";
import { isOnScreen, print } from "./runtime/output.ts";
import { type Service, startService } from "./service.ts";

/** sysexits.h: something in the configuration is wrong. */
const EXIT_CONFIG = 78;

const fail = (lines: readonly string[], code: number): never => {
  for (const line of lines) process.stderr.write(`${line}\n`);
  process.exit(code);
};

function config() {
  try {
    return loadConfig(process.env);
  } catch (error) {
    if (error instanceof ConfigError) return fail(error.lines, EXIT_CONFIG);
    throw error;
  }
}

const settings = config();
const log = createLog({
  level: settings.logLevel,
  pretty: isOnScreen(),
  write: print,
  now: Date.now,
});

const oneLine = (error: unknown) =>
  (error instanceof Error ? error.message : String(error)).split("\n", 1)[0] ?? "";

async function start(): Promise<Service> {
  try {
    return await startService(settings, log);
  } catch (error) {
    if (error instanceof SettingError) return fail([error.message], EXIT_CONFIG);
    return fail([`cannot start: ${oneLine(error)}`], 1);
  }
}

/**
 * A signal reaches the program twice when it was started by another (`bun start`) that passes on what both were sent: a
 * terminal's Ctrl-C, a service manager's SIGTERM to the whole group. That is one wish, not two.
 */
const SAME_WISH_MS = 500;

let service: Service | undefined;
let stoppingSince: number | undefined;

/** As a shell says it of a program that a signal ended. */
const EXIT_BY_SIGNAL = { SIGTERM: 143, SIGINT: 130 } as const;

async function stop(signal: keyof typeof EXIT_BY_SIGNAL): Promise<void> {
  if (service === undefined) return endNow(EXIT_BY_SIGNAL[signal]);
  if (stoppingSince !== undefined) {
    if (performance.now() - stoppingSince > SAME_WISH_MS) endNow(1);
    return;
  }
  stoppingSince = performance.now();
  log.info("draining", { signal, drain_ms: settings.drainMs });
  const inTime = await service.drain();
  log.info("stopped", { in_time: inTime, ...service.metrics.snapshot() });
  if (!inTime) endNow(1);
  process.exit(0);
}

function heedSignals(): void {
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => void stop(signal));
}

// Until it serves there is nothing to drain, and a signal ends it as it ends any program: the start may hang on a disk.
// But for a container's first process, which the kernel spares every signal that it does not heed itself.
const isFirst = process.pid === 1;
if (isFirst) heedSignals();
service = await start();
if (!isFirst) heedSignals();

announce(service);

function announce({ port, store }: Service): void {
  const { host } = settings;
  const shown = ["0.0.0.0", "::"].includes(host) ? "localhost" : host.includes(":") ? `[${host}]` : host;
  const url = `http://${shown}:${port}`;
  log.info("listening", {
    url,
    bind: `${host}:${port}`,
    chat: `${url}/chat`,
    history: `${url}/messages/{user_id}`,
    store: store.kind,
    place: store.place,
  });
  log.warn("auth_is_off", {
    meaning: "ANYONE WHO REACHES THIS PORT CAN READ EVERY ROOM AND SPEAK AS ANY USER",
  });
}
