/** The cores that a bench may use are read as Linux writes them. */

import { expect, test } from "bun:test";
import { coresIn } from "./machine.ts";

test("coresIn reads single cores and ranges", () => {
  expect(coresIn("0-1")).toEqual([0, 1]);
  expect(coresIn("3")).toEqual([3]);
  expect(coresIn("0,2-4,9")).toEqual([0, 2, 3, 4, 9]);
  expect(coresIn("")).toEqual([]);
});
