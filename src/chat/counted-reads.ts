/** Counts the reads that a store refused, whichever store it is: a history or a join that could not be answered. */

import { asChatError } from "../errors.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { MessageRepository } from "../repository/repository.ts";

export function countReads(
  repository: MessageRepository,
  metrics: Pick<Metrics, "count">,
): MessageRepository {
  const counted =
    <A extends unknown[], R>(read: (...query: A) => Promise<R>) =>
    async (...query: A): Promise<R> => {
      try {
        return await read(...query);
      } catch (error) {
        const { code } = asChatError(error);
        metrics.count(code === "overloaded" ? "reads_overloaded_total" : "reads_failed_total");
        throw error;
      }
    };
  return {
    ...repository,
    head: counted(repository.head),
    heads: counted(repository.heads),
    readAfter: counted(repository.readAfter),
    readBefore: counted(repository.readBefore),
    readByUser: counted(repository.readByUser),
    readRooms: counted(repository.readRooms),
  };
}
