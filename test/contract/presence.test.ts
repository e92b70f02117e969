/** Who comes and goes in a crowd: announced up to 200 connections, and not beyond. */

import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";
import { startTestService, type TestService } from "../fixture/service.ts";
import { range } from "./conversation.ts";
import { bunClient } from "./links.ts";

setDefaultTimeout(30_000);

let started: TestService;
beforeAll(async () => {
  started = await startTestService();
});
afterAll(() => started.dispose());

/** A member that costs little: a bare WebSocket that says what a client would. */
function bareMember(room: string, userId: string): Promise<WebSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<WebSocket>();
  const socket = new WebSocket(`${started.url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`);
  socket.onerror = reject;
  socket.onmessage = ({ data }) => {
    const frame = String(data);
    if (frame.startsWith("0")) socket.send("40");
    else if (frame === "2") socket.send("3");
    else if (frame.startsWith("40"))
      socket.send(`420${JSON.stringify(["join_room", { room, user_id: userId }])}`);
    else if (frame.startsWith("430")) resolve(socket);
  };
  return promise;
}

const closed = (socket: WebSocket) =>
  new Promise<void>((resolve) => {
    socket.onclose = () => resolve();
    socket.close();
  });

test("comings and goings are announced up to 200 connections in the room, and not beyond", async () => {
  const room = Bun.randomUUIDv7();
  const watcher = await bunClient().connect(started.url, "websocket");
  await watcher.call("join_room", room);
  const crowd = await Promise.all(
    range(2, LIMITS.presenceConnectionsMax).map((index) => bareMember(room, `user ${index}`)),
  );
  const came = await watcher.take("user_joined", crowd.length);
  expect(came.map(({ user_id }) => user_id).sort()).toEqual(
    range(2, LIMITS.presenceConnectionsMax)
      .map((index) => `user ${index}`)
      .sort(),
  );
  const late = await bareMember(room, "one too many");
  await closed(crowd[0] as WebSocket);
  // Back at the bound, the next one to go is announced; before it nobody was.
  await closed(late);
  expect(await watcher.next("user_left")).toMatchObject({ room, user_id: "one too many" });
  await Promise.all(crowd.slice(1).map(closed));
  await watcher.take("user_left", crowd.length - 1);
  await watcher.fence();
  expect(watcher.heard.filter(({ name }) => name === "user_joined")).toHaveLength(crowd.length);
  expect(watcher.heard.filter(({ name }) => name === "user_left")).toHaveLength(crowd.length);
  await watcher.close();
});
