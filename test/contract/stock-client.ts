/**
 * The stock JavaScript client as a servant: does what it is told and reports everything that it hears, in order. It runs
 * in this process under Bun, and as a program of its own under Node (stock-client-node.ts). stock_client.py is its twin.
 */

import { io, type Socket } from "socket.io-client";

/** `upgrade` begins with polling and goes over to a WebSocket by itself, as the stock client does by default. */
export type Transport = "websocket" | "polling" | "upgrade";

export type Command =
  | {
      readonly op: "open";
      readonly link: number;
      readonly url: string;
      readonly transports: readonly ("polling" | "websocket")[];
    }
  | {
      readonly op: "emit";
      readonly link: number;
      readonly event: string;
      readonly args: readonly unknown[];
      /** The number under which the acknowledgement is reported; null sends the event without a callback. */
      readonly ack: number | null;
    }
  | { readonly op: "close"; readonly link: number };

export type Report =
  | { readonly link: number; readonly kind: "opened" }
  | { readonly link: number; readonly kind: "failed"; readonly message: string }
  | { readonly link: number; readonly kind: "upgraded" }
  | { readonly link: number; readonly kind: "closed"; readonly reason: string }
  | {
      readonly link: number;
      readonly kind: "event";
      readonly name: string;
      readonly args: readonly unknown[];
    }
  | { readonly link: number; readonly kind: "ack"; readonly ack: number; readonly args: readonly unknown[] };

export function createStockClient(report: (said: Report) => void): (command: Command) => void {
  const sockets = new Map<number, Socket>();

  function open(link: number, url: string, transports: readonly string[]): void {
    const socket = io(url, { transports: [...transports], forceNew: true, reconnection: false });
    sockets.set(link, socket);
    socket.on("connect", () => {
      report({ link, kind: "opened" });
      const { engine } = socket.io;
      if (engine.transport.name === "websocket") report({ link, kind: "upgraded" });
      else engine.once("upgrade", () => report({ link, kind: "upgraded" }));
    });
    socket.on("connect_error", ({ message }) => report({ link, kind: "failed", message }));
    socket.on("disconnect", (reason) => report({ link, kind: "closed", reason }));
    socket.onAny((name: string, ...args: unknown[]) => report({ link, kind: "event", name, args }));
  }

  return (command) => {
    const { link } = command;
    if (command.op === "open") {
      open(link, command.url, command.transports);
      return;
    }
    const socket = sockets.get(link);
    if (socket === undefined) throw new Error(`link ${link} was never opened`);
    if (command.op === "close") {
      socket.disconnect();
      return;
    }
    const { event, args, ack } = command;
    if (ack === null) socket.emit(event, ...args);
    else
      socket.emit(event, ...args, (...answer: unknown[]) => report({ link, kind: "ack", ack, args: answer }));
  };
}
