/** The health of the service, for people and for supervisors. Nothing here waits on the store. */

import type { Context } from "hono";
import type { Chat } from "../chat/chat.ts";
import type { HttpEnv } from "./target.ts";

/** Whether the service can do its work now. */
export type Readiness =
  { readonly ready: true } | { readonly ready: false; readonly reason: "storage_unavailable" | "draining" };

export interface HealthRoutesOptions {
  readonly chat: Chat;
  readonly service: { readonly name: string; readonly version: string };
  readonly uptimeSeconds: () => number;
  readonly readiness: () => Readiness;
}

export const healthRoutes = ({ chat, service, uptimeSeconds, readiness }: HealthRoutesOptions) => ({
  health(c: Context<HttpEnv>) {
    const { kind, status } = chat.store();
    return c.json({
      status: status.up ? "ok" : "degraded",
      service: service.name,
      version: service.version,
      uptime_s: uptimeSeconds(),
      storage: { kind, status: status.up ? "up" : "down" },
    });
  },

  alive: (c: Context<HttpEnv>) => c.json({ status: "ok" }),

  ready(c: Context<HttpEnv>) {
    const state = readiness();
    return state.ready
      ? c.json({ status: "ok" })
      : c.json({ status: "unavailable", reason: state.reason }, 503);
  },
});
