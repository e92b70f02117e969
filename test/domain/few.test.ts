/** A small set that is no Set: it must keep what a Set keeps. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { createFew } from "../../src/domain/few.ts";
import type { RoomName } from "../../src/domain/ids.ts";

test("createFew keeps what a Set keeps, whatever comes and goes", () => {
  const step = fc.record({ adds: fc.boolean(), room: fc.constantFrom("a", "b", "c") });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
      const rooms = createFew();
      const model = new Set<RoomName>();
      for (const { adds, room } of steps) {
        const name = room as RoomName;
        for (const set of [rooms, model]) {
          if (adds) set.add(name);
          else set.delete(name);
        }
        expect(rooms.size).toBe(model.size);
        expect([...rooms]).toEqual([...model]);
        expect(rooms.has("a" as RoomName)).toBe(model.has("a" as RoomName));
      }
    }),
  );
});

test("createFew may be emptied while it is walked", () => {
  for (const names of [["a"], ["a", "b", "c"]] as RoomName[][]) {
    const rooms = createFew();
    for (const name of names) rooms.add(name);
    for (const room of rooms) rooms.delete(room);
    expect(rooms.size).toBe(0);
  }
});
