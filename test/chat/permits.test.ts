import { expect, test } from "bun:test";
import { createPermits } from "../../src/chat/permits.ts";

test("createPermits runs so much at once, the rest in the order in which it came, also after a failure", async () => {
  const permitted = createPermits(2);
  const began: number[] = [];
  const works = [0, 1, 2, 3].map(() => Promise.withResolvers<string>());
  const results = works.map(({ promise }, place) =>
    permitted(() => {
      began.push(place);
      return promise;
    }),
  );
  expect(began).toEqual([0, 1]);
  works[1]?.reject(new Error("no"));
  await expect(results[1]).rejects.toThrow("no");
  expect(began).toEqual([0, 1, 2]);
  for (const { resolve } of works) resolve("done");
  expect(await Promise.all([results[0], results[2], results[3]])).toEqual(["done", "done", "done"]);
  expect(began).toEqual([0, 1, 2, 3]);
  const again = [permitted(async () => "five"), permitted(async () => "six")];
  expect(await Promise.all(again)).toEqual(["five", "six"]);
});
