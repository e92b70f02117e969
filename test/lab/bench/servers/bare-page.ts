/** The limit over HTTP: `Bun.serve` that answers everything with the bytes of the file PAGE_FILE, which it read once. */

import { announce, HOST, PORT } from "./serving.ts";

const file = process.env.PAGE_FILE;
if (file === undefined) throw new Error("PAGE_FILE names the file with the page");
const page = await Bun.file(file).bytes();

const server = Bun.serve({
  hostname: HOST,
  port: PORT,
  fetch: () => new Response(page, { headers: { "content-type": "application/json" } }),
});
announce(server.port, () => server.stop(true));
