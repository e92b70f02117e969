import { expect, test } from "bun:test";
import fc from "fast-check";
import { createOccupancy } from "../../src/chat/presence.ts";
import type { RoomName, UserId } from "../../src/domain/ids.ts";
import { LIMITS } from "../../src/limits.ts";

const room = "lobby" as RoomName;
const [ada, bob] = ["ada" as UserId, "bob" as UserId];

test("enter announces a user's first connection only, exit the last one only", () => {
  const occupancy = createOccupancy();
  expect(occupancy.enter(room, "c1", ada)).toEqual([{ kind: "joined", room, userId: ada }]);
  expect(occupancy.enter(room, "c2", ada)).toEqual([]);
  expect(occupancy.enter(room, "c1", ada)).toEqual([]);
  expect(occupancy.exit(room, "c1")).toEqual([]);
  expect(occupancy.exit(room, "c2")).toEqual([{ kind: "left", room, userId: ada }]);
  expect(occupancy.exit(room, "c2")).toEqual([]);
});

test("enter announces nobody for a join without a user, and keeps the user of an earlier join", () => {
  const occupancy = createOccupancy();
  expect(occupancy.enter(room, "c1", undefined)).toEqual([]);
  expect(occupancy.connections(room)).toBe(1);
  expect(occupancy.exit(room, "c1")).toEqual([]);
  occupancy.enter(room, "c2", ada);
  expect(occupancy.enter(room, "c2", undefined)).toEqual([]);
  expect(occupancy.exit(room, "c2")).toEqual([{ kind: "left", room, userId: ada }]);
});

test("enter as another user lets the former one go", () => {
  const occupancy = createOccupancy();
  occupancy.enter(room, "c1", ada);
  expect(occupancy.enter(room, "c1", bob)).toEqual([
    { kind: "left", room, userId: ada },
    { kind: "joined", room, userId: bob },
  ]);
});

test("enter and exit announce nothing above the ceiling, and count rightly across it", () => {
  const occupancy = createOccupancy();
  const user = (index: number) => `user${index}` as UserId;
  for (let index = 1; index <= LIMITS.presenceConnectionsMax; index++) {
    expect(occupancy.enter(room, `c${index}`, user(index))).toHaveLength(1);
  }
  expect(occupancy.enter(room, "one too many", bob)).toEqual([]);
  expect(occupancy.exit(room, "c1")).toEqual([]);
  expect(occupancy.exit(room, "one too many")).toEqual([{ kind: "left", room, userId: bob }]);
});

test("connections knows one room from another, and forgets the empty ones", () => {
  const occupancy = createOccupancy();
  occupancy.enter(room, "c1", ada);
  expect(occupancy.connections(room)).toBe(1);
  expect(occupancy.connections("other" as RoomName)).toBe(0);
  occupancy.exit(room, "c1");
  expect(occupancy.connections(room)).toBe(0);
});

test("enter and exit announce and count the same however many connections a room has had", () => {
  const step = fc.record({
    enters: fc.boolean(),
    connection: fc.constantFrom("c1", "c2", "c3"),
    userId: fc.constantFrom(ada, bob, undefined),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
      const occupancy = createOccupancy();
      const model = new Map<string, UserId | undefined>();
      const users = () => new Set([...model.values()].filter((userId) => userId !== undefined));
      for (const { enters, connection, userId } of steps) {
        const before = users();
        if (enters) model.set(connection, userId ?? model.get(connection));
        else model.delete(connection);
        const after = users();
        const announced = enters
          ? occupancy.enter(room, connection, userId)
          : occupancy.exit(room, connection);
        expect(announced).toEqual([
          ...[...before.difference(after)].map((left) => ({ kind: "left" as const, room, userId: left })),
          ...[...after.difference(before)].map((came) => ({ kind: "joined" as const, room, userId: came })),
        ]);
        expect(occupancy.connections(room)).toBe(model.size);
      }
    }),
  );
});
