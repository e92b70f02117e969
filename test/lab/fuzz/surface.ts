/** What a fuzzed surface is: a source of inputs, how one is tried, and what of the outcome is new. */

import type { Chance } from "../../fixture/chance.ts";

/** What is wrong about an answer, in words that are the same for the same defect. */
export class Finding extends Error {
  override readonly name = "Finding";
}

export function must(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Finding(what);
}

/** One of several that work on a surface side by side, with a corpus of its own so that its seed alone decides. */
export interface Lane<Input> {
  /** A new input; `seen` are inputs that had led somewhere new. */
  make(chance: Chance, seen: readonly Input[]): Input;
  /** Tries it and says where it led: two inputs with one outcome went the same way. Throws a Finding. */
  attempt(input: Input): Promise<string> | string;
  close(): Promise<void> | void;
}

export interface Surface<Input = unknown> {
  readonly name: string;
  /** How many lanes work at once; 1 for what runs in this process. */
  readonly lanes: number;
  /** A reader of the report sees each change. */
  show(input: Input): string;
  open(chance: Chance): Promise<Lane<Input>> | Lane<Input>;
}

export interface SurfaceReport {
  readonly name: string;
  readonly inputs: number;
  readonly seconds: number;
  /** Where the inputs led, and how many went there. */
  readonly outcomes: ReadonlyMap<string, number>;
  readonly findings: readonly { readonly what: string; readonly input: string }[];
}

/** Inputs that led somewhere new, the newest last; more than this would only dilute them. */
const CORPUS_MAX = 400;
const FINDINGS_MAX = 20;
const SHOWN_MAX = 2_000;

/** Tries so many inputs, in lanes; `onInput` is called after each. */
export async function fuzz<Input>(
  surface: Surface<Input>,
  inputs: number,
  chance: Chance,
  goesOn: () => boolean = () => true,
): Promise<SurfaceReport> {
  const began = performance.now();
  const outcomes = new Map<string, number>();
  const findings = new Map<string, string>();
  let tried = 0;

  async function work(own: Chance): Promise<void> {
    const lane = await surface.open(own.fork());
    const corpus: Input[] = [];
    const known = new Set<string>();
    try {
      while (tried < inputs && goesOn()) {
        tried += 1;
        const input = lane.make(own, corpus);
        let outcome: string;
        try {
          outcome = await lane.attempt(input);
        } catch (error) {
          const what = error instanceof Finding ? error.message : `threw ${String(error)}`;
          if (findings.size < FINDINGS_MAX && !findings.has(what))
            findings.set(what, surface.show(input).slice(0, SHOWN_MAX));
          outcome = `FINDING ${what}`;
        }
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        if (known.has(outcome)) continue;
        known.add(outcome);
        corpus.push(input);
        if (corpus.length > CORPUS_MAX) corpus.shift();
      }
    } finally {
      await lane.close();
    }
  }
  await Promise.all(Array.from({ length: surface.lanes }, () => work(chance.fork())));
  return {
    name: surface.name,
    inputs: tried,
    seconds: (performance.now() - began) / 1_000,
    outcomes,
    findings: [...findings].map(([what, input]) => ({ what, input })),
  };
}
