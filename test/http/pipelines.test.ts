import { expect, test } from "bun:test";
import { LIMITS } from "../../src/limits.ts";
import { createMetrics } from "../../src/observe/metrics.ts";
import { createPipelines } from "../../src/http/pipelines.ts";

const nextTick = () => new Promise((resolve) => setImmediate(resolve));

/** Asks on a connection from that port: whether it is refused. */
function askingAt() {
  const metrics = createMetrics();
  const pipelines = createPipelines({ metrics });
  const request = new Request("http://chat.test/");
  const ask = (port: number | null) =>
    pipelines.refusal(request, { requestIP: () => (port === null ? null : { address: "::1", port }) });
  return { metrics, ask };
}

test("createPipelines refuses one connection's requests beyond the ceiling of a tick, and counts them", async () => {
  const { ask, metrics } = askingAt();
  for (let tick = 0; tick < 2; tick++) {
    await nextTick();
    for (let n = 0; n <= LIMITS.requestsPerTickMax; n++) expect(ask(1)).toBeUndefined();
  }
  const refused = ask(1);
  expect(refused?.status).toBe(503);
  expect(refused?.headers.get("connection")).toBe("close");
  expect(refused?.headers.get("retry-after")).toBe("1");
  expect(await refused?.json()).toMatchObject({ error: { code: "overloaded", retry_after_ms: 1_000 } });
  expect(metrics.snapshot().requests_overloaded_total).toBe(1);
});

test("createPipelines lets any number of connections ask in one tick, and those that have none", async () => {
  const { ask, metrics } = askingAt();
  await nextTick();
  for (let n = 0; n < 5 * LIMITS.requestsPerTickMax; n++) expect(ask(n)).toBeUndefined();
  for (let n = 0; n < 5; n++) expect(ask(null)).toBeUndefined();
  expect(metrics.snapshot().requests_overloaded_total).toBe(0);
});
