/** The defects that the harness must find when they are planted in the service, each by the faults that it is given. */

import type { StoreKind } from "./fault.ts";
import type { FaultName } from "./faults.ts";
import type { ViolationKind } from "./ledger.ts";
import type { Edit } from "./plant.ts";

export interface Mutation {
  readonly defect: string;
  readonly store: StoreKind;
  readonly edits: readonly Edit[];
  /** The fault comes once for each of these choices, one after the other; once, by chance, where they are left out. */
  readonly picks?: readonly number[];
  /** Plays each in turn, until one of these is found. */
  readonly faults: readonly FaultName[];
  readonly caughtAs: readonly ViolationKind[];
}

export const MUTATIONS: readonly Mutation[] = [
  {
    defect: "ack before commit: the transaction is ended some time after its messages were acked",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/append.ts",
        from: "      begin.run();\n",
        to: "      if (!db.inTransaction) begin.run();\n",
      },
      {
        file: "src/repository/sqlite/append.ts",
        from: "        (written ? commit : rollback).run();\n",
        to: "        if (written) setTimeout(() => db.inTransaction && commit.run(), 40);\n",
      },
      {
        // Cannot be asked for in the middle of a transaction.
        file: "src/repository/sqlite/wal.ts",
        from: "bytes: () => Math.max(0, Number(look.values()[0]?.[1])) * (pageBytes + FRAME_HEADER_BYTES)",
        to: "bytes: () => 0",
      },
    ],
    faults: ["kill", "kill", "kill"],
    caughtAs: ["lost", "unsaid"],
  },
  {
    defect: "delivering and acking before the sync has ended",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/store.ts",
        from: "    if (committed.written) {\n      try {\n        await wal.sync();",
        to: "    if (committed.written) {\n      try {\n        wal.sync().catch(() => {});",
      },
    ],
    faults: ["syncHangs", "syncHangs"],
    caughtAs: ["early"],
  },
  {
    defect: "lazy fsync: the log is never synced after a commit",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/store.ts",
        from: "    if (committed.written) {\n      try {\n        await wal.sync();",
        to: "    if (committed.written) {\n      try {\n        await Promise.resolve();",
      },
    ],
    faults: ["powerFails", "powerFails"],
    caughtAs: ["lost", "unsaid"],
  },
  {
    defect: "skipped seq: some messages take the number after the next",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/append.ts",
        from: "    const seq = room.seq + 1;\n",
        to: "    const seq = room.seq + (room.seq % 40 === 39 ? 2 : 1);\n",
      },
    ],
    faults: ["kill"],
    caughtAs: ["hole"],
  },
  {
    defect: "lost duplicate check: the store forgets the client ids",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/append.ts",
        from: "insert.run(room.id, seq, id, userId, clientId, text, timestamp, receivedAt)",
        to: "insert.run(room.id, seq, id, userId, null, text, timestamp, receivedAt)",
      },
    ],
    faults: ["kill", "cableCut"],
    caughtAs: ["twice"],
  },
  {
    defect: "unsubscribed upgrade: who goes over to a WebSocket is in no room's topic",
    store: "sqlite",
    edits: [
      {
        file: "src/realtime/fanout.ts",
        from: "if (audience?.members.has(member)) listen(member, room, audience);",
        to: "if (audience?.members.has(member)) unpoll(audience, member);",
      },
    ],
    faults: ["upgradeInBurst"],
    caughtAs: ["missed", "hole"],
  },
  {
    defect: "slow reader skipped: what does not fit is dropped and the connection stays",
    store: "sqlite",
    edits: [
      {
        file: "src/engine/engine.ts",
        from: "backpressureLimit: outboundBytesMax + 2 * LIMITS.publishedUnflushedBytesMax,",
        to: "backpressureLimit: 65_536,",
      },
      {
        file: "src/engine/engine.ts",
        from: "closeOnBackpressureLimit: true",
        to: "closeOnBackpressureLimit: false",
      },
      {
        file: "src/engine/session.ts",
        from: "if (waiting <= outboundBytesMax) return;",
        to: "if (waiting >= 0) return;",
      },
    ],
    faults: ["readerStops", "readerStops"],
    caughtAs: ["hole", "missed"],
  },
  {
    defect: "slow to come back: a store that failed is not tried again for 7 s",
    store: "sqlite",
    edits: [
      { file: "src/limits.ts", from: "  storeRetryMinMs: 50,\n", to: "  storeRetryMinMs: 7_000,\n" },
      { file: "src/limits.ts", from: "  storeRetryMaxMs: 250,\n", to: "  storeRetryMaxMs: 7_000,\n" },
    ],
    faults: ["syncFails", "syncFails", "syncFails"],
    caughtAs: ["slow to recover"],
  },
  {
    defect: "hung up on: who would be told that the store is away has its connection closed instead",
    store: "sqlite",
    edits: [
      {
        file: "src/realtime/gateway.ts",
        from: "  const wire = errorToWire(error);\n  if (ack !== undefined)",
        to: '  const wire = errorToWire(error);\n  if (error.code === "storage_unavailable") peer.session.close();\n  else if (ack !== undefined)',
      },
    ],
    faults: ["diskFull", "syncFails"],
    caughtAs: ["cut off"],
  },
  {
    defect: "internal: a failure of the store is called a fault of the service",
    store: "sqlite",
    edits: [
      {
        file: "src/chat/commits.ts",
        from: "      const error = asChatError(thrown);\n",
        to: '      const error = asChatError({ ...asChatError(thrown), code: "internal" });\n',
      },
    ],
    faults: ["diskFull", "syncFails"],
    caughtAs: ["wrong answer"],
  },
  {
    defect: "wrong advice: over HTTP a store that is away is not worth a retry",
    store: "sqlite",
    edits: [
      {
        file: "src/protocol/routes.ts",
        from: "  return { error: { ...errorToWire(told), ...told.details.facts } };\n",
        to: "  return { error: { ...errorToWire(told), retryable: false, ...told.details.facts } };\n",
      },
    ],
    faults: ["diskFull", "syncFails"],
    caughtAs: ["wrong answer"],
  },
  {
    defect: "kept for ever: who does not answer a ping is not let go",
    store: "sqlite",
    edits: [
      {
        file: "src/engine/engine.ts",
        from: "    pingTimeout: pingTimeoutMs,\n",
        to: "    pingTimeout: 600_000,\n",
      },
    ],
    faults: ["clientVanishes"],
    caughtAs: ["stuck"],
  },
  {
    defect: "repair removed: what a process before has left in the log is taken as it reads",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/recovery.ts",
        from: "}: Recovery): void {\n",
        to: '}: Recovery): void {\n  if (path !== "") return;\n',
      },
    ],
    faults: ["doubtOutlived", "startFails", "doubtOutlived"],
    caughtAs: ["lost"],
  },
  {
    defect: "recovery syncs only: the log and the file are synced again and not written again",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/recovery.ts",
        from: "}: Recovery): void {\n",
        to: `}: Recovery): void {
  withFile(\`\${path}-wal\`, "r+", fsyncSync);
  fdatasyncSync(descriptor);
  if (path !== "") return;
`,
      },
    ],
    faults: ["doubtOutlived", "startFails", "doubtOutlived"],
    caughtAs: ["lost"],
  },
  {
    // The log starts afresh every few commits, so that the moment in which this matters is hit.
    defect: "subset: frames follow the header of a log that starts afresh before that is synced",
    store: "sqlite",
    edits: [
      {
        file: "src/limits.ts",
        from: "  walCheckpointBytes: 16_000_000,\n",
        to: "  walCheckpointBytes: 40_000,\n",
      },
      {
        file: "src/repository/sqlite/connections.ts",
        from: 'that is ours to do.\n    writer.run("PRAGMA synchronous = NORMAL");',
        to: 'that is ours to do.\n    writer.run("PRAGMA synchronous = OFF");',
      },
      {
        file: "src/repository/sqlite/checkpoint.ts",
        from: "    if (writer !== undefined) beginLog(writer);\n",
        to: '    fdatasyncSync(file);\n    writer?.run("PRAGMA synchronous = OFF");\n    if (writer !== undefined) beginLog(writer);\n    writer?.run("PRAGMA synchronous = NORMAL");\n',
      },
    ],
    // The first pages of the log are lost, some or many, and later ones are not.
    picks: [1, 5, 9, 13, 17, 21, 25, 29],
    faults: Array.from({ length: 10 }, () => "powerFailsInSync" as const),
    caughtAs: ["lost", "ended", "stuck", "unsaid"],
  },
  {
    defect: "the epoch is not compared: a store that was put back goes on as the one before",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/companion.ts",
        from: "  const reason = hasNone ? undefined : breach(",
        to: "  const reason = hasCompanion < 2 ? undefined : breach(",
      },
    ],
    faults: ["backupPutBack", "backupPutBack"],
    caughtAs: ["untold"],
  },
  {
    defect: "a second name is let in: the lock is one of the file's name",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/hold.ts",
        from: "    if (!lockFile(descriptor)) throw",
        to: '    if (String(path).endsWith(".lock") && !lockFile(descriptor)) throw',
      },
      {
        file: "src/repository/sqlite/hold.ts",
        from: "    if (nlink > 1)\n",
        to: "    if (nlink > 9)\n",
      },
    ],
    faults: ["secondName"],
    caughtAs: ["let in"],
  },
  {
    defect: "the log's name is not looked at: it is written on where no start will find it",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/wal.ts",
        from: "    displaced,\n",
        to: "    displaced: () => undefined,\n",
      },
    ],
    faults: ["logUnlinked", "logReplaced"],
    caughtAs: ["lost", "ended"],
  },
  {
    defect: "any log will do: the log of a newer state is copied over a backup",
    store: "sqlite",
    edits: [
      {
        file: "src/repository/sqlite/recovery.ts",
        from: "    file.hasLog &&\n",
        to: "    !file.hasLog ||\n    file.number !== undefined ||\n",
      },
    ],
    faults: ["logLeftBeside"],
    caughtAs: ["let in", "ended"],
  },
  {
    defect: "a name that is not durable: the folder of the store is not synced at the start",
    store: "sqlite",
    edits: [{ file: "src/repository/sqlite/open.ts", from: "    syncFolders(path, madeIn);\n", to: "" }],
    // Everything is lost that no sync followed, names too.
    picks: [0, 12],
    faults: ["powerFails", "powerFailsInSync"],
    caughtAs: ["lost", "ended"],
  },
  {
    defect: "any epoch will do: a feed delivers the entries of another epoch than its members joined",
    store: "mongodb",
    edits: [
      {
        file: "src/chat/feeds.ts",
        from: "    if (feed.epoch !== null && feed.epoch !== epoch) {\n      doubts.add(",
        to: "    if (feed.epoch !== null && feed.epoch !== epoch && messages.length < 0) {\n      doubts.add(",
      },
      {
        file: "src/chat/feeds.ts",
        from: "    if (feed.epoch !== epoch) return forget(feed);\n",
        to: "",
      },
      // Which would let the members go as well, for another reason.
      {
        file: "src/chat/feeds.ts",
        from: "?.message.id ?? message.id) !== message.id) doubtDelivered(feed, seq);",
        to: "?.message.id ?? message.id) === seq) doubtDelivered(feed, seq);",
      },
    ],
    faults: ["collectionDropped", "collectionPutBack", "databaseDropped", "collectionPutBack"],
    caughtAs: ["untold"],
  },
  {
    defect: "slow to believe: a MongoDB that answers again is used only 1.8 s later",
    store: "mongodb",
    edits: [
      {
        file: "src/repository/mongo/connection.ts",
        from: "          state = { up: true };\n",
        to: "          await Bun.sleep(times === 0 ? 0 : 1_800);\n          state = { up: true };\n",
      },
    ],
    faults: ["insertLost", "endsNotPrimary", "databaseKilled", "insertNotPrimary"],
    caughtAs: ["slow to recover"],
  },
  {
    defect: "under another name: the database's faults, meant for the service only, do not reach it",
    store: "mongodb",
    edits: [
      {
        file: "src/repository/mongo/client.ts",
        from: '      appName: "chat-service",\n',
        to: '      appName: "chat",\n',
      },
    ],
    faults: ["insertDuplicate"],
    caughtAs: ["not felt"],
  },
  {
    defect: "un-awaited store error: the insert is begun and its failure is not looked at",
    store: "mongodb",
    edits: [
      {
        file: "src/repository/mongo/append.ts",
        from: "    await messages.insertMany(\n",
        to: "    void messages.insertMany(\n",
      },
      {
        file: "src/repository/mongo/append.ts",
        from: "      { ordered: true },\n    );\n",
        to: "      { ordered: true },\n    ).catch(() => {});\n",
      },
    ],
    faults: ["insertLost", "insertNotPrimary"],
    caughtAs: ["lost", "unsaid", "hole", "twice", "missed"],
  },
  {
    defect: "blind to others: what another service was faster with counts as stored",
    store: "mongodb",
    edits: [
      {
        file: "src/repository/mongo/append.ts",
        from: "    settleFirst(fault.inserted);\n",
        to: "    settleFirst(rows.length);\n",
      },
    ],
    faults: ["race", "race"],
    caughtAs: ["lost", "twice", "unsaid"],
  },
];
