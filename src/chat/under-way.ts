/** What has begun and not ended, and when all has ended that had begun by a moment: at one cost, however much that is. */

export interface UnderWay {
  count(): number;
  /** Something begins; to be called once when it ends. */
  begin(): () => void;
  /** Resolves when everything that began before this has ended, whatever begins meanwhile. */
  settled(): Promise<void>;
}

/** What began between two questions. */
interface Batch {
  open: number;
  isAwaited: boolean;
  readonly ended: PromiseWithResolvers<void>;
}

const newBatch = (): Batch => ({ open: 0, isAwaited: false, ended: Promise.withResolvers<void>() });

export function createUnderWay(): UnderWay {
  let count = 0;
  let batch = newBatch();
  /** The end of all batches before this one. */
  let before: Promise<unknown> = Promise.resolve();

  return {
    count: () => count,
    begin() {
      const mine = batch;
      mine.open += 1;
      count += 1;
      return () => {
        mine.open -= 1;
        count -= 1;
        if (mine.isAwaited && mine.open === 0) mine.ended.resolve();
      };
    },
    async settled() {
      if (batch.open > 0) {
        batch.isAwaited = true;
        before = Promise.all([before, batch.ended.promise]);
        batch = newBatch();
      }
      await before;
    },
  };
}
