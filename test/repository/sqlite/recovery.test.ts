/** What a store that is recovered keeps: all that was acked, whatever syncs failed and whenever power fails after it. */

import { expect, test } from "bun:test";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { RoomName, Seq } from "../../../src/domain/ids.ts";
import { platter } from "../../fixture/platter.ts";
import { openSqlite, scratch, sends, sqliteChild } from "../../fixture/sqlite.ts";

const room = "a" as RoomName;

/** A store in a folder of its own, on a disk that forgets. */
async function onPlatter(folder: string) {
  const disk = await platter(folder);
  const own = join(folder, "store");
  await mkdir(own);
  return { disk, own, path: join(own, "chat.db") };
}

async function seqsIn(path: string): Promise<number[]> {
  const repository = await openSqlite(path);
  const seqs: number[] = [];
  for (let after = 0 as Seq, more = true; more;) {
    const page = await repository.readAfter(room, after, { messagesMax: 500, textBytesMax: 10_000_000 });
    seqs.push(...page.messages.map(({ seq }) => Number(seq)));
    after = page.messages.at(-1)?.seq ?? after;
    more = page.more;
  }
  await repository.close();
  return seqs;
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

test.each(["a failed sync and a kill", "a failed sync and an orderly end", "a first start that failed"])(
  "recover keeps what is acked after %s, when power fails then",
  async (before) => {
    await using place = await scratch();
    const { disk, own, path } = await onPlatter(place.folder);
    {
      await using store = sqliteChild("commanded", path, disk.env);
      await store.next();
      expect(await store.ask("append 1 10")).toEqual({ kinds: ["stored"] });
      await Bun.write(disk.faultFile, "s");
      expect(await store.ask("append 11 5")).toEqual({ refused: "storage_unavailable" });
      if (before.includes("orderly")) {
        store.child.stdin.end();
        expect(await store.child.exited).toBe(0);
      }
    }
    if (before.includes("first start")) {
      await using broken = sqliteChild("commanded", path, disk.env);
      expect((await broken.next()).refused).toMatch(/^SQLite file [^\n]*$/);
    }
    await rm(disk.faultFile);
    let acked = 0;
    {
      await using store = sqliteChild("commanded", path, disk.env);
      expect(await store.next()).toEqual({ open: true });
      for (; acked < 30; acked++)
        expect(await store.ask(`append ${16 + acked} 1`)).toEqual({ kinds: ["stored"] });
    }
    disk.failPower(own);
    // The five in doubt may be there or not.
    const seqs = await seqsIn(path);
    expect(seqs).toEqual(upTo(seqs.length));
    expect(seqs.length).toBeGreaterThanOrEqual(40);
    const repository = await openSqlite(path);
    const again = await repository.append([...sends("a", 1, 10), ...sends("a", 16, 30)]);
    expect(again.map(({ kind }) => kind)).toEqual(Array(40).fill("duplicate"));
    await repository.close();
  },
  20_000,
);
