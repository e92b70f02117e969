/** Makes a plan that failed smaller, as long as what is left fails in the same way. */

import { type Plan, smaller } from "./plan.ts";
import { type Outcome, play } from "./play.ts";
import type { StageOptions } from "./stage.ts";

/** Plans that are tried in all, and how often each: a fault that needs luck must get its chance. */
const TRIES_MAX = 24;
const TRIES_EACH = 2;

/** The smallest plan found, with what it did; the one given where none smaller fails. */
export async function shrink(outcome: Outcome, options: StageOptions): Promise<Outcome> {
  const kinds = new Set(outcome.violations.map(({ kind }) => kind));
  let smallest = outcome;
  let tries = 0;
  const failsToo = async (plan: Plan): Promise<Outcome | undefined> => {
    for (let n = 0; n < TRIES_EACH && tries < TRIES_MAX; n += 1) {
      tries += 1;
      const tried = await play(plan, options);
      if (tried.violations.some(({ kind }) => kinds.has(kind))) return tried;
    }
    return undefined;
  };
  const step = async (): Promise<boolean> => {
    for (const plan of smaller(smallest.plan)) {
      const failed = await failsToo(plan);
      if (failed === undefined) continue;
      smallest = failed;
      return true;
    }
    return false;
  };
  while (tries < TRIES_MAX && (await step()));
  return smallest;
}
