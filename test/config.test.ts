import { describe, expect, test } from "bun:test";
import { ConfigError, loadConfig } from "../src/config.ts";

const faultsOf = (env: Record<string, string>): readonly string[] => {
  try {
    loadConfig(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.lines;
    throw error;
  }
  return [];
};

describe("loadConfig", () => {
  test("loadConfig gives the contract's defaults for an empty environment", () => {
    expect(loadConfig({})).toEqual({
      host: "0.0.0.0",
      port: 8000,
      store: { kind: "sqlite", path: "./data/chat.db" },
      origins: {
        any: false,
        named: new Set(["http://localhost:3000", "http://localhost:5173"]),
        hosts: new Set(["localhost"]),
      },
      messageBytesMax: 16_384,
      frameBytesMax: 1_000_000,
      outboundBytesMax: 1_048_576,
      rate: { perSecond: 20, burst: 40 },
      inFlightMax: 4_096,
      pingIntervalMs: 25_000,
      pingTimeoutMs: 20_000,
      drainMs: 5_000,
      logLevel: "info",
    });
  });

  test("loadConfig takes an empty value as unset", () => {
    expect(loadConfig({ PORT: "", MONGODB_URI: "", CORS_ORIGINS: "" })).toEqual(loadConfig({}));
  });

  test("loadConfig chooses MongoDB when it is named, in campus_chat unless told otherwise", () => {
    const uri = "mongodb://localhost:27017";
    expect(loadConfig({ MONGODB_URI: uri }).store).toEqual({
      kind: "mongodb",
      uri,
      databaseName: "campus_chat",
    });
    expect(loadConfig({ MONGODB_URI: uri, MONGODB_DB_NAME: "other" }).store).toMatchObject({
      databaseName: "other",
    });
  });

  test.each([
    ["mongodb://localhost", undefined, "campus_chat"],
    ["mongodb://localhost/", undefined, "campus_chat"],
    ["mongodb://localhost/?replicaSet=rs0", undefined, "campus_chat"],
    ["mongodb://localhost?replicaSet=rs0", undefined, "campus_chat"],
    ["mongodb://localhost/school", undefined, "school"],
    ["mongodb://ana:p%40ss@a:1,b:2/my%20db%2d1?authSource=admin", "chat", "chat"],
    ["mongodb://ana:p%40ss@a:1,b:2/caf%C3%A9?authSource=admin", undefined, "café"],
    ["mongodb+srv://cluster.example.org/school?x=/y", undefined, "school"],
    ["mongodb://localhost/school", "other", "other"],
  ])("loadConfig takes from %s and MONGODB_DB_NAME=%s the database %s", (uri, name, databaseName) => {
    const env = { MONGODB_URI: uri, ...(name !== undefined && { MONGODB_DB_NAME: name }) };
    expect(loadConfig(env).store).toEqual({ kind: "mongodb", uri, databaseName });
  });

  test.each(["./chat.db", "/srv/a b/chat.db", "data/it's.db", "./a:b.db", "a~b.db"])(
    "loadConfig takes SQLITE_PATH=%s as it is",
    (path) => {
      expect(loadConfig({ SQLITE_PATH: path }).store).toEqual({ kind: "sqlite", path });
    },
  );

  test("loadConfig takes * by name, beside named origins", () => {
    const { origins } = loadConfig({ CORS_ORIGINS: "https://a.example, *" });
    expect(origins.any).toBe(true);
    expect([...origins.named]).toEqual(["https://a.example"]);
  });

  test("loadConfig turns every rate limit off", () => {
    expect(loadConfig({ RATE_LIMIT: "off" }).rate).toBeNull();
  });

  test("loadConfig is frozen", () => {
    expect(Object.isFrozen(loadConfig({}))).toBe(true);
  });

  const wrong: [string, string][] = [
    ["PORT", "http"],
    ["PORT", "65536"],
    ["PORT", "-1"],
    ["HOST", "a b"],
    ["MONGODB_URI", "postgres://x"],
    ["MONGODB_DB_NAME", "a/b"],
    ["MONGODB_DB_NAME", "'chat'"],
    ["MONGODB_DB_NAME", '"chat"'],
    ["CORS_ORIGINS", "chat.example.org"],
    ["CORS_ORIGINS", "https://a.example/path"],
    ["CORS_ORIGINS", "https://*.example.org"],
    ["CORS_ORIGINS", "http://localhost:*,https://a.example"],
    ["CORS_ORIGINS", "*, https://chat.*"],
    ["MONGODB_URI", "mongodb:///school"],
    ["MONGODB_URI", "mongodb://localhost/a.b"],
    ["MONGODB_URI", "mongodb://localhost/%zz"],
    ["MONGODB_URI", "mongodb://local host/"],
    ["SQLITE_PATH", ":memory:"],
    ["SQLITE_PATH", "file:chat.db?mode=memory"],
    ["SQLITE_PATH", "sqlite:///srv/chat.db"],
    ["SQLITE_PATH", "SQLite:chat.db"],
    ["SQLITE_PATH", "~/chat.db"],
    ["SQLITE_PATH", "~"],
    ["SQLITE_PATH", '"/srv/chat.db"'],
    ["SQLITE_PATH", "'chat.db'"],
    ["SQLITE_PATH", "chat.db'"],
    ["MAX_MESSAGE_BYTES", "0"],
    ["MAX_MESSAGE_BYTES", "1e4"],
    ["MAX_FRAME_BYTES", "10"],
    ["OUTBOUND_LIMIT_BYTES", "1000"],
    ["RATE_LIMIT", "20"],
    ["RATE_LIMIT", "0/s"],
    ["MAX_IN_FLIGHT", "0"],
    ["PING_INTERVAL_MS", "1"],
    ["PING_TIMEOUT_MS", "never"],
    ["DRAIN_MS", "-5"],
    ["LOG_LEVEL", "loud"],
  ];
  for (const [name, value] of wrong) {
    test(`loadConfig refuses ${name}=${value} with one line that names it`, () => {
      const needsUri: Record<string, string> =
        name === "MONGODB_DB_NAME" ? { MONGODB_URI: "mongodb://localhost" } : {};
      const lines = faultsOf({ ...needsUri, [name]: value });
      expect(lines.length).toBe(1);
      expect(lines[0]).toStartWith(`${name} `);
    });
  }

  test("loadConfig tells all faults at once", () => {
    const lines = faultsOf({ PORT: "x", RATE_LIMIT: "y", LOG_LEVEL: "z" });
    expect(lines.map((line) => line.split(" ", 1)[0])).toEqual(["PORT", "RATE_LIMIT", "LOG_LEVEL"]);
  });

  test("loadConfig keeps the relations between ceilings", () => {
    expect(faultsOf({ MAX_MESSAGE_BYTES: "200000" }).map((line) => line.split(" ", 1)[0])).toEqual([
      "MAX_FRAME_BYTES",
      "OUTBOUND_LIMIT_BYTES",
    ]);
    expect(
      faultsOf({ MAX_MESSAGE_BYTES: "200000", MAX_FRAME_BYTES: "2000000", OUTBOUND_LIMIT_BYTES: "4000000" }),
    ).toEqual([]);
  });
});
