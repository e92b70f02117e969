/** What is done to a service, and when: drawn from a seed, printed as one line, and made smaller when it fails. */

import { type Chance, createChance } from "./chance.ts";
import type { FaultStep, Ground, StoreKind } from "./fault.ts";
import { FAULT_NAMES, type FaultName, faultOf } from "./faults.ts";

export interface Step extends FaultStep {
  readonly fault: FaultName;
  /** After its group has begun, in milliseconds. */
  readonly afterMs: number;
}

/** Faults that overlap. The next group begins when all of them have ended and the service has answered. */
export interface Group {
  /** Acks to wait for before it begins. */
  readonly acks: number;
  readonly steps: readonly Step[];
}

export interface Plan {
  readonly store: StoreKind;
  /** Of everything that is not a fault: who says what, where, and when. */
  readonly seed: number;
  readonly groups: readonly Group[];
}

const GROUPS_MAX = 3;
const STEPS_MAX = 3;

export const faultsOf = (store: StoreKind): FaultName[] =>
  FAULT_NAMES.filter((name) => faultOf(name).stores.includes(store));

/** Two services need a store that two may use. */
export const servicesOf = ({ groups }: Plan): 1 | 2 =>
  groups.some(({ steps }) => steps.some(({ fault }) => fault === "race")) ? 2 : 1;

export const faultCount = ({ groups }: Plan): number =>
  groups.reduce((sum, { steps }) => sum + steps.length, 0);

function stepOf(chance: Chance, fault: FaultName, afterMs: number): Step {
  const [min, max] = faultOf(fault).holdMs;
  return { fault, afterMs, holdMs: chance.whole(min, max), pick: chance.whole(0, 99) };
}

/** One fault alone, under load. */
export function alone(store: StoreKind, fault: FaultName, seed: number): Plan {
  const chance = createChance(seed);
  return { store, seed, groups: [{ acks: chance.whole(60, 200), steps: [stepOf(chance, fault, 0)] }] };
}

/** Some faults, one after the other and some of them at once. */
export function mix(store: StoreKind, seed: number): Plan {
  const chance = createChance(seed);
  const drawn = faultsOf(store);
  const groups = Array.from({ length: chance.whole(1, GROUPS_MAX) }, (): Group => {
    const steps: Step[] = [];
    const grounds = new Set<Ground>();
    for (let wanted = chance.whole(1, STEPS_MAX); wanted > 0; wanted -= 1) {
      const fault = chance.oneOf(drawn);
      const known = faultOf(fault).grounds;
      if (known.some((ground) => grounds.has(ground))) continue;
      for (const ground of known) grounds.add(ground);
      steps.push(stepOf(chance, fault, steps.length === 0 ? 0 : chance.whole(0, 400)));
    }
    return { acks: chance.whole(30, 150), steps };
  });
  return { store, seed, groups };
}

/** Every plan that is one step smaller, the largest cuts first. */
export function smaller(plan: Plan): Plan[] {
  const { groups } = plan;
  const without = <T>(all: readonly T[], index: number) => all.filter((_, at) => at !== index);
  const withGroup = (index: number, group: Group) => ({
    ...plan,
    groups: groups.map((old, at) => (at === index ? group : old)),
  });
  return [
    ...(groups.length > 1 ? groups.map((_, index) => ({ ...plan, groups: without(groups, index) })) : []),
    ...groups.flatMap((group, index) =>
      group.steps.length > 1
        ? group.steps.map((_, at) => withGroup(index, { ...group, steps: without(group.steps, at) }))
        : [],
    ),
    ...groups.flatMap((group, index) =>
      group.acks > 10 ? [withGroup(index, { ...group, acks: Math.floor(group.acks / 4) })] : [],
    ),
  ];
}

/** For people: the faults in order; those that overlap stand together. */
export const summary = ({ store, seed, groups }: Plan): string =>
  `${store} seed ${seed}: ${groups
    .map(({ acks, steps }) => {
      const faults = steps.map(
        ({ fault, afterMs, holdMs }) => `${fault}${afterMs > 0 ? `+${afterMs}ms` : ""} for ${holdMs}ms`,
      );
      return `${acks} acks, ${faults.join(" & ")}`;
    })
    .join("; ")}`;
