/** One connection, as the use cases know it: who it is, where it is, and what it has used of its allowance. */

import type { Viewer } from "../auth/viewer.ts";
import type { Few } from "../domain/few.ts";
import type { RoomName } from "../domain/ids.ts";
import type { Allowance } from "./admission.ts";

export interface Session {
  /** The connection's name on this node. */
  readonly id: string;
  readonly viewer: Viewer;
  readonly allowance: Allowance;
  /** Nearly always one. */
  readonly rooms: Few<RoomName>;
  /** True once the connection is gone: what was still under way for it must leave nothing behind. */
  ended: boolean;
}
