/**
 * `bun run soak`: a steady mixed load with churn against the real program, watched from outside.
 *   --minutes N    how long the load lasts (default 20; a fifth of it is warm-up; from 5 on slopes and drifts are judged)
 *   --store NAME   sqlite (default) or mongodb
 *   --rate N       messages a second, about (default 240)
 *   --seed N       what everyone does
 * Prints a table and one JSON line. Exits 1 when memory, descriptors, threads or latency drift, or anything was lost,
 * repeated, out of order or wrongly answered.
 */

import { parseArgs } from "node:util";
import { freshSeed } from "../../fixture/chance.ts";
import { show } from "./report.ts";
import { type SoakOptions, soak } from "./soak.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "20" },
    store: { type: "string", default: "sqlite" },
    rate: { type: "string", default: "240" },
    seed: { type: "string", default: String(freshSeed()) },
  },
});

function refuse(line: string): never {
  process.stderr.write(`${line}\n`);
  process.exit(64);
}

function number(name: "minutes" | "rate" | "seed", least: number): number {
  const value = Number(values[name]);
  return Number.isFinite(value) && value >= least
    ? value
    : refuse(`--${name} must be a number from ${least} on`);
}

const store = values.store;
if (store !== "sqlite" && store !== "mongodb") refuse("--store must be sqlite or mongodb");

const options: SoakOptions = {
  minutes: number("minutes", 0.2),
  store,
  rate: number("rate", 1),
  seed: number("seed", 0),
};
console.log(`soak: ${JSON.stringify(options)}`);
const result = await soak(options, (line) => console.log(line));
console.log(show(result));
console.log(JSON.stringify({ soak: result.summary }));
process.exit(result.faults.length > 0 ? 1 : 0);
