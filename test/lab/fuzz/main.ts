/**
 * `bun run fuzz`: hostile inputs for every surface, against the real program.
 *   --inputs N      for each surface (default 100000)
 *   --seed N        the inputs; printed when none is named
 *   --rounds N      rests between them, after which memory is compared (default 5)
 *   --store NAME    sqlite (default) or mongodb
 *   --only NAME     one surface; may be given more than once
 *   --outcomes      shows where the inputs led
 * Exits 1 when anything was found. Each lane keeps the inputs that led to an outcome (status, code, issues, what the
 * server sent) that it had not seen, and changes them further.
 */

import { parseArgs } from "node:util";
import { freshSeed } from "../../fixture/chance.ts";
import { type CampaignOptions, campaign, SURFACES } from "./campaign.ts";

const { values } = parseArgs({
  options: {
    inputs: { type: "string", default: "100000" },
    seed: { type: "string", default: String(freshSeed()) },
    rounds: { type: "string", default: "5" },
    store: { type: "string", default: "sqlite" },
    only: { type: "string", multiple: true, default: [] },
    outcomes: { type: "boolean", default: false },
  },
});

function refuse(line: string): never {
  process.stderr.write(`${line}\n`);
  process.exit(64);
}

function wholeNumber(name: "inputs" | "seed" | "rounds"): number {
  return /^\d{1,10}$/.test(values[name]) ? Number(values[name]) : refuse(`--${name} must be a whole number`);
}

for (const name of values.only) {
  if (!SURFACES.some((surface) => surface === name)) refuse(`--only knows ${SURFACES.join(", ")}`);
}
const { store } = values;
if (store !== "sqlite" && store !== "mongodb") refuse("--store must be sqlite or mongodb");
const options: CampaignOptions = {
  inputs: wholeNumber("inputs"),
  seed: wholeNumber("seed"),
  rounds: Math.max(1, wholeNumber("rounds")),
  store,
  only: values.only,
};
console.log(`fuzz: ${JSON.stringify(options)}`);
const { surfaces, rests, canaryMessages, faults } = await campaign(options, (line) => console.log(line));

let found = faults.length;
for (const { name, inputs, seconds, outcomes, findings } of surfaces) {
  console.log(`${name}: ${inputs} inputs in ${seconds.toFixed(1)} s led to ${outcomes.size} outcomes`);
  if (values.outcomes) {
    for (const [outcome, count] of [...outcomes].toSorted((a, b) => b[1] - a[1]).slice(0, 60))
      console.log(`  ${count} × ${outcome.slice(0, 160)}`);
  }
  for (const { what, input } of findings) console.log(`FOUND in ${name}: ${what}\n  by ${input}`);
  found += findings.length;
}
console.log(`the canaries said ${canaryMessages} messages; at rest: ${JSON.stringify(rests)}`);
for (const fault of faults) console.log(`FAULT ${fault}`);
console.log(found === 0 ? "nothing found" : `${found} found, seed ${options.seed}`);
process.exit(found === 0 ? 0 : 1);
