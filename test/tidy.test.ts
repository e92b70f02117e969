/** Reads the source itself: what our rules forbid is found here, before a reviewer has to find it. */

import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const ROOT = resolve(import.meta.dir, "..");
const LINES_MAX = 450;

/** A file imports only from strictly lower ranks, or from its own folder; what stands here alone is a file of src/. */
const RANKS: Record<string, number> = {
  main: 7,
  cli: 7,
  service: 7,
  config: 7,
  http: 6,
  realtime: 6,
  chat: 5,
  repository: 4,
  bus: 4,
  auth: 4,
  engine: 4,
  observe: 3,
  client: 3,
  protocol: 2,
  runtime: 2,
  domain: 1,
  web: 1,
  limits: 0,
  errors: 0,
};

/** What a file of each folder may take from packages and the platform. Tests of a port stay free of their backends. */
const PACKAGES: Record<string, readonly string[]> = {
  domain: [],
  limits: [],
  errors: [],
  protocol: ["valibot"],
  observe: [],
  chat: [],
  bus: [],
  auth: [],
  config: ["valibot"],
  runtime: ["bun:ffi", "node:fs"],
  main: [],
  cli: ["node:util"],
  service: [],
  http: ["hono", "valibot"],
  realtime: [],
  engine: ["socket.io-parser", "@socket.io/bun-engine"],
  repository: ["bun:sqlite", "mongodb", "node:", "valibot"],
};

interface Source {
  readonly path: string;
  readonly text: string;
  readonly imports: readonly string[];
}

function filesUnder(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesUnder(path) : [path];
  });
}

