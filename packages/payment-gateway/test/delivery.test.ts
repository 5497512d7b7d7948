import { silentLogger } from "@orderbridge/core";
import { createFakeClock } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createDeliverer } from "../src/delivery.ts";
import type { ClaimedDelivery } from "../src/storage.ts";

const delivery: ClaimedDelivery = {
  id: "d1",
  eventId: "evt_1",
  eventName: "paid",
  paymentId: "p1",
  merchant: "shop",
  url: "https://shop.example/hook",
  endpointId: "",
  body: "{}",
  attempt: 1,
  scheduleAttempt: 1,
  secrets: ["test_secret_key"],
  claim: "c1",
};

test.each([
  { stoodStillMs: 30_000, posts: 1 },
  { stoodStillMs: 30_001, posts: 0 },
  { stoodStillMs: 46_000, posts: 0 },
])("a worker that stood still for $stoodStillMs ms after its claim sends $posts", async ({ stoodStillMs, posts }) => {
  const clock = createFakeClock(new Date("2026-11-01T00:00:00Z"));
  const sent: string[] = [];
  const stored: string[] = [];
  const deliverer = createDeliverer({
    storage: {
      async claimDeliveries({ lane }) {
        if (lane === "late") return [];
        clock.advance(stoodStillMs);
        return [delivery];
      },
      async finishDeliveries(finished) {
        stored.push(...finished.map((one) => one.delivery.eventId));
        return finished.map(() => true);
      },
    },
    sender: {
      async post(url) {
        sent.push(url);
        return { kind: "answer", status: 200, retryAfter: null, answer: "" };
      },
    },
    clock,
    logger: silentLogger,
    retryDelaysMs: [1000],
    concurrency: 8,
    concurrencyPerReceiver: 8,
    breaker: { failures: 10, pauseMs: 1, maxPauseMs: 1 },
    claimMs: 45_000,
    seedHeaders: true,
    random: () => 0.5,
  });
  await Promise.all(await deliverer.start());
  expect([sent.length, stored.length]).toEqual([posts, posts]);
});
