/** The rooms that one connection is in: nearly always one. */

import { createFew, type Few } from "../domain/few.ts";
import type { RoomName } from "../domain/ids.ts";

/** What the use cases need of a Set. */
export interface JoinedRooms extends Few<RoomName> {}

export const createJoinedRooms = (): JoinedRooms => createFew();
