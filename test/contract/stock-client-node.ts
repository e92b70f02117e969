/** The stock JavaScript client under Node: commands as JSON lines in, reports as JSON lines out, until its input ends. */

import { createInterface } from "node:readline";
import { type Command, createStockClient } from "./stock-client.ts";

const obey = createStockClient((said) => process.stdout.write(`${JSON.stringify(said)}\n`));
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => obey(JSON.parse(line) as Command));
lines.on("close", () => process.exit(0));
