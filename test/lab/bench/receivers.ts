/** The generator's second thread: members of the room that only listen. */

import type { ReceiversAnswer, ReceiversAsk } from "./generator.ts";
import { type Members, openMembers } from "./members.ts";

declare const self: Worker;

let members: Members | undefined;

async function answer(ask: ReceiversAsk): Promise<ReceiversAnswer> {
  if ("open" in ask) members = await openMembers(ask.open);
  if (members === undefined) throw new Error("the receivers are not connected yet");
  if ("settle" in ask) await members.settle(ask.settle);
  if ("close" in ask) members.close();
  return { counts: members.counts(), faults: members.faults, samples: members.samples() };
}

self.onmessage = async ({ data }: MessageEvent<ReceiversAsk>) => {
  self.postMessage(await answer(data));
};
