/** The only switch over stores. A store's code is loaded only when it is used. */

import type { MessageRepository, RepositoryWorld } from "./repository.ts";

export type StoreChoice =
  | { readonly kind: "sqlite"; readonly path: string }
  | { readonly kind: "mongodb"; readonly uri: string; readonly databaseName: string };

/** Opens the chosen store. Rejects with an Error whose message is one line for the operator when it cannot be used. */
export async function openRepository(
  choice: StoreChoice,
  world: RepositoryWorld,
): Promise<MessageRepository> {
  switch (choice.kind) {
    case "sqlite": {
      const { openSqliteRepository } = await import("./sqlite/open.ts");
      return openSqliteRepository({ ...world, path: choice.path });
    }
    case "mongodb": {
      const { openMongoRepository } = await import("./mongo/open.ts");
      return openMongoRepository({ ...world, uri: choice.uri, databaseName: choice.databaseName });
    }
  }
}
