/** Every ceiling of the service and the relations between them. Sizes are bytes, times milliseconds. */

export const LIMITS = {
  /** Code points of a room name, a user id and a client id. */
  nameCodePointsMax: 128,
  /** Issues listed in one refusal; a payload with more faults than this names the first ones. */
  issuesMax: 16,

  /** Messages and encoded bytes in the replay of one join. Half of it must fit the outbound ceiling. */
  replayMessagesMax: 500,
  replayBytesMax: 256_000,

  /** Rows of one page of a list, and how many a reader gets who does not say. */
  pageMax: 200,
  pageDefault: 50,
  /** Encoded bytes of the messages on one page; a page ends before the one that is too much. The first always fits. */
  pageBytesMax: 256_000,
  /** Bytes of long pages that their clients have not taken yet, over all connections; beyond them `overloaded`. */
  pagesUnreadBytesMax: 64_000_000,
  /** A page of more bytes is long: it is counted until it is taken, and it takes its share of a tick of the event loop. */
  longPageBytes: 64_000,
  /** Bytes of long pages after which the event loop has a tick for everything else before another page is made: about a millisecond. */
  pageTurnBytes: 200_000,
  /** Requests for pages that wait for their turn then: about two seconds of long ones; beyond them `overloaded`. */
  pageTurnWaitersMax: 2_048,
  /** Characters of encoded pages that are kept for the next same request; a page that takes a sixteenth of it is not kept. */
  pageCacheChars: 4_000_000,
  /** Requests for pages that are remembered in case they come again, and characters of one: longer URLs are not cached. */
  pagesAskedOnceMax: 4_096,
  pageTargetCharsMax: 512,
  /** Rooms and users whose last change is remembered by itself; beyond them everything counts as changed. */
  revisionsMax: 20_000,
  /** Characters of an opaque cursor, longer ones are unreadable. */
  cursorCharsMax: 2_048,
  /** Characters of path and query together of a request. */
  urlCharsMax: 4_096,
  /** Levels of objects and lists in a JSON body. */
  jsonDepthMax: 32,
  /** Pieces in which a body may come, and what each must have on the average where a body may be so long that it takes more. */
  bodyPiecesMax: 4_096,
  bodyPieceBytesMin: 512,

  /** Sends committed together: bounds how long one commit can keep the event loop. */
  batchMessagesMax: 1_024,
  batchBytesMax: 4_000_000,
  /**
   * How long the messages of a batch are told to their rooms and answered before the event loop has a tick for everything
   * else: in few ticks where time is short, as each is a write to every member; in many behind a commit that took so long
   * that there is time.
   */
  answerTickMs: 2,
  answerTickBehindSlowMs: 0.5,
  commitSlowMs: 15,
  /** Sends that wait for a commit, over all connections; beyond them the answer is `overloaded`. */
  commitQueueMessagesMax: 65_536,
  commitQueueBytesMax: 64_000_000,
  /**
   * The longest a send may wait before it goes to the store; then the answer is `overloaded`, and it is certain that it was
   * not stored. With `storeTimeoutMs` behind it every send is answered in less than 10 s, however long the store stalls.
   */
  commitQueueMs: 4_000,

  /** Characters of an origin that an error repeats. */
  originCharsMax: 200,
  /** Characters of an event's name that an error repeats. */
  eventNameCharsMax: 128,
  /** Events of one connection that may wait behind a join that is still under way. */
  eventsBehindJoinMax: 1_024,

  /**
   * How long a send to a room that its connection has not joined waits for the join, if the connection is young, beside the time
   * in which the connection is joining rooms, after which it waits as long again; how long a connection is young; bytes of the
   * texts of one connection that wait so; and bytes that all such sends take, over all connections.
   */
  joinAwaitedMs: 2_000,
  connectionYoungMs: 10_000,
  heldSendsOfConnectionTextBytesMax: 1_000_000,
  heldSendsBytesMax: 16_000_000,

  /** Rooms one connection may be in at once. */
  roomsPerConnectionMax: 1_000,
  /** Rooms that all connections are in, each one's counted; a room that only one is in takes 1 kB, with a long name 2. */
  joinedRoomsMax: 500_000,
  /** Above this many connections a room's comings and goings are not announced. */
  presenceConnectionsMax: 200,
  /**
   * Live messages of one room set aside while the gap before them is read from the store, their bytes as JSON, and those of
   * all rooms together.
   */
  feedPendingMax: 1_024,
  feedPendingBytesMax: 1_000_000,
  feedsPendingBytesMax: 32_000_000,
  /** Bytes as JSON of the newest entries that all rooms with members keep, each as many as a replay may have. */
  feedKeptBytesMax: 32_000_000,
  /** How long it counts what the store said of a room's bounds, when a member comes back to what is kept. */
  feedBoundsMs: 1_000,
  /** Messages read from the store in one step when a room catches up. */
  catchUpMessagesMax: 500,
  catchUpBytesMax: 256_000,
  /** Such steps, but for each room's first, that are read at once for all rooms: each is as long as a page in memory. */
  catchUpPagesMax: 16,
  /** How long members have to take one such step before the next. */
  catchUpReliefMs: 500,
  /** How long a replay waits until its connection has taken most of what was written to it; then it stays empty. */
  replayReliefMs: 2_000,
  /** Bytes of replays after which the event loop has a tick for everything else, and joins that may wait for their turn. */
  replayTurnBytes: 200_000,
  replayTurnWaitersMax: 16_384,
  /** How often the heads of the active rooms are asked for where other nodes write the same store. */
  headPollMs: 1_000,
  /** Rooms whose heads are asked for in one question. */
  headPollRoomsMax: 1_000,

  /** The longest any operation on a store may take before it counts as failed. */
  storeTimeoutMs: 5_000,
  /** Reads that a database server is asked for at once: with an append and the checks of its epoch below the driver's 100. */
  storeReadsMax: 64,
  /** Operations that wait for their turn at a database server, and operations that wait for it to come up; beyond, refused at once. */
  storeWaitersMax: 16_384,
  /** Pauses between the attempts of a store to work again, doubling: the rest of the second it may take is for the attempt. */
  storeRetryMinMs: 50,
  storeRetryMaxMs: 250,
  /** The write-ahead log of the embedded store is copied into the file when it is this long, */
  walCheckpointBytes: 16_000_000,
  /** and commits wait for that when it is this long: it never grows further than one batch beyond. */
  walBytesMax: 64_000_000,
  /** After this long without a commit a log of more than these bytes is copied too. */
  walIdleMs: 5_000,
  walIdleBytes: 1_000_000,
  /** Index entries looked at in one go when one user's messages in one room are sought: about 2 ms. */
  pickedRowsMax: 8_192,
  /** Such searches that may wait for each other; beyond them a search of more than one step is refused. */
  searchesMax: 64,
  /** How large a file may be for its whole structure to be verified at the start (about 10 ms a MB). */
  verifiedAtStartBytes: 8_000_000,

  /** Addresses whose rates are remembered, one map a kind; the least recently seen is forgotten first. */
  rateAddressesMax: 10_000,
  /**
   * New connections of one address, for each send a second that RATE_LIMIT allows; and how many seconds of that may come at
   * once. By default 200 a second and 10,000 at once: a whole campus behind one address comes back after a restart.
   */
  handshakesPerSend: 10,
  handshakeBurstSeconds: 50,

  /** Connections of sessions in total, as long as the system gives descriptors for them; a session that polls has two. */
  connectionsMax: 100_000,
  /** Descriptors that are not for connections: the store, requests of callers without one, refusals. */
  descriptorsKept: 512,
  /** Descriptors that must be free at the start: about twice as many as a store and a listener take. */
  descriptorsAtStart: 32,

  /**
   * Packets that one connection may bring in one tick of the event loop: those of one polling request, of which the stock
   * client can put 5,000 into one, or the frames of a WebSocket, which is read on in one tick as long as there is more.
   */
  packetsPerTickMax: 10_000,
  /** HTTP requests of one tick, beyond which a connection that sends one after the other is closed. */
  requestsPerTickMax: 1_000,
  /** Pongs of one polling request; a client owes one per ping. */
  pongsPerPostMax: 2,
  /** How long a connection may take to join a namespace, as in Socket.IO; and a packet until all its attachments are there. */
  connectTimeoutMs: 45_000,
  /** How long a polling answer may lie unread before its connection is closed, in seconds: Bun's unit, at most 255. */
  pollAnswerIdleSeconds: 30,

  /** Bytes to one WebSocket that are gathered for one write: what Bun's cork buffer holds. */
  gatheredBytesMax: 16_384,
  /** Bytes published to topics after which every connection's backlog is looked at. */
  publishedUnsweptBytesMax: 256_000,
  /** Bytes published to topics in one tick of the loop; beyond them the connections are written to one by one. */
  publishedUnflushedBytesMax: 8_000_000,
  /** How soon after a publish the backlogs are looked at, however little was published. */
  backlogSweepMs: 100,

  /** Characters of the log that wait for a reader that does not read; beyond them lines are dropped, and counted. */
  logWaitingCharsMax: 1_000_000,

  /** How long a polling client that is let go has to fetch its last answers. */
  lastWordsMs: 1_000,
  /** What the drain may take beyond `DRAIN_MS` before the process ends anyway. */
  drainGraceMs: 5_000,
} as const;

/** Pieces in which a body of at most so many bytes may come: each costs some microseconds, of one byte or of all. */
export const bodyPiecesMaxOf = (bytesMax: number) =>
  Math.max(LIMITS.bodyPiecesMax, Math.ceil(bytesMax / LIMITS.bodyPieceBytesMin));

/** How much longer JSON text can be than the UTF-8 it carries: `\u0001` is six bytes for one. */
export const JSON_ESCAPE_FACTOR = 6;

/** What the fields around a message's text can take when encoded: names of 128 escaped code points, times, ids. */
export const MESSAGE_OVERHEAD_BYTES = 4 * LIMITS.nameCodePointsMax * JSON_ESCAPE_FACTOR + 512;

/** The largest a single encoded message can be, given the longest text. */
export const encodedMessageBytesMax = (textBytesMax: number) =>
  textBytesMax * JSON_ESCAPE_FACTOR + MESSAGE_OVERHEAD_BYTES;
