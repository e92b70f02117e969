/** A service as an operator runs it: on one port for good, started again after each death, and watched for its own end. */

import { type Program, startProgram } from "../../fixture/program.ts";
import type { Ledger } from "./ledger.ts";

export interface Supervised {
  readonly url: string;
  readonly port: number;
  /** How often it was started; a number that stays the same across a question says that nothing came between. */
  generation(): number;
  isUp(): boolean;
  /** How often a start of it failed. */
  failedStarts(): number;
  /** Those of its process, none while it is down. */
  pids(): number[];
  /** Ends it. Resolves once it is gone; an end in which it did not keep its promises is a violation. */
  kill(signal: "SIGKILL" | "SIGTERM"): Promise<void>;
  /** Resolves once it listens again, however often that takes while the store is at fault. */
  restart(): Promise<void>;
  /** What it logged as a warning or an error, the last lines of all its lives. */
  complaints(): string[];
  /** How often an event stands in the logs of all its lives. */
  logged(event: string): number;
}

export interface SupervisedOptions {
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly ledger: Ledger;
  /** Whether something that the service stands on is at fault now, so that it may end badly or not start. */
  readonly isGroundAtFault: () => boolean;
}

/** Those that run now: none may outlive the harness. */
const living = new Set<number>();
process.on("exit", () => {
  for (const pid of living) process.kill(pid, "SIGKILL");
});

const START_RETRY_MS = 50;
const COMPLAINTS_MAX = 30;

export async function supervise(options: SupervisedOptions): Promise<Supervised> {
  const { command, env, ledger, isGroundAtFault } = options;
  const lives: Program[] = [];
  let port = 0;
  let failedStarts = 0;
  let current: Program | null = null;
  /** Asked to end: its end is no surprise. */
  let ending: Program | null = null;
  let turn: Promise<void> = Promise.resolve();

  const inTurn = (work: () => Promise<void>): Promise<void> => {
    const mine = turn.then(work);
    // One that failed is its caller's to hear of: the next one, be it only the end, has its turn all the same.
    turn = mine.catch(() => {});
    return mine;
  };

  async function start(): Promise<void> {
    for (let tries = 0; current === null; tries += 1) {
      let faulty = isGroundAtFault();
      try {
        const program = await startProgram({ command, env: { ...env, PORT: String(port) } });
        lives.push(program);
        living.add(program.pid);
        port = program.port;
        current = program;
        program.exited.then((code) => {
          living.delete(program.pid);
          if (current !== program) return;
          current = null;
          if (ending !== program) ledger.violated("ended", `the service ended by itself with ${code}`);
        });
      } catch (error) {
        failedStarts += 1;
        faulty ||= isGroundAtFault();
        // The port may be another's for a moment; the store's faults last as long as the plan says.
        if (!faulty && tries > 20) throw error;
        if (!faulty) ledger.violated("ended", `the service did not start: ${String(error).slice(0, 300)}`);
        await Bun.sleep(START_RETRY_MS);
      }
    }
  }

  await start();
  const text = () => lives.map((life) => life.output()).join("");
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    generation: () => lives.length,
    failedStarts: () => failedStarts,
    isUp: () => current !== null && ending === null,
    pids: () => (current === null ? [] : [current.pid]),
    kill: (signal) =>
      inTurn(async () => {
        const program = current;
        if (program === null) return;
        ending = program;
        const wasFaulty = isGroundAtFault();
        const code = await program.end(signal);
        current = null;
        ending = null;
        if (signal === "SIGTERM" && code !== 0 && !wasFaulty && !isGroundAtFault())
          ledger.violated("ended", `SIGTERM ended the service with ${code}`);
      }),
    restart: () => inTurn(start),
    complaints: () =>
      text()
        .split("\n")
        .filter((line) => line !== "" && !/"level":"(info|debug)"/.test(line))
        .slice(-COMPLAINTS_MAX),
    logged: (event) => text().split(`"event":"${event}"`).length - 1,
  };
}
