/**
 * What an idle connection costs, and what a storm of clients that all come back at once does: `bun run bench:connections`.
 * Ours at its default limits beside stock Socket.IO on bun-engine and bare Bun WebSockets, one after the other in one run.
 */

import { parseArgs } from "node:util";
import { temporaryFolder } from "../../fixture/program.ts";
import { endTogether, ownFolder, startProgram } from "./belongings.ts";
import { CONTENDERS, type ContenderName } from "./contenders.ts";
import { bringIn, hasAllAfter, type Idler, joinByPolling, joinBySocket, type Joining } from "./idlers.ts";
import { idleConnections } from "./kinds/arrivals.ts";
import { describeMachine, residentBytesOf } from "./machine.ts";
import { showMachine } from "./report.ts";

const { values } = parseArgs({
  options: {
    connections: { type: "string", default: "5000" },
    polling: { type: "string", default: "300" },
    storm: { type: "string", default: "1000" },
    "room-members": { type: "string", default: "20" },
  },
});
const COUNT = Number(values.connections);
const POLLING = Number(values.polling);
const STORM = Number(values.storm);
const ROOM_MEMBERS = Number(values["room-members"]);
/** Messages that are said in each room before the storm, and those of them that a client has not seen when it comes back. */
const [SAID, MISSED] = [5, 3];

/** What an idle connection may cost, by what it costs the stock server. */
const OF_STOCK_MAX = 0.75;

const hostname = "127.0.0.1";
const faults: string[] = [];

function judge(what: string, errors: ReadonlyMap<string, number>) {
  for (const [said, times] of errors) faults.push(`${what}: ${times} × ${said}`);
}

/** Each server gets a folder of its own, a port, and its own defaults. */
function start(name: ContenderName, cwd: string, port = 0) {
  return startProgram({
    command: CONTENDERS[name].command,
    cwd,
    env: { SQLITE_PATH: `${cwd}/chat.db`, PORT: String(port), DRAIN_MS: "0", LOG_LEVEL: "info" },
  });
}

const joinings = (port: number, count: number, from = 0): Joining[] =>
  Array.from({ length: count }, (_, n) => ({
    hostname,
    port,
    room: `room ${Math.floor((from + n) / ROOM_MEMBERS)}`,
  }));

const drop = async (idlers: readonly Idler[]) => {
  for (const idler of idlers) idler.drop();
  await Promise.all(idlers.map(({ gone }) => gone));
};

const idle = idleConnections({ connections: COUNT, roomMembers: ROOM_MEMBERS });

/** Kilobytes for each WebSocket connection that is in a room and rests. */
async function measureIdle(name: ContenderName): Promise<number> {
  const folder = ownFolder((await temporaryFolder()).path);
  try {
    const options = { folder: folder.path, seed: 1, warmUpMs: 0, measureMs: 0 };
    const { figures, faults: found } = await idle.measure(name, options);
    for (const fault of found) faults.push(`${name}, coming: ${fault}`);
    const [each, joined] = [figures["kB each"] ?? Number.NaN, figures["joined/s"] ?? Number.NaN];
    console.log(
      `${name.padEnd(6)} ${each.toFixed(1).padStart(6)} kB a connection  (${joined.toFixed(0)} joined a second)`,
    );
    return each;
  } finally {
    await folder.remove();
  }
}

/** What each room was told, and that every member heard it. */
async function talk(idlers: readonly Idler[]) {
  const speakers = new Map(idlers.map((idler) => [idler.room, idler]));
  for (const speaker of speakers.values()) for (let n = 0; n < SAID; n += 1) speaker.say(`message ${n}`);
  const until = performance.now() + 20_000;
  const deaf = () => idlers.filter(({ live }) => live.length < SAID);
  while (deaf().length > 0 && performance.now() < until) await Bun.sleep(50);
  if (deaf().length > 0) faults.push(`${deaf().length} members did not hear everything`);
}

/** All come back in one moment, each with what it has seen; each must get what it missed, and nothing else. */
async function storm(what: string, port: number) {
  const began = performance.now();
  const { idlers, errors } = await bringIn(
    joinings(port, STORM).map((joining) => ({ ...joining, since: SAID - MISSED })),
    joinBySocket,
    { stormy: true },
  );
  const tookMs = performance.now() - began;
  judge(what, errors);
  const wrong = idlers.filter(({ ack }) => !hasAllAfter(ack, SAID - MISSED, SAID));
  if (wrong.length > 0)
    faults.push(`${what}: ${wrong.length} resumed wrongly, as ${JSON.stringify(wrong[0]?.ack)}`);
  console.log(`${what}: ${idlers.length} of ${STORM} back and resumed in ${(tookMs / 1_000).toFixed(2)} s`);
  return idlers;
}

async function weather(): Promise<void> {
  const folder = ownFolder((await temporaryFolder()).path);
  let program = await start("ours", folder.path);
  const { port } = program;
  const sockets = await bringIn(joinings(port, COUNT - POLLING), joinBySocket);
  const pollers = await bringIn(joinings(port, POLLING, COUNT - POLLING), joinByPolling);
  judge("sockets, coming", sockets.errors);
  judge("pollers, coming", pollers.errors);
  console.log(
    `${sockets.idlers.length} WebSockets and ${pollers.idlers.length} pollers are in, ${((residentBytesOf(program.pid) ?? 0) / 1e6).toFixed(0)} MB`,
  );
  await talk([...sockets.idlers, ...pollers.idlers]);

  const [lost, staying] = [sockets.idlers.slice(0, STORM), sockets.idlers.slice(STORM)];
  await drop(lost);
  const back = await storm("all dropped at once", port);

  await program.end("SIGKILL");
  await Promise.all([...back, ...staying].map(({ gone }) => gone));
  for (const { drop: leave } of pollers.idlers) leave();
  program = await start("ours", folder.path, port);
  const again = await storm("server killed and started again", port);
  await drop(again);
  const code = await program.end();
  if (code !== 0) faults.push(`the server ended with ${code}`);
  console.log(
    program
      .output()
      .split("\n")
      .find((line) => line.includes('"event":"stopped"')) ?? "",
  );
  await folder.remove();
}

const limit = Number((await Bun.$`sh -c 'ulimit -n'`.text()).trim());
// Generator and server are processes of their own; the server keeps some descriptors for other things.
const needed = COUNT + 1_000;
if (limit < needed) {
  console.error(`${COUNT} connections need ${needed} open files, the limit is ${limit}: ulimit -n ${needed}`);
  process.exit(1);
}
endTogether();
const machineFolder = ownFolder((await temporaryFolder()).path);
console.log(`${showMachine(describeMachine(machineFolder.path))}\nrooms of ${ROOM_MEMBERS}\n`);
await machineFolder.remove();

const ours = await measureIdle("ours");
const stock = await measureIdle("stock");
const bare = await measureIdle("bare");
console.log(
  `\nmemory of an idle WebSocket connection: ours is ${(ours / stock).toFixed(2)} of stock (at most ${OF_STOCK_MAX} is asked for), ${(ours / bare).toFixed(2)} times bare Bun\n`,
);
if (!(ours / stock <= OF_STOCK_MAX))
  faults.push(`an idle connection costs more than ${OF_STOCK_MAX} of stock's`);
await weather();

for (const fault of faults) console.error(`FAULT ${fault}`);
console.log(faults.length === 0 ? "no errors" : `${faults.length} faults`);
process.exit(faults.length === 0 ? 0 : 1);
