/** The command line: `bun src/cli.ts <command>`. Reads the environment as the service does, and prints what was done. */

import { parseArgs } from "node:util";
import { version } from "../package.json";
import { type Config, ConfigError, loadConfig } from "./config.ts";
import type { Epoch } from "./domain/ids.ts";
import { SettingError } from "./errors.ts";

const HELP = `usage: chat-service [command], or bun src/cli.ts [command]

  serve                 runs the service; so does no command at all
  backup FILE           writes the SQLite store into a new file, verified; a service may go on meanwhile
  restore FILE          puts a backup in the place of the SQLite store, which is kept under another name;
                        the service must be stopped, and clients read their rooms afresh
  migrate [--dry-run]   gives messages that an older program wrote to MongoDB their numbers and dates;
                        safe to run twice, and beside a running service
  help, --help          shows this text
  --version             shows the version

The environment is that of the service: SQLITE_PATH, MONGODB_URI, MONGODB_DB_NAME, …
`;

// As sysexits.h names them.
const EXIT = { done: 0, fault: 1, usage: 64, config: 78 } as const;

class UsageError extends Error {}

/** Something that the operator has to put right first: shown whole. */
class Refusal extends Error {}

interface Command {
  readonly name: keyof typeof RUN;
  readonly dryRun: boolean;
  /** What backup and restore are given. */
  readonly file: string;
}

const WITH_FILE: readonly string[] = ["backup", "restore"];

function parseCommand(argv: readonly string[]): Command {
  const { values, positionals } = parse(argv);
  const [asked = "serve", ...rest] = positionals;
  const name = values.help ? "help" : values.version ? "version" : asked;
  if (!isCommand(name)) throw new UsageError(`unknown command: ${name}`);
  const file = WITH_FILE.includes(name) ? rest.shift() : "";
  if (rest.length > 0) throw new UsageError(`unexpected argument: ${rest.join(" ")}`);
  if (file === undefined || (file === "" && WITH_FILE.includes(name)))
    throw new UsageError(`${name} needs a file`);
  const dryRun = values["dry-run"];
  if (dryRun && !["migrate", "help", "version"].includes(name))
    throw new UsageError("--dry-run belongs to migrate");
  return { name, dryRun, file };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        "dry-run": { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
        version: { type: "boolean", short: "v", default: false },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

/** @throws Error where another store is chosen */
function sqlitePath({ store }: Config, command: string): string {
  if (store.kind === "sqlite") return store.path;
  throw new Error(`${command} is for the SQLite store: with MONGODB_URI set use mongodump and mongorestore`);
}

async function backup(config: Config, file: string): Promise<string> {
  const store = sqlitePath(config, "backup");
  const { backUp } = await import("./repository/sqlite/backup.ts");
  const { path, messages, bytes } = backUp(store, file);
  return `${messages} messages were written to ${path} (${bytes} bytes)\n`;
}

async function restore(config: Config, file: string): Promise<string> {
  const store = sqlitePath(config, "restore");
  const sqlite = await import("./repository/sqlite/restore.ts");
  const { path, messages, former } = sqlite.restore(store, file, { newEpoch, now: new Date() });
  const kept = former === undefined ? "" : `the store that was there is kept as ${former}\n`;
  return `${messages} messages were put back into ${path}, as a new epoch\n${kept}`;
}

const newEpoch = () => Bun.randomUUIDv7() as string as Epoch;

async function migrate({ store }: Config, dryRun: boolean): Promise<string> {
  if (store.kind === "sqlite")
    throw new Refusal("cannot migrate: MONGODB_URI is not set, and a SQLite store has nothing to migrate");
  const { migrateMongo } = await import("./repository/mongo/migrate.ts");
  const { IndexesClash } = await import("./repository/mongo/indexes.ts");
  const report = await migrateMongo({ ...store, dryRun, newEpoch }).catch((error: unknown) => {
    if (!(error instanceof IndexesClash)) throw error;
    throw new Refusal(
      `cannot migrate, nothing was changed:\n${error.clashes.map((line) => `- ${line}`).join("\n")}`,
    );
  });
  const { numbered, rooms, dated, unreadable } = report;
  const [were, left] = dryRun ? ["would be", "would be left as they are"] : ["were", "were left as they are"];
  return [
    `${numbered} messages in ${rooms} rooms ${were} numbered, ${dated} messages ${were} dated`,
    ...(unreadable === 0 ? [] : [`${unreadable} documents cannot be read and ${left}`]),
    "",
  ].join("\n");
}

const RUN = {
  // The program serves by being loaded, and goes on after this.
  serve: () => import("./main.ts"),
  backup: async ({ file }) => process.stdout.write(await backup(loadConfig(process.env), file)),
  restore: async ({ file }) => process.stdout.write(await restore(loadConfig(process.env), file)),
  migrate: async ({ dryRun }) => process.stdout.write(await migrate(loadConfig(process.env), dryRun)),
  help: async () => process.stdout.write(HELP),
  version: async () => process.stdout.write(`${version}\n`),
} satisfies Record<string, (command: Pick<Command, "dryRun" | "file">) => Promise<unknown>>;

const isCommand = (name: string): name is Command["name"] => Object.hasOwn(RUN, name);

async function main(argv: readonly string[]): Promise<number> {
  try {
    const { name, ...command } = parseCommand(argv);
    await RUN[name](command);
    return EXIT.done;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (error instanceof UsageError) {
      process.stderr.write(`${message}\n\n${HELP}`);
      return EXIT.usage;
    }
    if (error instanceof Refusal) {
      process.stderr.write(`${message}\n`);
      return EXIT.fault;
    }
    if (error instanceof ConfigError || error instanceof SettingError) {
      process.stderr.write(`${message}\n`);
      return EXIT.config;
    }
    process.stderr.write(`cannot go on: ${message.split("\n", 1)[0]}\n`);
    return EXIT.fault;
  }
}

process.exitCode = await main(process.argv.slice(2));
