/** Whether this process may open the descriptors that a start needs. */

import { closeSync, openSync } from "node:fs";

/** How many of these it could open now: fewer where its limit is low, or what started it left its table full. */
export function freeDescriptors(wanted: number): number {
  const opened: number[] = [];
  try {
    while (opened.length < wanted) opened.push(openSync("/", "r"));
  } catch {
    // The table is full.
  }
  for (const descriptor of opened) closeSync(descriptor);
  return opened.length;
}
