/**
 * A running service and the plainest picture of what it promised: an array for each room. Every command does something
 * to the service as a client would, and compares.
 */

import { expect } from "bun:test";
import { range, seqsOf } from "../contract/conversation.ts";
import { type Answer, bunClient, type Heard, type Link } from "../contract/links.ts";
import type { Transport } from "../contract/stock-client.ts";
import { type Program, startProgram } from "../fixture/program.ts";

export const MEMBERS = 3;
export const ROOMS = 2;

export type Command =
  | {
      readonly kind: "join";
      readonly member: number;
      readonly room: number;
      readonly since: "seen" | "none" | "zero";
    }
  | { readonly kind: "leave"; readonly member: number; readonly room: number }
  | { readonly kind: "send"; readonly member: number; readonly room: number; readonly as: Naming }
  | { readonly kind: "post"; readonly member: number; readonly room: number; readonly as: Naming }
  | { readonly kind: "burst"; readonly room: number; readonly each: number }
  | { readonly kind: "reconnect"; readonly member: number; readonly transport: Transport }
  | {
      readonly kind: "restart";
      readonly signal: "SIGTERM" | "SIGKILL";
      readonly each: number;
      /** Acks to wait for before the signal. */
      readonly acks: number;
    }
  | {
      readonly kind: "history";
      readonly room: number;
      readonly limit: number;
      readonly oldestFirst: boolean;
    };

/** Without a client id; with a fresh one; a retry of an earlier message; an earlier client id with another text. */
export type Naming = "none" | "fresh" | "again" | "conflict";

interface Draft {
  readonly room: string;
  readonly user_id: string;
  readonly message: string;
  readonly client_id?: string;
}

interface Said extends Draft {
  readonly id: string;
}

interface Member {
  readonly userId: string;
  link: Link;
  /** How much of the link's `heard` was compared. */
  judged: number;
  readonly joined: Set<string>;
  /** The last number of each room that it was told, live or replayed. */
  readonly seen: Map<string, number>;
}

export interface World {
  /** Begins a new script: fresh rooms, fresh members. */
  begin(): Promise<void>;
  run(command: Command): Promise<void>;
  /** Compares everything once more, and lets the members go. */
  end(): Promise<void>;
  stop(): Promise<void>;
}

const client = bunClient();

