/** The caller of a use case, and the users for whom it may speak. */

import type { UserId } from "../domain/ids.ts";
import { ChatError } from "../errors.ts";

/** With auth off everybody is anonymous and is who they say; with auth on a token names the one user. */
export type Viewer = { readonly kind: "anonymous" } | { readonly kind: "user"; readonly userId: UserId };

export const ANONYMOUS: Viewer = { kind: "anonymous" };

/** The user this viewer speaks as; undefined when an anonymous one names nobody. Another user's name is `forbidden`. */
export function speakerOf(viewer: Viewer, claimed: UserId | undefined): UserId | undefined {
  if (viewer.kind === "anonymous") return claimed;
  if (claimed !== undefined && claimed !== viewer.userId) throw new ChatError("forbidden");
  return viewer.userId;
}
