/** What the compared servers share that is not compared: where they listen, what they say, and how they end. */

export const HOST = process.env.HOST ?? "127.0.0.1";
export const PORT = Number(process.env.PORT ?? 0);

export function storePath(): string {
  const path = process.env.SQLITE_PATH;
  if (path === undefined) throw new Error("SQLITE_PATH names the store's file");
  return path;
}

/** Says where the server listens, in the program's own words, and lets it go at SIGTERM. */
export function announce(port: number | undefined, close: () => void | Promise<void>): void {
  process.on("SIGTERM", async () => {
    await close();
    process.exit(0);
  });
  console.log(JSON.stringify({ event: "listening", url: `http://${HOST}:${port}` }));
}
