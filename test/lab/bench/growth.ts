/**
 * `bun run bench:growth`: what a delivery, an append, a page and a join cost while receivers, messages and rooms grow, as
 * curves. Exits 1 when one of them bends upward beyond a logarithm (growth/curve.ts), or something was lost.
 *   --only NAME        one curve; may be given more than once
 *   --max N            the most messages that a store is filled with (default 10,000,000)
 *   --receivers N      the most receivers (default 10,000, or what the limit on open files allows)
 *   --json FILE        writes the curves
 *   --seed N           what is said
 */

import { parseArgs } from "node:util";
import { endTogether } from "./belongings.ts";
import { type Curve, CURVES } from "./growth/curves.ts";
import { type Judgement, judge, type Point } from "./growth/curve.ts";
import { descriptors, describeMachine, storeFolder } from "./machine.ts";
import { showMachine } from "./report.ts";

const STORED_MAX = 10_000_000;
const RECEIVERS_MAX = 10_000;
/** Server and generator keep so many descriptors for other things than connections. */
const DESCRIPTORS_KEPT = 1_000;

const { values } = parseArgs({
  options: {
    only: { type: "string", multiple: true, default: [] },
    max: { type: "string", default: String(STORED_MAX) },
    receivers: { type: "string", default: String(RECEIVERS_MAX) },
    json: { type: "string" },
    seed: { type: "string", default: "1" },
  },
});

const names = CURVES.map(({ name }) => name);
const unknown = values.only.find((name) => !names.includes(name));
if (unknown !== undefined) {
  process.stderr.write(`--only knows ${names.join(", ")}\n`);
  process.exit(64);
}
const chosen = values.only.length === 0 ? CURVES : CURVES.filter(({ name }) => values.only.includes(name));
const receiversMax = Math.min(Number(values.receivers), descriptors() - DESCRIPTORS_KEPT);
const seed = Number(values.seed);
const faults: string[] = [];

interface Drawn {
  readonly curve: Omit<Curve, "measure">;
  readonly points: readonly Point[];
  readonly judgement: Judgement;
}

function show({ curve: { name, what, of, unit }, points, judgement }: Drawn): string {
  const { atOne, perDecade, worst, bendsUpward } = judgement;
  const most = Math.max(...points.map(({ cost }) => cost));
  const lines = points.map(({ n, cost }) => {
    const bar = "▇".repeat(Math.max(Math.round((cost / most) * 40), 1));
    return `  ${n.toLocaleString("en").padStart(10)}  ${cost.toFixed(2).padStart(9)} ${unit}  ${bar}`;
  });
  const line = `${atOne.toFixed(2)} ${perDecade < 0 ? "−" : "+"} ${Math.abs(perDecade).toFixed(2)} × log10(n)`;
  const nearest = `at ${worst.n.toLocaleString("en")} it is ${((100 * worst.cost) / worst.allowed).toFixed(0)} % of what may be`;
  return [
    `${name}: ${what}; by ${of}`,
    ...lines,
    `  about ${line} ${unit}; ${bendsUpward ? "BENDS UPWARD" : "no more than a logarithm"}: ${nearest}\n`,
  ].join("\n");
}

endTogether();
const folder = await storeFolder();
try {
  const machine = describeMachine(folder.path);
  console.log(`${showMachine(machine)}\nseed ${seed}\n`);
  const drawn: Drawn[] = [];
  for (const { measure, ...curve } of chosen) {
    const points: Point[] = [];
    const options = { folder: folder.path, seed, warmUpMs: 500, measureMs: 1_500 };
    const limits = { storedMax: Number(values.max), receiversMax };
    const onFault = (fault: string) => void faults.push(`${curve.name}: ${fault}`);
    for await (const point of measure({ ...options, ...limits }, onFault)) {
      points.push(point);
      process.stderr.write(`${curve.name} ${point.n}: ${point.cost.toFixed(2)} ${curve.unit}\n`);
    }
    const one = { curve, points, judgement: judge(points) };
    drawn.push(one);
    console.log(show(one));
    for (const n of one.judgement.unmeasured) faults.push(`${curve.name}: nothing was measured at ${n}`);
    if (one.judgement.bendsUpward) faults.push(`${curve.name} bends upward beyond a logarithm`);
  }
  if (values.json !== undefined)
    await Bun.write(values.json, `${JSON.stringify({ machine, seed, drawn, faults }, null, 2)}\n`);
  for (const fault of faults) console.error(`FAULT ${fault}`);
  process.exitCode = faults.length > 0 ? 1 : 0;
} finally {
  await folder.remove();
}
