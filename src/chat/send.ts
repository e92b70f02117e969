/** Sending a message: who may, as whom, and when it counts. */

import { speakerOf, type Viewer } from "../auth/viewer.ts";
import { toMillis } from "../domain/time.ts";
import { ChatError } from "../errors.ts";
import type { SendMessage } from "../protocol/events.ts";
import type { Admission, Allowance } from "./admission.ts";
import type { Commits, Committed } from "./commits.ts";
import type { Session } from "./session.ts";

/** Time and chance, from outside. */
export interface SendWorld {
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
  /** A fresh UUIDv7 for that time. */
  readonly newMessageId: (now: number) => string;
}

export interface Send {
  /** From a connection, which must be in the room (`not_in_room`). */
  fromSession(session: Session, command: SendMessage): Promise<Committed>;
  /** From a caller without a connection: no membership is needed. */
  fromCaller(caller: { viewer: Viewer; allowance: Allowance }, command: SendMessage): Promise<Committed>;
}

export function createSend({
  admission,
  commits,
  now,
  newMessageId,
}: SendWorld & { admission: Admission; commits: Commits }): Send {
  function fromCaller(caller: { viewer: Viewer; allowance: Allowance }, command: SendMessage) {
    admission.admit(caller.allowance);
    const userId = speakerOf(caller.viewer, command.userId);
    if (userId === undefined) {
      throw new ChatError("invalid_payload", { issues: [{ path: "user_id", message: "is required" }] });
    }
    const at = now();
    const receivedAt = toMillis(at);
    return commits.commit({
      id: newMessageId(at),
      room: command.room,
      userId,
      text: command.text,
      textBytes: command.textBytes,
      timestamp: command.timestamp ?? receivedAt,
      receivedAt,
      clientId: command.clientId,
    });
  }
  return {
    async fromCaller(caller, command) {
      return fromCaller(caller, command);
    },
    async fromSession(session, command) {
      if (!session.rooms.has(command.room)) throw new ChatError("not_in_room");
      const committed = fromCaller(session, command);
      session.allowance.inFlight += 1;
      try {
        return await committed;
      } finally {
        session.allowance.inFlight -= 1;
      }
    },
  };
}
