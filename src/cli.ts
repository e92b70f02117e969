/** The command line: `bun src/cli.ts <command>`. Reads the environment as the service does, and prints what was done. */

import { parseArgs } from "node:util";
import { version } from "../package.json";
import { type Config, ConfigError, loadConfig } from "./config.ts";
import type { Epoch } from "./domain/ids.ts";
import { SettingError } from "./errors.ts";

const HELP = `usage: chat-service [command], or bun src/cli.ts [command]

  serve                 runs the service; so does no command at all
  migrate [--dry-run]   gives messages that an older program wrote to MongoDB their numbers and dates;
                        safe to run twice, and beside a running service
  help, --help          shows this text
  --version             shows the version

The environment is that of the service: MONGODB_URI, MONGODB_DB_NAME, …
`;

// As sysexits.h names them.
const EXIT = { done: 0, fault: 1, usage: 64, config: 78 } as const;

class UsageError extends Error {}

/** Something that the operator has to put right first: shown whole. */
class Refusal extends Error {}

interface Command {
  readonly dryRun: boolean;
  readonly name: "serve" | "migrate" | "help" | "version";
}

function parseCommand(argv: readonly string[]): Command {
  const { values, positionals } = parse(argv);
  const [name = "serve", ...rest] = positionals;
  if (rest.length > 0) throw new UsageError(`unexpected argument: ${rest.join(" ")}`);
  if (values.help || name === "help") return { name: "help", dryRun: false };
  if (values.version) return { name: "version", dryRun: false };
  if (name !== "serve" && name !== "migrate") throw new UsageError(`unknown command: ${name}`);
  if (name === "serve" && values["dry-run"]) throw new UsageError("--dry-run belongs to migrate");
  return { name, dryRun: values["dry-run"] };
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

async function migrate({ store }: Config, dryRun: boolean): Promise<string> {
  if (store.kind === "sqlite") return "nothing to migrate: the SQLite store has no older messages\n";
  const { migrateMongo } = await import("./repository/mongo/migrate.ts");
  const newEpoch = () => Bun.randomUUIDv7() as string as Epoch;
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
  migrate: async (dryRun) => process.stdout.write(await migrate(loadConfig(process.env), dryRun)),
  help: async () => process.stdout.write(HELP),
  version: async () => process.stdout.write(`${version}\n`),
} satisfies Record<Command["name"], (dryRun: boolean) => Promise<unknown>>;

async function main(argv: readonly string[]): Promise<number> {
  try {
    const { name, dryRun } = parseCommand(argv);
    await RUN[name](dryRun);
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
