/** The program: environment in, a serving process out, signals and exit codes. */

import { ConfigError, loadConfig } from "./config.ts";
import { SettingError } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import { createLog } from "./observe/log.ts";
import { freeDescriptors } from "./runtime/descriptors.ts";
import { endNow } from "./runtime/exit.ts";
import { isOnScreen, print } from "./runtime/output.ts";
import { hasTerminal, isTerminalGone } from "./runtime/terminal.ts";
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

// Without descriptors the runtime ends the process in the middle of whatever it does, with a page of its own advice.
const descriptors = freeDescriptors(LIMITS.descriptorsAtStart);
if (descriptors < LIMITS.descriptorsAtStart) {
  fail(
    [
      `cannot start: only ${descriptors} more files can be opened, and ${LIMITS.descriptorsAtStart} are needed: raise the limit (ulimit -n, LimitNOFILE=)`,
    ],
    1,
  );
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
const isOnTerminal = hasTerminal();

/** The exit code that a shell gives to a program that a signal ended. */
const EXIT_BY_SIGNAL = { SIGTERM: 143, SIGINT: 130, SIGQUIT: 131, SIGHUP: 129 } as const;
type EndSignal = keyof typeof EXIT_BY_SIGNAL;

async function stop(signal: EndSignal): Promise<void> {
  // SIGHUP may say that the terminal is gone. Else the service goes on: people send it to have files read anew.
  if (signal === "SIGHUP" && !(isOnTerminal && (await isTerminalGone()))) return log.info("sighup_ignored");
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

function heedSignals(signals: readonly EndSignal[]): void {
  for (const signal of signals) process.on(signal, () => void stop(signal));
}

const ALL_SIGNALS = Object.keys(EXIT_BY_SIGNAL) as EndSignal[];
// Before the service runs there is nothing to drain, and a signal ends the process as it ends any program: the start may
// hang on a disk. Two exceptions: the kernel sends a container's first process no signal that it does not handle, and
// SIGHUP ends no service that has no terminal.
const isFirst = process.pid === 1;
const early = ALL_SIGNALS.filter((signal) => isFirst || (signal === "SIGHUP" && !isOnTerminal));
heedSignals(early);
service = await start();
heedSignals(ALL_SIGNALS.filter((signal) => !early.includes(signal)));

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
