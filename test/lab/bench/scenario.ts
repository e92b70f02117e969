/** What a scenario is made of, and what one run of one contender in it gives. */

import type { ContenderName } from "./contenders.ts";
import type { PeerName } from "./peers.ts";

export interface Figure {
  /** Its name with its unit, as it heads its column: "acks/s". */
  readonly name: string;
  /** Digits after the point; "k": in thousands. */
  readonly digits: number | "k";
  /** How it is set against the subject's: subject by it, or it by subject; left out where a ratio says nothing. */
  readonly compared?: "subject by it" | "it by subject";
}

/** What the subject owes: as a ratio of another contender's figure, or, where none is named, as it is. */
export interface Bound {
  readonly figure: string;
  readonly against?: ContenderName;
  readonly atLeast?: number;
  readonly atMost?: number;
}

/** Shares of a core; null where the system does not tell, or where nothing of the kind took part. */
export interface Shares {
  readonly server: number | null;
  /** Near 1 it is the generator that was measured. */
  readonly generator: number | null;
  /** Cores that neither of the two used, but somebody did: what disturbed the run. */
  readonly others: number | null;
}

export interface Run {
  readonly contender: ContenderName;
  /** By the names of the scenario's figures; null where the system does not tell. */
  readonly figures: Readonly<Record<string, number | null>>;
  readonly shares: Shares;
  /** Losses, repeats, order faults, refusals, in words: any of them makes the bench fail. */
  readonly faults: readonly string[];
}

export interface RunOptions {
  /** Where stores are kept while they are measured, and what is made once for all runs. */
  readonly folder: string;
  readonly seed: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
}

/** A way to measure: each run starts the contender afresh. */
export interface Kind {
  /** The load in a few words. */
  readonly how: string;
  /** The first is the one that progress is told by. */
  readonly figures: readonly Figure[];
  measure(contender: ContenderName, options: RunOptions): Promise<Run>;
}

export interface Scenario {
  readonly name: string;
  readonly what: string;
  readonly kind: Kind;
  /** Whether it runs when nobody names it; the others run with `--all`. */
  readonly usual: boolean;
  /** Whom the others are compared with; ours where left out. */
  readonly subject?: ContenderName;
  readonly contenders: readonly ContenderName[];
  /** Who takes part as well where peers are asked for. */
  readonly peers?: readonly PeerName[];
  readonly bounds: readonly Bound[];
}

export const subjectOf = ({ subject }: Pick<Scenario, "subject">): ContenderName => subject ?? "ours";
