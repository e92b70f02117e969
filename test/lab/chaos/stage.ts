/** Where a plan is played: a store, one or two services on it, cables, and a crowd that speaks and listens. */

import { join } from "node:path";
import { freshDatabase } from "../../fixture/mongodb.ts";
import { spawnProgram, temporaryFolder } from "../../fixture/program.ts";
import { type Cable, openCable } from "./cable.ts";
import { createChance } from "./chance.ts";
import type { OnTheWay } from "./cores.ts";
import type { Database } from "./database.ts";
import type { Course } from "./fault.ts";
import { createLedger, type Ledger } from "./ledger.ts";
import type { Machine, Machines } from "./machine.ts";
import { type Plan, servicesOf } from "./plan.ts";
import { createResident, type Resident, type Transport } from "./resident.ts";
import { createSpeaker, httpVoice, type Speaker, socketVoice } from "./speaker.ts";
import { type Supervised, supervise } from "./supervised.ts";
import { createWatch, crowding, type Watch } from "./watch.ts";
import { callWitness, type Witness } from "./witness.ts";

export interface Stage {
  readonly ledger: Ledger;
  readonly watch: Watch;
  readonly machine: Machine;
  readonly services: readonly Supervised[];
  readonly speakers: readonly Speaker[];
  /** Everybody who listens, those who came later too. */
  readonly residents: readonly Resident[];
  readonly rooms: readonly string[];
  database(): Database;
  databaseName(): string;
  /** The file of the embedded store. */
  storePath(): string;
  /** Starts a process of the service that must not come up. Resolves with whether it was refused; else it is killed. */
  isRefused(env: Readonly<Record<string, string>>, what: string): Promise<boolean>;
  /** Starts a process of the service, where none runs, and kills it after so long. */
  beginsToStart(forMs: number): Promise<void>;
  /** Has the program's command line do this on this machine; rejects when it fails. */
  runCommand(...args: readonly string[]): Promise<void>;
  /** Nobody says anything new until `speakAgain`. Resolves with whether all was answered and everybody was shown all of it. */
  hush(): Promise<boolean>;
  speakAgain(): void;
  /** Another client of the database, where the plan has one; it asks for the first time after so many milliseconds. */
  callWitness(afterMs: number, onBack: (since: number) => void): Witness | null;
  /** Whose work an answer of these services waits for. */
  onTheWay(services: readonly Supervised[]): OnTheWay;
  serviceAt(pick: number): Supervised;
  cableAt(pick: number): Cable;
  /** The speakers say so many messages more, at once; on a slow store a quarter of that. */
  burst(count: number, bytes: number): void;
  /** So many come with polling and go over to a WebSocket while messages pass; they stay. */
  upgraders(count: number): readonly Resident[];
  /** A late comer, who asks for everything. */
  lateComer(): void;
  /** Many come, all break at once, and all come back. Its end waits for that. */
  storm(): Promise<Course>;
  /** Waits until the service has given up those that died without a word; it is asked for those that poll. */
  vanished(dead: ReturnType<Cable["die"]>, service: Supervised): Promise<void>;
  /** By how many messages of a room one member is behind another. */
  behind(): number;
  /** Whether in some room a message was acked by each service. */
  posted(): boolean;
  /** One fault more (1) or less (-1) of what the services stand on. */
  countGroundFault(by: 1 | -1): void;
  close(): Promise<void>;
}

export interface StageOptions {
  readonly command: readonly string[];
  readonly machines: Machines;
  /** Needed where the plan's store is MongoDB. */
  readonly database: Database | null;
  readonly stormClients: number;
  /** For how long MongoDB may hang after a fault, all hangs together; a minute where it is left out. */
  readonly databaseGivenUpMs?: number;
}

const ROOMS = ["the hall", "the garden"];
/** The name of the speaker that uses POST, for each service. */
const poster = (service: number) => `poster${service}`;
const PING_INTERVAL_MS = 800;
const PING_TIMEOUT_MS = 1_200;
/** Engine.IO's default. */
const UPGRADE_TIMEOUT_MS = 10_000;
/** Least that is allowed for one client to leave unread. */
const OUTBOUND_LIMIT_BYTES = 600_000;
const STORM_MS = 15_000;
const COME_BACK_MS = 8_000;
/** The longest wait once a promise is broken. */
const GIVE_UP_MS = 2_000;