const transpiler = new Bun.Transpiler({ loader: "ts" });
// The transpiler leaves out imports of types, and a type from a higher rank is as wrong as a value.
const IMPORT = /^\s*(?:import|export)\b[^"';]*?\bfrom\s*"([^"]+)"/gm;

const sources: Source[] = filesUnder(join(ROOT, "src"))
  .filter((path) => path.endsWith(".ts"))
  .map((path) => {
    const text = readFileSync(path, "utf8");
    const imports = new Set([
      ...transpiler.scanImports(text).map((found) => found.path),
      ...[...text.matchAll(IMPORT)].map((match) => match[1] as string),
    ]);
    return { path: relative(ROOT, path), text, imports: [...imports] };
  });

/** The folder of src/ that a file is in, or its own name where it lies in src/ itself. */
const folderOf = (path: string) => (path.split("/")[1] as string).replace(/\.ts$/, "");

describe("the source", () => {
  test("has files to look at", () => {
    expect(sources.length).toBeGreaterThan(25);
  });

  test("every folder of src/ has a rank", () => {
    expect(sources.map(({ path }) => folderOf(path)).filter((folder) => !(folder in RANKS))).toEqual([]);
  });

  test("a file imports only lower ranks, or its own folder", () => {
    const wrong: string[] = [];
    for (const { path, imports } of sources) {
      for (const imported of imports.filter((name) => name.startsWith("."))) {
        const target = relative(ROOT, resolve(ROOT, dirname(path), imported));
        if (!target.startsWith("src/") || folderOf(target) === folderOf(path)) continue;
        const allowed = (RANKS[folderOf(target)] as number) < (RANKS[folderOf(path)] as number);
        const program = RANKS[folderOf(path)] === 7 && dirname(path) === "src" && dirname(target) === "src";
        if (!allowed && !program) wrong.push(`${path} → ${target}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test("a package is used only where it belongs", () => {
    const wrong: string[] = [];
    for (const { path, imports } of sources) {
      const allowed = PACKAGES[folderOf(path)] ?? [];
      for (const imported of imports.filter((name) => !name.startsWith("."))) {
        const fits = allowed.some((name) =>
          name.endsWith(":")
            ? imported.startsWith(name)
            : imported === name || imported.startsWith(`${name}/`),
        );
        if (!fits) wrong.push(`${path} → ${imported}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test("only engine/ touches the engine's library, only open.ts chooses a store", () => {
    const touching = (name: RegExp) =>
      sources
        .filter(({ imports }) => imports.some((imported) => name.test(imported)))
        .map(({ path }) => path);
    for (const path of touching(/^@socket\.io\/bun-engine/)) expect(path).toMatch(/^src\/engine\//);
    const choosing = touching(/(^\.|repository)\/(sqlite|mongo)\/open\.ts$/);
    expect(choosing.filter((path) => path !== "src/repository/open.ts")).toEqual([]);
  });
});

describe("a source file", () => {
  const rules: [string, (source: Source) => boolean][] = [
    ["begins with a sentence that says what it is", ({ text }) => /^(#!.*\n)?\/\*\*/.test(text)],
    [`has at most ${LINES_MAX} lines`, ({ text }) => text.split("\n").length <= LINES_MAX],
    ["has no default export", ({ text }) => !/^export default/m.test(text)],
    [
      "silences no checker",
      ({ text }) => !/@ts-(ignore|nocheck|expect-error)|biome-ignore|\bas any\b|: any\b/.test(text),
    ],
    ["leaves nothing to do", ({ text }) => !/\b(TODO|FIXME|XXX)\b/.test(text)],
    [
      "is no drawer without a label",
      ({ path }) => !/(^|\/)(utils?|helpers?|common|misc|types|index)\.ts$/.test(path),
    ],
    ["has no relay of exports", ({ text }) => !/^export \* from/m.test(text)],
  ];
  for (const [rule, keeps] of rules) {
    test(rule, () => {
      expect(sources.filter((source) => !keeps(source)).map(({ path }) => path)).toEqual([]);
    });
  }
});

describe("the core", () => {
  const pure = sources.filter(({ path }) =>
    ["domain", "protocol", "limits", "errors"].includes(folderOf(path)),
  );
  const timeless = sources.filter(({ path }) => ["chat", "auth", "bus"].includes(folderOf(path)));

  test("is pure: no clock, no chance, no I/O, no await", () => {
    const impure =
      /\b(await|Date\.now|performance\.|Math\.random|crypto\.|process\.|Bun\.|fetch\(|setTimeout|setInterval)/;
    const code = (text: string) => text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/\/\/.*$/gm, "");
    expect(pure.filter(({ text }) => impure.test(code(text))).map(({ path }) => path)).toEqual([]);
  });

  test("is told the time and given its chance", () => {
    const hidden = /\b(Date\.now\(|new Date\(\)|performance\.now\(|Math\.random|randomUUID|process\.env)/;
    expect(timeless.filter(({ text }) => hidden.test(text)).map(({ path }) => path)).toEqual([]);
  });

  test("reads the environment in one place", () => {
    const readers = sources.filter(({ text }) => text.includes("process.env")).map(({ path }) => path);
    expect(readers.filter((path) => !["src/main.ts", "src/cli.ts"].includes(path))).toEqual([]);
  });

  test("keeps snake_case to the wire and to the stores' rows", () => {
    const free = sources.filter(({ path }) => ["domain", "chat", "bus", "auth"].includes(folderOf(path)));
    const field = /\b(user_id|received_at|client_id|first_seq|next_cursor|last_message_at)\s*[:?]/;
    const facts = (text: string) => text.replace(/facts: \{[^}]*\}/g, "").replace(/path: "[a-z_]+"/g, "");
    expect(free.filter(({ text }) => field.test(facts(text))).map(({ path }) => path)).toEqual([]);
  });
});

describe("the tests", () => {
  const tests = filesUnder(join(ROOT, "test"))
    .filter((path) => path.endsWith(".ts"))
    .map((path) => ({ path: relative(ROOT, path), text: readFileSync(path, "utf8") }))
    .filter(({ path }) => path !== "test/tidy.test.ts");

  test("none is skipped, singled out or left for later", () => {
    const skipped = /\b(test|it|describe)\.(only|skip|todo|skipIf|if|todoIf)\b/;
    expect(tests.filter(({ text }) => skipped.test(text)).map(({ path }) => path)).toEqual([]);
  });

  test("a test of a source file lies where its source does", () => {
    const mirrored = tests.filter(
      ({ path }) =>
        path.endsWith(".test.ts") && (path.split("/")[1] as string) in RANKS && path.split("/").length > 2,
    );
    const astray = mirrored.filter(({ path }) => {
      const source = path.replace(/^test\//, "src/").replace(/\.test\.ts$/, ".ts");
      const folder = dirname(source);
      const stem = source.slice(folder.length + 1).replace(/\.ts$/, "");
      // A noun may be split over several test files: sqlite/store-durability.test.ts tests sqlite/store.ts.
      return !sources.some(
        (file) => dirname(file.path) === folder && stem.startsWith(file.path.slice(folder.length + 1, -3)),
      );
    });
    expect(astray.map(({ path }) => path)).toEqual([]);
  });

  test("nobody waits by sleeping", () => {
    const waiting = tests.filter(
      ({ path, text }) => path.endsWith(".test.ts") && /\bBun\.sleep\(\s*[1-9]\d{2,}/.test(text),
    );
    expect(waiting.map(({ path }) => path)).toEqual([]);
  });
});

test("the documents name only files and folders that are there", () => {
  const documents = [
    ...filesUnder(join(ROOT, "docs")).filter((path) => path.endsWith(".md")),
    ...["README.md", "test/README.md"].map((path) => join(ROOT, path)),
  ];
  const files = new Set(
    ["src", "test", "docs", "examples"].flatMap((folder) => filesUnder(join(ROOT, folder))),
  );
  const names = new Set([...files].map((path) => path.slice(path.lastIndexOf("/") + 1)));
  // Words in code spans: `chat/feeds.ts` may be meant from the root, from src/ or from test/; `feeds.ts` from anywhere. Other
  // repositories' files have other endings, URLs begin with a slash.
  const file = /^[\w.-]+(\/[\w.-]+)*\.(ts|js|mjs|c|rs|py|html|md)$/;
  const folder = /^(src|test|docs|examples)\/([\w.-]+\/)*$/;
  const isThere = (name: string) =>
    name.includes("/")
      ? ["", "src", "test"].some((from) => existsSync(join(ROOT, from, name)))
      : names.has(name) || existsSync(join(ROOT, name));
  const named = documents.flatMap((path) =>
    [...readFileSync(path, "utf8").matchAll(/`([^`\n]+)`/g)]
      .flatMap(([, span]) => (span as string).split(" "))
      .filter((word) => file.test(word) || folder.test(word))
      .map((word) => ({ document: relative(ROOT, path), word })),
  );
  const links = documents.flatMap((path) =>
    [...readFileSync(path, "utf8").matchAll(/\]\(([\w./-]+)(#[^)]*)?\)/g)].map(([, link]) => ({
      document: relative(ROOT, path),
      link: link as string,
    })),
  );
  const isDead = ({ document, link }: { document: string; link: string }) =>
    !existsSync(resolve(ROOT, dirname(document), link));
  expect([named.length > 150, links.length > 10]).toEqual([true, true]);
  expect(links.filter(isDead)).toEqual([]);
  expect(
    named.filter(({ word }) => !isThere(word)).map(({ document, word }) => `${document}: ${word}`),
  ).toEqual([]);
});

test("no file names a machine's path", () => {
  const all = ["src", "test", "docs", "examples", "scripts", ".ci"].flatMap((folder) =>
    filesUnder(join(ROOT, folder)),
  );
  const machine = new RegExp(`(^|[^.\\w])/(${["wo" + "rk", "ro" + "ot", "ho" + "me"].join("|")})/\\w`, "m");
  const naming = all.filter(
    (path) => /\.(ts|md|json|html|yml|sh|py|js)$/.test(path) && machine.test(readFileSync(path, "utf8")),
  );
  expect(naming.map((path) => relative(ROOT, path))).toEqual([]);
});
