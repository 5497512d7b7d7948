import { type Attributes, type Meter, metrics, SpanKind, SpanStatusCode, type Tracer, trace } from "@opentelemetry/api";
import { systemClock } from "../clock.ts";
import type { Clock, Telemetry, TelemetryAttributes } from "../ports.ts";

export interface OpenTelemetryOptions {
  /** @defaultValue the tracer `@orderbridge/core` of the SDK that the program has registered */
  readonly tracer?: Tracer;
  /** @defaultValue the meter `@orderbridge/core` of the SDK that the program has registered */
  readonly meter?: Meter;
  readonly clock?: Clock;
}

/** Bounds of the buckets, in seconds: those of the semantic conventions for HTTP, and more for slow jobs. */
const explicitBucketBoundaries = [
  0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300,
];

/**
 * Spans and metrics of calls, jobs and deliveries for any OpenTelemetry SDK.
 *
 * | Instrument | Unit | Attributes |
 * | --- | --- | --- |
 * | `orderbridge.request.duration` | s | `orderbridge.vendor`, `.call`, `.outcome`, `http.response.status_code`, `error.type` |
 * | `orderbridge.request.wait` | s | `orderbridge.vendor` |
 * | `orderbridge.request.retries` | {retry} | `orderbridge.vendor`, `.call` |
 * | `orderbridge.job.duration` | s | `orderbridge.job`, `error.type` |
 * | `orderbridge.delivery.duration` | s | `orderbridge.topic`, `.outcome` |
 *
 * Each duration is also a span with the same attributes; a call that a job makes is a child of the job's span. Messages
 * of errors are left out, since those of a job may hold anything.
 */
export function createOpenTelemetry({
  tracer = trace.getTracer("@orderbridge/core"),
  meter = metrics.getMeter("@orderbridge/core"),
  clock = systemClock,
}: OpenTelemetryOptions = {}): Telemetry {
  const seconds = (name: string, description: string) =>
    meter.createHistogram(name, { unit: "s", description, advice: { explicitBucketBoundaries } });
  const durations = {
    request: seconds("orderbridge.request.duration", "One attempt of a call to a vendor"),
    job: seconds("orderbridge.job.duration", "One run of a job"),
    delivery: seconds("orderbridge.delivery.duration", "One delivery of an outbox message"),
  };
  const waits = seconds("orderbridge.request.wait", "Wait for a slot in the budget of an account");
  const retries = meter.createCounter("orderbridge.request.retries", {
    unit: "{retry}",
    description: "Repeated calls",
  });

  return {
    operation({ kind, name, attributes }, work) {
      const spanKind = kind === "request" ? SpanKind.CLIENT : SpanKind.INTERNAL;
      let known = toAttributes(attributes);
      return tracer.startActiveSpan(`${kind} ${name}`, { kind: spanKind, attributes: known }, async (span) => {
        const startedAt = clock.monotonicMs();
        const note = (more: TelemetryAttributes) => {
          const added = toAttributes(more);
          known = { ...known, ...added };
          span.setAttributes(added);
        };
        try {
          const result = await work(note);
          const { "orderbridge.outcome": outcome } = known;
          if (outcome === "retry" || outcome === "bury") span.setStatus({ code: SpanStatusCode.ERROR });
          return result;
        } catch (error) {
          known = { ...known, "error.type": error instanceof Error ? error.name : typeof error };
          span.setAttribute("error.type", known["error.type"] as string);
          span.setStatus({ code: SpanStatusCode.ERROR });
          throw error;
        } finally {
          span.end();
          durations[kind].record((clock.monotonicMs() - startedAt) / 1000, known);
        }
      });
    },
    waited(waitMs, attributes) {
      waits.record(waitMs / 1000, toAttributes(attributes));
    },
    retried(attributes) {
      retries.add(1, toAttributes(attributes));
    },
  };
}

function toAttributes(attributes: TelemetryAttributes): Attributes {
  return Object.fromEntries(
    Object.entries(attributes).map(([name, value]) => [
      name === "status" ? "http.response.status_code" : `orderbridge.${name}`,
      value,
    ]),
  );
}
