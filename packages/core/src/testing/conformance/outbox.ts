import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import type { ClaimedMessage, OutboxMessage, OutboxStore } from "../../ports.ts";
import type { ConformanceCase, StorageContext } from "./context.ts";
import { bigText, longestKey, refusedKeys, similarKeys } from "./texts.ts";

const ten = { topic: "webhook", limit: 10, ttlMs: 1000 };

export const outboxCases: readonly ConformanceCase<StorageContext>[] = [
  {
    name: "outbox: hands out what was enqueued, unchanged",
    async run({ storage: { outbox }, clock }) {
      const createdAt = clock.now();
      equal(await outbox.enqueue([message("1", "a", { payload: bigText })]), 1);
      clock.advance(5);
      const [claimed] = await outbox.claim(ten);
      ok(claimed);
      const { claim, ...rest } = claimed;
      deepEqual(rest, { id: "1", topic: "webhook", key: "a", payload: bigText, attempt: 1, createdAt });
      ok(claim.length > 0);
    },
  },
  {
    name: "outbox: skips a second message with the same id, in one call and later",
    async run({ storage: { outbox } }) {
      equal(await outbox.enqueue([message("1", "a"), message("1", "a", { payload: "other" }), message("2", "b")]), 2);
      equal(await outbox.enqueue([message("1", "c"), message("3", "c")]), 1);
      equal((await outbox.get("1"))?.payload, "payload of 1");
      deepEqual(ids(await outbox.claim(ten)), ["1", "2", "3"]);
    },
  },
  {
    name: "outbox: takes an empty list",
    async run({ storage: { outbox } }) {
      equal(await outbox.enqueue([]), 0);
    },
  },
  {
    name: "outbox: claims the oldest first, up to the limit, of the asked topic",
    async run({ storage: { outbox } }) {
      await outbox.enqueue([message("1", "a"), message("2", "b"), message("3", "c"), message("4", "d")]);
      await outbox.enqueue([message("other", "a", { topic: "sync" })]);
      deepEqual(ids(await outbox.claim({ ...ten, limit: 2 })), ["1", "2"]);
      deepEqual(ids(await outbox.claim({ ...ten, limit: 2 })), ["3", "4"]);
      deepEqual(ids(await outbox.claim({ ...ten, limit: 2 })), []);
      deepEqual(ids(await outbox.claim({ ...ten, topic: "sync" })), ["other"]);
    },
  },
  {
    name: "outbox: hands out messages of one key one at a time, in order",
    async run({ storage: { outbox } }) {
      await outbox.enqueue([message("1", "a"), message("2", "a"), message("3", "b")]);
      const [first, other] = await outbox.claim(ten);
      deepEqual([first?.id, other?.id], ["1", "3"]);
      deepEqual(await outbox.claim(ten), []);
      equal(await outbox.complete(first as ClaimedMessage), true);
      deepEqual(ids(await outbox.claim(ten)), ["2"]);
    },
  },
  {
    name: "outbox: keeps later messages of a key waiting while the head waits for its time",
    async run({ storage: { outbox }, clock }) {
      await outbox.enqueue([message("1", "a", { delayMs: 500 }), message("2", "a")]);
      deepEqual(await outbox.claim(ten), []);
      clock.advance(499);
      deepEqual(await outbox.claim(ten), []);
      clock.advance(1);
      deepEqual(ids(await outbox.claim(ten)), ["1"]);
    },
  },
  {
    name: "outbox: hands an expired claim out again and refuses the former claimant",
    async run({ storage: { outbox }, clock }) {
      await outbox.enqueue([message("1", "a")]);
      const former = await claimOne(outbox);
      clock.advance(999);
      deepEqual(await outbox.claim(ten), []);
      clock.advance(1);
      const current = await claimOne(outbox);
      equal(current.attempt, 2);
      equal(await outbox.complete(former), false);
      equal(await outbox.retry(former, { delayMs: 0, error: "late" }), false);
      equal(await outbox.bury(former, "late"), false);
      equal((await outbox.get("1"))?.state, "pending");
      equal((await outbox.get("1"))?.lastError, undefined);
      equal(await outbox.complete(current), true);
      equal(await outbox.complete(current), false);
      equal((await outbox.get("1"))?.state, "delivered");
    },
  },
  {
    name: "outbox: completes several at once, and tells which claims were lost",
    async run({ storage: { outbox }, clock }) {
      await outbox.enqueue([message("1", "a"), message("2", "b"), message("3", "c"), message("4", "d")]);
      const [first, second] = await outbox.claim({ ...ten, limit: 2 });
      deepEqual(await outbox.completeAll([first, second] as ClaimedMessage[]), [true, true]);
      const [third] = await outbox.claim({ ...ten, limit: 1 });
      clock.advance(1000);
      const [again, fourth] = await outbox.claim(ten);
      const given = [third, fourth, { ...again, id: "unknown" }, again] as ClaimedMessage[];
      deepEqual(await outbox.completeAll(given), [false, true, false, true]);
      deepEqual(await outbox.completeAll(given), [false, false, false, false]);
      deepEqual(await outbox.completeAll([]), []);
      for (const id of ["1", "2", "3", "4"]) equal((await outbox.get(id))?.state, "delivered");
      deepEqual(await outbox.claim(ten), []);
    },
  },
  {
    name: "outbox: takes the verdict after the claim's life while nobody else claimed the message",
    async run({ storage: { outbox }, clock }) {
      await outbox.enqueue([message("1", "a")]);
      const claimed = await claimOne(outbox);
      clock.advance(5000);
      equal(await outbox.complete(claimed), true);
    },
  },
  {
    name: "outbox: hands a message out again after the delay of a retry",
    async run({ storage: { outbox }, clock }) {
      await outbox.enqueue([message("1", "a"), message("2", "a")]);
      equal(await outbox.retry(await claimOne(outbox), { delayMs: 250.5, error: "answered 503" }), true);
      const entry = await outbox.get("1");
      deepEqual([entry?.state, entry?.attempts, entry?.lastError], ["pending", 1, "answered 503"]);
      clock.advance(250);
      deepEqual(await outbox.claim(ten), []);
      clock.advance(1);
      const again = await claimOne(outbox);
      deepEqual([again.id, again.attempt], ["1", 2]);
    },
  },
  {
    name: "outbox: goes on with later messages of a key after a burial",
    async run({ storage: { outbox } }) {
      await outbox.enqueue([message("1", "a"), message("2", "a")]);
      equal(await outbox.bury(await claimOne(outbox), "gone\0 \uD83D"), true);
      const entry = await outbox.get("1");
      equal(entry?.state, "dead");
      ok(entry?.lastError?.startsWith("gone"));
      deepEqual(ids(await outbox.claim(ten)), ["2"]);
    },
  },
  {
    name: "outbox: delivers a dead or delivered message again, with the same payload, before later ones of its key",
    async run({ storage: { outbox } }) {
      await outbox.enqueue([message("1", "a"), message("2", "b")]);
      const [first, second] = await outbox.claim(ten);
      await outbox.complete(first as ClaimedMessage);
      await outbox.bury(second as ClaimedMessage, "gone");
      await outbox.enqueue([message("3", "a")]);
      equal(await outbox.redeliver("1"), true);
      equal(await outbox.redeliver("2"), true);
      equal(await outbox.redeliver("unknown"), false);
      const again = await outbox.claim(ten);
      deepEqual(
        again.map(({ id, payload, attempt }) => [id, payload, attempt]),
        [
          ["1", "payload of 1", 1],
          ["2", "payload of 2", 1],
        ],
      );
    },
  },
  {
    name: "outbox: does not hand out a redelivered message beside a newer one of its key",
    async run({ storage: { outbox }, clock }) {
      await outbox.enqueue([message("1", "a"), message("2", "a"), message("3", "b")]);
      for (const claimed of await outbox.claim(ten)) await outbox.complete(claimed); // 1 and 3
      const newer = await claimOne(outbox);
      equal(newer.id, "2");
      equal(await outbox.redeliver("1"), true);
      equal(await outbox.redeliver("3"), true); // another key waits for nobody
      deepEqual(ids(await outbox.claim(ten)), ["3"]);
      clock.advance(999);
      deepEqual(ids(await outbox.claim(ten)), []);
      clock.advance(1);
      deepEqual(
        ids(await outbox.claim(ten)).filter((id) => id !== "3"),
        ["1"],
      );
    },
  },
  {
    name: "outbox: shows when an ended message ended",
    async run({ storage: { outbox }, clock }) {
      await outbox.enqueue([message("1", "a"), message("2", "b"), message("3", "c"), message("4", "d")]);
      clock.advance(86_400_000);
      const [first, second, third, fourth] = await outbox.claim(ten);
      clock.advance(5);
      const endedAt = clock.now();
      await outbox.complete(first as ClaimedMessage);
      await outbox.completeAll([second as ClaimedMessage, third as ClaimedMessage]);
      await outbox.bury(fourth as ClaimedMessage, "gone");
      for (const id of ["1", "2", "3", "4"]) deepEqual((await outbox.get(id))?.dueAt, endedAt);
    },
  },
  {
    name: "outbox: leaves a claimed message with its claimant when it is asked to redeliver",
    async run({ storage: { outbox } }) {
      await outbox.enqueue([message("1", "a")]);
      const claimed = await claimOne(outbox);
      equal(await outbox.redeliver("1"), true);
      deepEqual(await outbox.claim(ten), []);
      equal(await outbox.complete(claimed), true);
    },
  },
  {
    name: "outbox: shows a message",
    async run({ storage: { outbox }, clock }) {
      const createdAt = clock.now();
      await outbox.enqueue([message("1", "a", { delayMs: 250 })]);
      deepEqual(await outbox.get("1"), {
        id: "1",
        topic: "webhook",
        key: "a",
        payload: "payload of 1",
        state: "pending",
        attempts: 0,
        createdAt,
        dueAt: new Date(createdAt.getTime() + 250),
      });
      equal(await outbox.get("2"), undefined);
    },
  },
  {
    name: "outbox: tells when a message can be claimed next",
    async run({ storage: { outbox }, clock }) {
      const inMs = (ms: number) => new Date(clock.now().getTime() + ms);
      equal(await outbox.nextDueAt("webhook"), undefined);
      await outbox.enqueue([
        message("1", "a", { delayMs: 400 }),
        message("2", "a"),
        message("3", "b", { delayMs: 900 }),
      ]);
      await outbox.enqueue([message("other", "a", { topic: "sync" })]);
      deepEqual(await outbox.nextDueAt("webhook"), inMs(400));
      clock.advance(400);
      deepEqual(await outbox.nextDueAt("webhook"), inMs(0));
      const first = await claimOne(outbox);
      deepEqual(await outbox.nextDueAt("webhook"), inMs(500));
      await outbox.retry(first, { delayMs: 100, error: "busy" });
      deepEqual(await outbox.nextDueAt("webhook"), inMs(100));
      clock.advance(600);
      for (const claimed of await outbox.claim(ten)) await outbox.complete(claimed);
      const last = await claimOne(outbox);
      deepEqual(await outbox.nextDueAt("webhook"), inMs(1000));
      await outbox.complete(last);
      equal(await outbox.nextDueAt("webhook"), undefined);
    },
  },
  {
    name: "outbox: hands each message to one of twenty claimants",
    async run({ storage: { outbox } }) {
      await outbox.enqueue(Array.from({ length: 30 }, (_, index) => message(`${index}`, `key ${index % 15}`)));
      const batches = await Promise.all(Array.from({ length: 20 }, () => outbox.claim({ ...ten, limit: 5 })));
      const claimed = batches.flat();
      equal(new Set(ids(claimed)).size, claimed.length);
      equal(Math.max(...claimed.map(({ attempt }) => attempt)), 1); // nobody took one over from another
      equal(new Set(claimed.map(({ key }) => key)).size, claimed.length);
      // Whoever saw nothing but messages that others took may go home empty-handed; together they leave none.
      const rest = await outbox.claim({ ...ten, limit: 100 });
      deepEqual(new Set(ids([...claimed, ...rest])), new Set(Array.from({ length: 15 }, (_, index) => `${index}`)));
    },
  },
  {
    name: "outbox: adds a message once for twenty contenders",
    async run({ storage: { outbox } }) {
      const added = await Promise.all(
        Array.from({ length: 20 }, (_, index) => outbox.enqueue([message("1", "a"), message(`own ${index}`, "b")])),
      );
      equal(
        added.reduce((sum, count) => sum + count, 0),
        21,
      );
    },
  },
  {
    name: "outbox: passes over messages whose destination has enough claimed ones, in one claim and over several",
    async run({ storage: { outbox }, clock }) {
      const fair = { ...ten, maxPerDestination: 2 };
      const slow = ["1", "2", "3", "4"].map((id) => message(id, `order ${id}`, { destination: "slow" }));
      await outbox.enqueue([...slow, message("5", "order 5", { destination: "quick" }), message("6", "slow")]);
      await outbox.enqueue([message("7", "order 7", { topic: "sync", destination: "slow" })]);
      const [first, ...others] = await outbox.claim(fair);
      deepEqual([first?.id, ...ids(others)], ["1", "2", "5"]); // "slow" is also the destination of 6, by its key
      for (const limit of [1, 10]) deepEqual(ids(await outbox.claim({ ...fair, limit })), []);
      deepEqual(ids(await outbox.claim({ ...fair, topic: "sync" })), ["7"]);
      equal(await outbox.complete(first as ClaimedMessage), true);
      deepEqual(ids(await outbox.claim(fair)), ["3"]);
      clock.advance(1000); // the claims have expired
      deepEqual(ids(await outbox.claim(fair)), ["2", "3", "5"]);
      deepEqual(ids(await outbox.claim(ten)), ["4", "6"]);
    },
  },
  {
    name: "outbox: tells similar ids, keys and topics apart",
    async run({ storage: { outbox } }) {
      for (const text of similarKeys) {
        equal(await outbox.enqueue([message(`id ${text}`, text, { topic: text })]), 1);
      }
      equal(await outbox.enqueue(similarKeys.map((text) => message(`key ${text}`, text))), similarKeys.length);
      equal((await outbox.claim(ten)).length, similarKeys.length);
      for (const topic of similarKeys) deepEqual(ids(await outbox.claim({ ...ten, topic })), [`id ${topic}`]);
    },
  },
  {
    name: "outbox: takes the longest id, topic and key, and refuses what cannot be stored",
    async run({ storage: { outbox } }) {
      const long = message(longestKey, longestKey, { topic: longestKey });
      equal(await outbox.enqueue([long]), 1);
      deepEqual(ids(await outbox.claim({ ...ten, topic: longestKey })), [longestKey]);
      for (const text of refusedKeys) {
        const refused = { name: "RangeError", message: /^message (id|key|topic|destination) / };
        await rejects(outbox.enqueue([message("1", "a"), message(text, "a")]), refused);
        await rejects(outbox.enqueue([message("1", text)]), refused);
        await rejects(outbox.enqueue([message("1", "a", { topic: text })]), refused);
        await rejects(outbox.enqueue([message("1", "a", { destination: text })]), refused);
      }
      await rejects(outbox.enqueue([message("1", "a", { payload: "\0" })]), {
        name: "RangeError",
        message: /^message payload /,
      });
      equal(await outbox.get("1"), undefined);
    },
  },
];

function message(id: string, key: string, options: Partial<OutboxMessage> = {}): OutboxMessage {
  return { id, topic: "webhook", key, payload: `payload of ${id}`, ...options };
}

function ids(messages: readonly ClaimedMessage[]): string[] {
  return messages.map(({ id }) => id);
}

async function claimOne(outbox: OutboxStore): Promise<ClaimedMessage> {
  const [claimed] = await outbox.claim({ ...ten, limit: 1 });
  ok(claimed);
  return claimed;
}
