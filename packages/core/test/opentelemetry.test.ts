import { AsyncLocalStorage } from "node:async_hooks";
import { type Context, type ContextManager, context, ROOT_CONTEXT, SpanStatusCode } from "@opentelemetry/api";
import { DataPointType, MeterProvider, MetricReader } from "@opentelemetry/sdk-metrics";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  createHttpClient,
  createJobEngine,
  createOutboxWorker,
  createRateLimiter,
  type Delivery,
} from "../src/index.ts";
import { createMemoryStorage } from "../src/memory/index.ts";
import { createOpenTelemetry } from "../src/opentelemetry/index.ts";
import { createFakeClock } from "../src/testing/index.ts";

/** What an SDK for Node registers, so that a span knows its parent. */
const current = new AsyncLocalStorage<Context>();
const contextManager: ContextManager = {
  active: () => current.getStore() ?? ROOT_CONTEXT,
  with: (active, work, receiver, ...values) => current.run(active, () => work.call(receiver as never, ...values)),
  bind: (_context, target) => target,
  enable: () => contextManager,
  disable: () => contextManager,
};
beforeAll(() => {
  context.setGlobalContextManager(contextManager);
});
afterAll(() => {
  context.disable();
});

class Reader extends MetricReader {
  protected override async onShutdown(): Promise<void> {}
  protected override async onForceFlush(): Promise<void> {}
}

function setUp() {
  const exporter = new InMemorySpanExporter();
  const reader = new Reader();
  const clock = createFakeClock();
  const telemetry = createOpenTelemetry({
    tracer: new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }).getTracer("test"),
    meter: new MeterProvider({ readers: [reader] }).getMeter("test"),
    clock,
  });
  /** `name { attributes }: sum (count)` */
  const metrics = async () => {
    const { resourceMetrics } = await reader.collect();
    const lines = resourceMetrics.scopeMetrics.flatMap(({ metrics }) =>
      metrics.flatMap(({ descriptor, dataPointType, dataPoints }) =>
        dataPoints.map(({ attributes, value }) => {
          const amount =
            dataPointType === DataPointType.HISTOGRAM
              ? `${(value as { sum: number }).sum} (${(value as { count: number }).count})`
              : `${value}`;
          return `${descriptor.name} ${JSON.stringify(attributes)}: ${amount}`;
        }),
      ),
    );
    return lines.sort();
  };
  const spans = () =>
    exporter.getFinishedSpans().map((span) => ({
      name: span.name,
      attributes: span.attributes,
      failed: span.status.code === SpanStatusCode.ERROR,
      id: span.spanContext().spanId,
      parent: span.parentSpanContext?.spanId,
    }));
  return { clock, telemetry, metrics, spans, storage: createMemoryStorage({ clock }) };
}

test("measures each attempt of a call, its retries and its waits", async () => {
  const { clock, telemetry, metrics, spans, storage } = setUp();
  const answers = [502, 200];
  const limiter = createRateLimiter({
    vendor: "amocrm",
    account: "shop",
    budget: { intervalMs: 100 },
    store: storage.rateLimits,
    clock: { ...clock, sleep: async (ms) => clock.advance(ms) },
  });
  const client = createHttpClient({
    vendor: "amocrm",
    baseUrl: "https://shop.example/secret-path",
    limiter,
    clock,
    telemetry,
    minDelayMs: 1,
    fetch: async () => {
      clock.advance(250);
      return new Response("{}", { status: answers.shift() ?? 200 });
    },
  });
  await client.send({ name: "leads.list", path: "/leads?token=abc123" });
  expect(await metrics()).toEqual([
    'orderbridge.request.duration {"orderbridge.vendor":"amocrm","orderbridge.call":"leads.list","orderbridge.outcome":"executed","http.response.status_code":200}: 0.25 (1)',
    'orderbridge.request.duration {"orderbridge.vendor":"amocrm","orderbridge.call":"leads.list","orderbridge.outcome":"unknown","http.response.status_code":502,"error.type":"ApiError"}: 0.25 (1)',
    'orderbridge.request.retries {"orderbridge.vendor":"amocrm","orderbridge.call":"leads.list"}: 1',
    'orderbridge.request.wait {"orderbridge.vendor":"amocrm"}: 0.1 (2)',
  ]);
  expect(spans().map(({ name, failed }) => [name, failed])).toEqual([
    ["request amocrm leads.list", true],
    ["request amocrm leads.list", false],
  ]);
  expect(JSON.stringify(spans())).not.toMatch(/secret-path|abc123/);
});

test("measures the runs of a job, and knows which calls belong to it", async () => {
  const { clock, telemetry, metrics, spans, storage } = setUp();
  const client = createHttpClient({
    vendor: "kaspi",
    baseUrl: "https://shop.example",
    clock,
    telemetry,
    fetch: async () => new Response("{}"),
  });
  let runs = 0;
  const { runNow } = createJobEngine({
    leases: storage.leases,
    clock,
    telemetry,
    jobs: [
      {
        name: "import",
        everyMs: 60_000,
        async run() {
          await client.send({ name: "orders", path: "/orders" });
          clock.advance(2000);
          if (++runs === 2) throw new TypeError("phone +7 701 000 00 00 is wrong");
        },
      },
    ],
  });
  await runNow("import");
  await expect(runNow("import")).rejects.toThrow(TypeError);
  expect((await metrics()).filter((line) => line.includes(".job."))).toEqual([
    'orderbridge.job.duration {"orderbridge.job":"import","error.type":"TypeError"}: 2 (1)',
    'orderbridge.job.duration {"orderbridge.job":"import"}: 2 (1)',
  ]);
  const [call, job, , failedJob] = spans();
  expect([call?.name, job?.name]).toEqual(["request kaspi orders", "job import"]);
  expect(call?.parent).toBe(job?.id);
  expect([job?.failed, failedJob?.failed]).toEqual([false, true]);
  expect(JSON.stringify(spans())).not.toMatch(/phone|7 701/); // the ids are random, and may hold any digits
});

test("counts deliveries by their end, the last failed one as buried", async () => {
  const { clock, telemetry, metrics, spans, storage } = setUp();
  const deliveries: Delivery[] = [
    { state: "retry", error: "503" },
    { state: "retry", error: "503" },
    { state: "done" },
  ];
  const worker = createOutboxWorker({
    outbox: storage.outbox,
    topic: "webhook",
    retryDelaysMs: [1000],
    jitter: 0,
    clock,
    telemetry,
    deliver: async () => deliveries.shift() as Delivery,
  });
  await storage.outbox.enqueue([{ id: "a", topic: "webhook", key: "a", payload: "" }]);
  await worker.deliverDue();
  clock.advance(1000);
  await worker.deliverDue();
  await storage.outbox.redeliver("a");
  await worker.deliverDue();
  const about = (outcome: string) =>
    `orderbridge.delivery.duration {"orderbridge.topic":"webhook","orderbridge.outcome":"${outcome}"}: 0 (1)`;
  expect(await metrics()).toEqual(["bury", "done", "retry"].map(about));
  expect(spans().map(({ failed }) => failed)).toEqual([true, true, false]);
});

test("costs nothing and breaks nothing without an SDK", async () => {
  const { clock, storage } = setUp();
  const telemetry = createOpenTelemetry();
  const { runNow } = createJobEngine({
    leases: storage.leases,
    clock,
    telemetry,
    jobs: [{ name: "import", everyMs: 1000, run: async () => undefined }],
  });
  expect(await runNow("import")).toBe("done");
});
