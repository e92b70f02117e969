/** The judgement after a plan: the histories against everything that was acked and shown. */

import { readRoom, type WireMessage } from "../../fixture/member.ts";
import { fingerprint, label, type Ledger } from "./ledger.ts";

export interface Histories {
  /** Everything that a room holds, oldest first. */
  room(name: string): Promise<readonly WireMessage[]>;
  /** The ids of what a user said, as a walk through all pages meets them. */
  user(name: string): Promise<readonly string[]>;
}

/** As a service tells them over HTTP. */
export const historiesAt = (url: string): Histories => ({
  async room(name) {
    const response = await fetch(`${url}/rooms/${encodeURIComponent(name)}/messages?limit=1`);
    if (!response.ok) throw new Error(`the history of ${name} answered ${response.status}`);
    const { first_seq } = (await response.json()) as { first_seq: number };
    return readRoom(url, name, first_seq - 1);
  },
  async user(name) {
    const ids: string[] = [];
    let cursor = "";
    do {
      const response = await fetch(`${url}/messages/${encodeURIComponent(name)}?limit=200${cursor}`);
      if (!response.ok) throw new Error(`the history of ${name} answered ${response.status}`);
      const page = (await response.json()) as { messages: WireMessage[]; next_cursor: string | null };
      for (const { id } of page.messages) ids.push(id);
      cursor = page.next_cursor === null ? "" : `&cursor=${encodeURIComponent(page.next_cursor)}`;
    } while (cursor !== "");
    return ids;
  },
});

/**
 * @param isAtRest everybody has finished and was shown everything; where not, what came meanwhile is not judged
 */
export async function judge(
  ledger: Ledger,
  told: Histories,
  rooms: readonly string[],
  isAtRest: boolean,
): Promise<void> {
  const { said, emissions, violated } = ledger;
  // Taken before the histories are read: they hold all of it, and more where messages still come.
  const sightings = ledger.sightings.map((seen) => ({ ...seen, shown: [...seen.shown] }));
  const stored = new Map<string, WireMessage>();
  const histories = new Map<string, readonly WireMessage[]>();
  for (const room of rooms) {
    const history = await told.room(room);
    histories.set(room, history);
    // A room that was emptied by another program may go on with its numbers.
    const first = ledger.resets() === 0 ? 1 : (history[0]?.seq ?? 1);
    for (const [index, message] of history.entries()) {
      if (message.seq !== first + index)
        violated("hole", `${room} has ${message.seq} at place ${first + index}`);
      const former = stored.get(message.message);
      if (former !== undefined)
        violated("twice", `"${label(message.message)}" is stored as ${former.seq} and ${message.seq}`);
      stored.set(message.message, message);
      if (!said.has(message.message))
        violated("unsaid", `${room} holds "${label(message.message)}", which nobody said`);
    }
  }

  for (const entry of said.values()) {
    const name = `"${label(entry.text)}"`;
    const found = stored.get(entry.text);
    if (entry.acked !== null) {
      const { id, seq } = entry.acked;
      if (found === undefined) violated("lost", `${name} was acked as ${seq} and is not there`);
      else if (found.id !== id || found.seq !== seq || found.user_id !== entry.userId)
        violated("lost", `${name} was acked as ${seq} (${id}) and is there as ${found.seq} (${found.id})`);
    } else if (entry.mustRefuse !== null) {
      if (found !== undefined) violated("refused yet stored", `${name} is stored: ${entry.mustRefuse}`);
    } else if (entry.unknowns === 0 && found !== undefined) {
      violated("refused yet stored", `${name} was refused for sure and is stored as ${found.seq}`);
    }
  }

  for (const { member, room, start, shown, resets, isOver } of sightings) {
    const first = histories.get(room)?.[0]?.seq ?? Number.POSITIVE_INFINITY;
    if (isAtRest && !isOver && resets < ledger.resets() && (first <= start || !ledger.mayGoOn()))
      violated(
        "untold",
        `${member} was at ${start} in ${room}, and not told that it begins at ${first} again`,
      );
    const history = (histories.get(room) ?? []).filter(({ seq }) => (seq ?? 0) > start).map(fingerprint);
    if (isAtRest && !isOver && shown.length < history.length)
      violated("missed", `${member} was shown ${shown.length} of ${history.length} messages of ${room}`);
    const different = shown.findIndex((print, index) => print !== history[index]);
    if (different >= 0)
      violated(
        "unsaid",
        `${member} was shown in ${room}: ${shown[different]}, and history has: ${history[different]}`,
      );
  }

  for (const [key, places] of emissions) {
    const ordered = places.toSorted((a, b) => a.order - b.order);
    for (const [index, { seq }] of ordered.entries()) {
      const former = ordered[index - 1];
      if (former !== undefined && former.seq >= seq)
        violated("reordered", `${key}: ${seq} was emitted after ${former.seq}`);
    }
  }

  await judgeUsers(ledger, told, histories, isAtRest);
}

/** A walk through each user's history sees each of its messages once. */
async function judgeUsers(
  { violated }: Ledger,
  told: Histories,
  histories: ReadonlyMap<string, readonly WireMessage[]>,
  isAtRest: boolean,
): Promise<void> {
  const byUser = new Map<string, Set<string>>();
  for (const history of histories.values()) {
    for (const { user_id, id } of history) {
      const ids = byUser.get(user_id);
      if (ids === undefined) byUser.set(user_id, new Set([id]));
      else ids.add(id);
    }
  }
  for (const [user, ids] of byUser) {
    const met = new Set<string>();
    for (const id of await told.user(user)) {
      if (met.has(id)) violated("twice", `the history of ${user} shows ${id} twice`);
      met.add(id);
    }
    if ([...ids].some((id) => !met.has(id)) || (isAtRest && met.size > ids.size))
      violated("missed", `the history of ${user} shows ${met.size} of ${ids.size} messages`);
  }
}
