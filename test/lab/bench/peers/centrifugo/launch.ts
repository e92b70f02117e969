/**
 * Starts the Centrifugo of CENTRIFUGO_BIN with the bench's settings, and says the program's `listening` line for it, with
 * the process to look at. It has no such line itself, and wants a port that somebody chose.
 */

import { join } from "node:path";

const READY_WITHIN_MS = 10_000;
const LOOK_EVERY_MS = 10;

const hostname = process.env.HOST ?? "127.0.0.1";
const [binary] = process.argv.slice(2);
if (binary === undefined) throw new Error("the program's path is the argument");

/** A port that was free a moment ago. */
function freePort(): number {
  const probe = Bun.listen({ hostname, port: Number(process.env.PORT ?? 0), socket: { data() {} } });
  const { port } = probe;
  probe.stop(true);
  return port;
}

const port = freePort();
const url = `http://${hostname}:${port}`;
const child = Bun.spawn(
  [
    binary,
    ...["--config", join(import.meta.dir, "config.json")],
    ...["--http_server.address", hostname, "--http_server.port", String(port)],
  ],
  { stdin: "ignore", stdout: "inherit", stderr: "inherit" },
);
process.on("SIGTERM", () => child.kill());
child.exited.then((code) => process.exit(code === 0 || child.signalCode !== null ? 0 : 1));

const answers = () =>
  fetch(`${url}/health`).then(
    ({ ok }) => ok,
    () => false,
  );
for (const until = performance.now() + READY_WITHIN_MS; !(await answers()); await Bun.sleep(LOOK_EVERY_MS)) {
  if (performance.now() < until) continue;
  child.kill();
  throw new Error("Centrifugo does not answer");
}
console.log(JSON.stringify({ event: "listening", url, pid: child.pid }));