export async function openStage(plan: Plan, options: StageOptions): Promise<Stage> {
  const { command, machines, database, stormClients } = options;
  const chance = createChance(plan.seed ^ 0x5bd1e995);
  const watch = createWatch();
  const ledger = createLedger(watch);
  const folder = await temporaryFolder();
  const machine = await machines.make(folder.path);
  const databaseName = freshDatabase();
  let groundFaults = 0;

  const env: Readonly<Record<string, string>> = {
    ...machine.env,
    ...(database === null
      ? { SQLITE_PATH: join(folder.path, "chat.db") }
      : { MONGODB_URI: database.uri, MONGODB_DB_NAME: databaseName }),
    RATE_LIMIT: "off",
    DRAIN_MS: "200",
    PING_INTERVAL_MS: String(PING_INTERVAL_MS),
    PING_TIMEOUT_MS: String(PING_TIMEOUT_MS),
    OUTBOUND_LIMIT_BYTES: String(OUTBOUND_LIMIT_BYTES),
  };
  const services: Supervised[] = [];
  for (let n = 0; n < servicesOf(plan); n += 1) {
    services.push(await supervise({ command, env, ledger, isGroundAtFault: () => groundFaults > 0 }));
  }
  const cables = await Promise.all(services.map(({ port }) => openCable(port)));
  const at = <T>(all: readonly T[], pick: number) => all[pick % all.length] as T;

  const residents: Resident[] = [];
  let comers = 0;
  function come(role: string, transport: Transport, byCable: boolean, from: "beginning" | "now"): Resident {
    const index = comers++;
    const url = byCable ? at(cables, index).url : at(services, index).url;
    const name = `${role}${index}`;
    const resident = createResident({ name, url, transport, rooms: ROOMS, from, ledger, watch });
    residents.push(resident);
    return resident;
  }

  const listeners = (["websocket", "polling", "upgrade"] as const).map((transport) =>
    come("listener", transport, true, "beginning"),
  );
  listeners.push(come("listener", "websocket", false, "now"));
  const talkers = [
    come("talker", "websocket", false, "now"),
    come("talker", "upgrade", true, "beginning"),
    come("talker", "polling", false, "now"),
  ];
  const voices = [
    ...talkers.map(socketVoice),
    ...services.map(({ url }, index) => httpVoice(poster(index), url, ledger)),
  ];
  const speakers = voices.map((voice) =>
    createSpeaker({
      voice,
      rooms: ROOMS,
      ledger,
      watch,
      chance,
      inFlight: 3,
      // MongoDB's stand-in takes some hundred messages a second when it is alone, and it is not.
      paceMs: () => (database === null ? chance.whole(10, 60) : chance.whole(40, 120)),
    }),
  );

  return {
    ledger,
    watch,
    machine,
    services,
    speakers,
    residents,
    rooms: ROOMS,
    database() {
      if (database === null) throw new Error("the plan has no database");
      return database;
    },
    databaseName: () => databaseName,
    storePath: () => env.SQLITE_PATH ?? "",
    async isRefused(own, what) {
      const other = spawnProgram({ command, env: { ...env, ...own } });
      const began = other.line(/"event":"listening"/).then(
        () => true,
        () => false,
      );
      const isIn = await Promise.race([began, other.exited.then(() => false)]);
      other.child.kill("SIGKILL");
      await other.exited;
      if (isIn) ledger.violated("let in", what);
      return !isIn;
    },
    async beginsToStart(forMs) {
      const { child, exited } = spawnProgram({ command, env });
      await Bun.sleep(forMs);
      child.kill("SIGKILL");
      await exited;
    },
    async runCommand(...args) {
      const line = command.map((word) => word.replace(/main\.ts$/, "cli.ts"));
      const { exited, errors } = spawnProgram({ command: [...line, ...args], env });
      if ((await exited) !== 0) throw new Error(`${args.join(" ")} failed: ${errors()}`);
    },
    async hush() {
      const answered = await Promise.all(speakers.map((speaker) => speaker.pause()));
      const areShown = () =>
        ROOMS.every((room) => {
          const last = Math.max(ledger.newestSeq(room), ...residents.map((resident) => resident.last(room)));
          return residents.every((resident) => resident.isIn(room) && resident.last(room) === last);
        });
      return !answered.includes(false) && watch.until(areShown, COME_BACK_MS * crowding());
    },
    speakAgain() {
      for (const speaker of speakers) speaker.goOn();
    },
    callWitness: (afterMs, onBack) =>
      database === null
        ? null
        : callWitness({ uri: database.uri, databaseName, room: at(ROOMS, 0), afterMs, onBack }),
    onTheWay: (asked) => ({
      programs: [process.pid, ...asked.flatMap(({ pids }) => pids())],
      standIns: database === null ? [] : [database.pid()],
    }),
    serviceAt: (pick) => at(services, pick),
    cableAt: (pick) => at(cables, pick),
    burst(count, bytes) {
      const each = Math.ceil((database === null ? count : count / 4) / speakers.length);
      for (const speaker of speakers) speaker.burst(each, bytes);
    },
    upgraders(count) {
      return Array.from({ length: count }, (_, n) =>
        come("upgrader", "upgrade", false, n % 2 === 0 ? "beginning" : "now"),
      );
    },
    lateComer: () =>
      void come("latecomer", chance.oneOf(["websocket", "polling", "upgrade"]), false, "beginning"),

    async storm() {
      const crowd = Array.from({ length: stormClients }, () => come("crowd", "websocket", false, "now"));
      const allIn = () => crowd.every(({ isIn }) => ROOMS.every(isIn));
      const within = STORM_MS * crowding();
      if (!(await watch.until(allIn, within))) ledger.violated("stuck", `of ${stormClients} not all came in`);
      for (const resident of crowd) resident.drop();
      const wereOut = await watch.until(() => !allIn(), 1_000);
      return {
        felt: () => wereOut,
        async end() {
          const began = performance.now();
          if (!(await watch.until(allIn, within)))
            ledger.violated(
              "stuck",
              `of ${stormClients} not all came back in ${performance.now() - began} ms`,
            );
        },
      };
    },

    async vanished(dead, { url }) {
      // A client that is gone is known to be so one ping and its timeout later, one that was about to go over to a
      // WebSocket when Engine.IO's time for that is up. This process may be late to hear of it.
      const knownMs = Math.max(PING_INTERVAL_MS + PING_TIMEOUT_MS, UPGRADE_TIMEOUT_MS);
      const until = performance.now() + knownMs * 1.25 + 1_000 * crowding();
      while (dead.kept() > 0 && performance.now() < until) await Bun.sleep(50);
      let polled = await stillKnown(url, dead.polled());
      for (; polled.length > 0 && performance.now() < until; polled = await stillKnown(url, polled))
        await Bun.sleep(50);
      const kept = dead.kept() + polled.length;
      dead.restore();
      if (kept > 0)
        ledger.violated(
          "stuck",
          `the service kept ${kept} sessions that were dead, ${polled.length} by polling`,
        );
    },

    behind: () =>
      Math.max(
        ...ROOMS.map((room) => {
          const shown = residents.map((resident) => resident.last(room)).filter((seq) => seq >= 0);
          return Math.max(...shown) - Math.min(...shown);
        }),
      ),
    posted: () =>
      ROOMS.some((room) =>
        services.every((_, index) =>
          ledger.said
            .values()
            .some((entry) => entry.userId === poster(index) && entry.room === room && entry.acked !== null),
        ),
      ),

    countGroundFault(by) {
      groundFaults += by;
    },

    async close() {
      for (const resident of residents) resident.leave();
      await Promise.all(cables.map((cable) => cable.close()));
      await Promise.all(services.map((service) => service.kill("SIGKILL")));
      if (database !== null) await database.drop(databaseName);
      await folder.remove();
    },
  };
}

/** Engine.IO's words for a session that is not there. */
const SESSION_UNKNOWN = 1;

/**
 * Those of the sessions that a service still has, asked in a way that touches none: a request that is no WebSocket's says it
 * is one, which is refused for that reason only where the session exists.
 */
async function stillKnown(url: string, sids: readonly string[]): Promise<string[]> {
  const known = await Promise.all(
    sids.map(async (sid) => {
      try {
        const response = await fetch(`${url}/socket.io/?EIO=4&transport=websocket&sid=${sid}`);
        return ((await response.json()) as { code: number }).code !== SESSION_UNKNOWN;
      } catch {
        return true; // It is down; once it is back it will say.
      }
    }),
  );
  return sids.filter((_, index) => known[index]);
}

/** Resolves with whether everybody came in and was shown everything up to the numbers, within the ceiling. */
export const allShown = (stage: Stage, heads: ReadonlyMap<string, number>): Promise<boolean> =>
  stage.watch.until(
    () =>
      stage.residents.every((resident) =>
        [...heads].every(([room, seq]) => resident.isIn(room) && resident.last(room) >= seq),
      ),
    stage.ledger.violations.length > 0 ? GIVE_UP_MS : COME_BACK_MS * crowding(),
  );