export async function createWorld(env: Readonly<Record<string, string>>): Promise<World> {
  const settings = { ...env, RATE_LIMIT: "off", DRAIN_MS: "0" };
  let program: Program = await startProgram({ env: settings });
  let rooms: { readonly name: string; readonly said: Said[] }[] = [];
  let members: Member[] = [];
  let texts = 0;

  const roomAt = (index: number) => rooms[index] as (typeof rooms)[number];
  const saidIn = (name: unknown) => (rooms.find((room) => room.name === name) as (typeof rooms)[number]).said;
  const wireOf = ({ client_id: _, ...said }: Said, index: number) => ({ ...said, seq: index + 1 });
  const known = (room: string, from: number, to: number) =>
    saidIn(room)
      .slice(from, to)
      .map((said, index) => expect.objectContaining(wireOf(said, from + index)));

  async function connect(userId: string, transport: Transport): Promise<Member> {
    const link = await client.connect(program.url, transport);
    return { userId, link, judged: 0, joined: new Set(), seen: new Map() };
  }

  /** Compares what the member has heard live since the last time. */
  function judge(member: Member): void {
    const { link, seen, joined } = member;
    for (; member.judged < link.heard.length; member.judged += 1) {
      const { kind, name, body } = link.heard[member.judged] as Heard;
      expect(name).not.toBe("error");
      if (kind !== "event" || name !== "receive_message") continue;
      const room = body.room as string;
      expect(joined.has(room)).toBe(true);
      const next = (seen.get(room) as number) + 1;
      expect([body]).toEqual(known(room, next - 1, next));
      seen.set(room, next);
    }
  }

  /** After this every member has been told all that it should, and nothing else. */
  async function settle(): Promise<void> {
    await Promise.all(members.map(({ link }) => link.fence()));
    for (const member of members) {
      judge(member);
      for (const room of member.joined) expect(member.seen.get(room)).toBe(saidIn(room).length);
    }
  }

  async function join(member: Member, room: string, since: number | undefined): Promise<void> {
    const said = saidIn(room);
    const joined = await member.link.call("join_room", {
      room,
      user_id: member.userId,
      ...(since !== undefined && { since }),
    });
    expect(joined).toMatchObject({ ok: true, seq: said.length, first_seq: 1 });
    if (since !== undefined) {
      expect(joined).toMatchObject({ recovered: true, complete: true });
      expect(joined.messages).toEqual(known(room, since, said.length));
    }
    // Live messages of before the join are compared with what was seen before it.
    judge(member);
    member.joined.add(room);
    member.seen.set(room, said.length);
  }

  function draft(member: Member, room: string, as: Naming): { draft: Draft; first: number } {
    const own = saidIn(room).findLastIndex(
      ({ user_id, client_id }) => user_id === member.userId && client_id,
    );
    texts += 1;
    const fresh: Draft = { room, user_id: member.userId, message: `text ${texts}` };
    const earlier = saidIn(room)[own];
    if (as === "none" || as === "fresh" || earlier?.client_id === undefined)
      return { draft: as === "none" ? fresh : { ...fresh, client_id: `id ${texts}` }, first: -1 };
    const { client_id, message } = earlier;
    return { draft: { ...fresh, client_id, ...(as === "again" && { message }) }, first: own };
  }

  /** What the answer to a send must be; a new message is remembered. */
  function remember({ draft: sent, first }: ReturnType<typeof draft>, id: unknown): number {
    if (first >= 0) return first + 1;
    return saidIn(sent.room).push({ ...sent, id: id as string });
  }

  async function send(member: Member, room: string, as: Naming): Promise<void> {
    const sent = draft(member, room, as);
    const asked = member.link.call("send_message", sent.draft);
    // A send that waits for a join is refused at once when its client leaves the room.
    if (!member.joined.has(room)) await member.link.call("leave_room", room);
    const answer = await asked;
    if (!member.joined.has(room)) {
      expect(answer).toMatchObject({ ok: false, error: { code: "not_in_room" } });
    } else if (sent.first >= 0 && as === "conflict") {
      expect(answer).toMatchObject({ ok: false, error: { code: "conflict", retryable: false } });
    } else {
      const duplicate = sent.first >= 0;
      const seq = remember(sent, answer.id);
      expect(answer).toMatchObject({ ok: true, seq, duplicate, id: saidIn(room)[seq - 1]?.id as string });
    }
    await settle();
  }

  async function post(member: Member, room: string, as: Naming): Promise<void> {
    const sent = draft(member, room, as);
    const { client_id, user_id, message } = sent.draft;
    const response = await fetch(`${program.url}/rooms/${room}/messages`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(client_id !== undefined && { "idempotency-key": client_id }),
      },
      body: JSON.stringify({ user_id, message }),
    });
    const body = (await response.json()) as Answer;
    if (sent.first >= 0 && as === "conflict") {
      expect([response.status, body]).toMatchObject([409, { error: { code: "conflict" } }]);
    } else {
      expect(response.status).toBe(sent.first >= 0 ? 200 : 201);
      const seq = remember(sent, body.id);
      expect([body]).toEqual(known(room, seq - 1, seq));
    }
    await settle();
  }

  /** Sends that nobody waits for, by every member that is in the room. */
  function sendTogether(room: string, each: number) {
    return members
      .filter(({ joined }) => joined.has(room))
      .flatMap((member) =>
        range(1, each).map((turn) => {
          const { draft: sent } = draft(member, room, turn % 3 === 0 ? "none" : "fresh");
          return { sent, answer: member.link.call("send_message", sent) };
        }),
      );
  }

  async function burst(room: string, each: number): Promise<void> {
    const before = saidIn(room).length;
    const sent = sendTogether(room, each);
    const answers = await Promise.all(sent.map(({ answer }) => answer));
    const order = answers.map(({ seq }) => seq as number);
    expect([...order].sort((a, b) => a - b)).toEqual(range(before + 1, before + sent.length));
    for (const { user_id } of sent.map((one) => one.sent)) {
      const own = order.filter((_, index) => sent[index]?.sent.user_id === user_id);
      expect([...own].sort((a, b) => a - b)).toEqual(own);
    }
    for (const [index, { id, seq }] of answers.entries())
      saidIn(room)[(seq as number) - 1] = { ...(sent[index]?.sent as Draft), id: id as string };
    await settle();
  }

  async function read(
    room: string,
    query: string,
  ): Promise<{ messages: Answer[]; next_cursor: string | null }> {
    const response = await fetch(`${program.url}/rooms/${room}/messages?${query}`);
    expect(response.status).toBe(200);
    return (await response.json()) as { messages: Answer[]; next_cursor: string | null };
  }

  async function readAll(room: string, limit: number, oldestFirst: boolean): Promise<Answer[]> {
    const messages: Answer[] = [];
    let query = oldestFirst ? "after=0" : "";
    for (;;) {
      const page = await read(room, `limit=${limit}&${query}`);
      messages.push(...page.messages);
      if (page.next_cursor === null) return oldestFirst ? messages : messages.reverse();
      query = `cursor=${page.next_cursor}`;
    }
  }

  async function history(room: string, limit: number, oldestFirst: boolean): Promise<void> {
    const all = await readAll(room, limit, oldestFirst);
    expect(all).toEqual(known(room, 0, saidIn(room).length));
    const [member] = members as [Member];
    const response = await fetch(`${program.url}/messages/${member.userId}?room=${room}&limit=200`);
    const { messages } = (await response.json()) as { messages: Answer[] };
    const own = all.filter(({ user_id }) => user_id === member.userId);
    expect(messages).toEqual(own.slice(-200).reverse());
  }

  async function reconnect(index: number, transport: Transport): Promise<void> {
    const former = members[index] as Member;
    await former.link.close();
    judge(former);
    const member = await connect(former.userId, transport);
    members[index] = member;
    for (const room of former.joined) await join(member, room, former.seen.get(room));
    await settle();
  }

  /** Ends the service while sends are under way, starts it again on its port, and holds it to what it had answered. */
  async function restart(signal: "SIGTERM" | "SIGKILL", each: number, acks: number): Promise<void> {
    const underway = rooms.flatMap(({ name }) => sendTogether(name, each));
    const outcomes = Promise.allSettled(underway.map(({ answer }) => answer));
    await Promise.all(underway.slice(0, acks).map(({ answer }) => answer));
    const { port } = program;
    const code = await program.end(signal);
    if (signal === "SIGTERM") expect(code).toBe(0);
    await Promise.all(members.map(({ link }) => link.closed));
    const settled = await outcomes;
    program = await startProgram({ env: { ...settings, PORT: String(port) } });

    for (const { name, said } of rooms) {
      const all = await readAll(name, 200, true);
      expect(seqsOf(all)).toEqual(range(1, all.length));
      expect(all.slice(0, said.length)).toEqual(known(name, 0, said.length));
      for (const message of all.slice(said.length)) {
        const { sent } = underway.find(
          (one) => one.sent.message === message.message,
        ) as (typeof underway)[number];
        expect(message).toMatchObject({ room: sent.room, user_id: sent.user_id });
        said.push({ ...sent, id: message.id as string });
      }
      expect(new Set(all.map(({ message }) => message)).size).toBe(all.length);
    }
    for (const [index, outcome] of settled.entries()) {
      if (outcome.status === "rejected") continue;
      const { room } = (underway[index] as (typeof underway)[number]).sent;
      const { ok, seq, id } = outcome.value;
      if (ok === true) expect(saidIn(room)[(seq as number) - 1]?.id).toBe(id as string);
    }

    for (const [index, former] of members.entries()) {
      // What a member saw is there, whatever the crash took.
      judge(former);
      const member = await connect(
        former.userId,
        former.link.heard.length % 2 === 0 ? "websocket" : "polling",
      );
      members[index] = member;
      for (const room of former.joined) await join(member, room, former.seen.get(room));
    }
    for (const { sent } of underway) {
      if (sent.client_id === undefined) continue;
      const member = members.find(({ userId }) => userId === sent.user_id) as Member;
      const first = saidIn(sent.room).findIndex(({ message }) => message === sent.message);
      const answer = await member.link.call("send_message", sent);
      const seq = remember({ draft: sent, first }, answer.id);
      expect(answer).toMatchObject({ ok: true, duplicate: first >= 0, seq });
      expect(saidIn(sent.room)[seq - 1]?.id).toBe(answer.id as string);
    }
    await settle();
  }

  async function leave(member: Member, room: string): Promise<void> {
    const answer = await member.link.call("leave_room", room);
    if (member.joined.has(room)) expect(answer).toEqual({ ok: true, room });
    else expect(answer).toMatchObject({ ok: false, error: { code: "not_in_room" } });
    judge(member);
    member.joined.delete(room);
  }

  const sinceOf = {
    none: () => undefined,
    zero: () => 0,
    seen: (member: Member, room: string) => member.seen.get(room),
  };

  return {
    async begin() {
      rooms = range(1, ROOMS).map(() => ({ name: Bun.randomUUIDv7(), said: [] }));
      members = await Promise.all(
        range(1, MEMBERS).map((index) =>
          connect(`user ${index}`, (["websocket", "polling", "upgrade"] as const)[index % 3] as Transport),
        ),
      );
    },
    async run(command) {
      const member = "member" in command ? (members[command.member] as Member) : undefined;
      const room = "room" in command ? roomAt(command.room).name : "";
      switch (command.kind) {
        case "join":
          return join(member as Member, room, sinceOf[command.since](member as Member, room));
        case "leave":
          return leave(member as Member, room);
        case "send":
          return send(member as Member, room, command.as);
        case "post":
          return post(member as Member, room, command.as);
        case "burst":
          return burst(room, command.each);
        case "reconnect":
          return reconnect(command.member, command.transport);
        case "restart":
          return restart(command.signal, command.each, command.acks);
        case "history":
          return history(room, command.limit, command.oldestFirst);
      }
    },
    async end() {
      await settle();
      for (const { name } of rooms) await history(name, 7, true);
      await Promise.all(members.map(({ link }) => link.close()));
    },
    async stop() {
      expect(await program.end()).toBe(0);
    },
  };
}
