/** How SQLite would run the embedded store's statements: each by the index that was made for it, and none sorts. */

import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { APPEND_STATEMENTS } from "../../../src/repository/sqlite/append.ts";
import { READ_STATEMENTS } from "../../../src/repository/sqlite/reads.ts";
import { migrate } from "../../../src/repository/sqlite/schema.ts";

const A_PLACE = "INTEGER PRIMARY KEY (rowid=?)";
const A_STRETCH = "INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
const A_ROOM = "INDEX sqlite_autoindex_rooms_1 (name=?)";
const OF_USER = "INDEX messages_by_user (user_id=? AND received_at>? AND (received_at,id)<(?,?))";

/** What each table is searched by, in the order of the plan; nothing for what only inserts. */
const READS: Record<keyof typeof READ_STATEMENTS, readonly string[]> = {
  findRoom: [A_ROOM],
  firstSeq: [A_STRETCH],
  receivedAt: [A_STRETCH],
  upwards: [A_STRETCH],
  downwards: [A_STRETCH],
  byUser: [OF_USER, A_PLACE],
  pick: [`COVERING ${OF_USER}`],
  pickOn: [`COVERING ${OF_USER}`],
  atPlace: [A_PLACE],
  rooms: ["INDEX rooms_by_activity ((last_received_at,name)<(?,?))", A_STRETCH],
};
const { begin, commit, rollback, ...APPENDING } = APPEND_STATEMENTS;
const APPENDS: Record<keyof typeof APPENDING, readonly string[]> = {
  findRoom: [A_ROOM],
  addRoom: [],
  writeRoom: [A_PLACE],
  insert: [],
  findFirst: ["INDEX messages_by_client_id (room_id=? AND user_id=? AND client_id=?)"],
};

function planOf(sql: string): string[] {
  const db = new Database(":memory:");
  try {
    migrate(db, ":memory:");
    return db
      .prepare(`EXPLAIN QUERY PLAN ${sql}`)
      .values()
      .map((row) => String(row[3]));
  } finally {
    db.close();
  }
}

/** Steps that touch no table: the rows of a bounded inner query may be looked through. */
const isHarmless = (step: string) => /^CO-ROUTINE |^SCAN \(subquery-\d+\)$/.test(step);

function searchedBy(sql: string): string[] {
  return planOf(sql)
    .filter((step) => !isHarmless(step))
    .map((step) => /^SEARCH \w+ (?:EXISTS )?USING (.+)$/.exec(step)?.[1] ?? `unfit: ${step}`);
}

describe("READ_STATEMENTS", () => {
  for (const [name, sql] of Object.entries(READ_STATEMENTS))
    test(`${name} goes by its index, and sorts nothing`, () => {
      expect(searchedBy(sql)).toEqual([...READS[name as keyof typeof READS]]);
    });
});

describe("APPEND_STATEMENTS", () => {
  for (const [name, sql] of Object.entries(APPENDING))
    test(`${name} goes by its index, and sorts nothing`, () => {
      expect(searchedBy(sql)).toEqual([...APPENDS[name as keyof typeof APPENDS]]);
    });

  test("the others only begin and end a transaction", () => {
    expect([begin, commit, rollback]).toEqual(["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"]);
  });
});

test("READ_STATEMENTS and APPEND_STATEMENTS are all that reads and appends are made of", () => {
  for (const file of ["reads.ts", "append.ts"]) {
    const text = readFileSync(join(import.meta.dir, "../../../src/repository/sqlite", file), "utf8");
    const prepared = [...text.matchAll(/\b(?:prepare|query|run|exec)\(\s*([`"'][^`"']*)/g)].map(
      (match) => match[1],
    );
    expect({ file, prepared }).toEqual({ file, prepared: [] });
  }
});

test("a statement that scans or sorts would be found", () => {
  expect(searchedBy("SELECT text FROM messages WHERE text = ?1")).toEqual(["unfit: SCAN messages"]);
  expect(searchedBy("SELECT text FROM messages WHERE user_id = ?1 ORDER BY text")).toContain(
    "unfit: USE TEMP B-TREE FOR ORDER BY",
  );
});
