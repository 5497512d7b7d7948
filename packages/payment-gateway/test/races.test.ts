// Two real processes and more on one database: what must hold when they act in the same moment, are stopped, or told to end.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout } from "node:timers/promises";
import { silentLogger } from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { type Listening, listen } from "@orderbridge/core/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import type { NewPayment } from "../src/storage.ts";
import { createFakeReceiver, type FakeReceiver } from "../src/testing/index.ts";
import { type Bank, createBank, createBankProvider } from "./bank.ts";
import { startWorker, type WorkerProcess, workerToken } from "./processes.ts";

const isProof = process.env.PROOF === "1";

describe.each(testDatabases())("processes on $name", ({ name, skipped, open }) => {
  describe.skipIf(skipped)("", () => {
    let database: TestDatabase;
    let storage: ReturnType<typeof createPaymentGatewayStorage>;
    let folder: string | undefined;
    let bank: Bank;
    let banking: Listening;
    let receiver: FakeReceiver;
    let receiving: Listening;
    const workers: WorkerProcess[] = [];
    beforeEach(async () => {
      if (name === "SQLite") {
        folder = mkdtempSync(join(tmpdir(), "orderbridge-races-"));
        const url = `sqlite:${join(folder, "races.db")}`;
        database = { ...(await openDatabase(url)), url };
      } else database = await open();
      storage = createPaymentGatewayStorage(database);
      await storage.migrate();
      bank = createBank();
      receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
      [banking, receiving] = await Promise.all([listen((r) => bank.handle(r)), listen((r) => receiver.handle(r))]);
    });
    afterEach(async () => {
      await Promise.all(workers.splice(0).map((worker) => worker.signal("SIGKILL")));
      await Promise.all([banking.close(), receiving.close()]);
      await database.close();
      if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
    });

    async function startTwo(settings: object = {}): Promise<readonly [WorkerProcess, WorkerProcess]> {
      const start = () => startWorker({ databaseUrl: database.url, bankUrl: banking.url, ...settings });
      const two = await Promise.all([start(), start()]);
      workers.push(...two);
      return two;
    }
    const post = (worker: WorkerProcess | undefined, path: string, body: object, key?: string) =>
      fetch(`${worker?.url}${path}`, {
        method: "POST",
        headers: { "x-api-token": workerToken, ...(key === undefined ? {} : { "idempotency-key": key }) },
        body: JSON.stringify(body),
      });
    const init = (worker: WorkerProcess | undefined, key: string) =>
      post(
        worker,
        "/api/payment/init",
        { amount: 100, webhook_url: `${receiving.url}/hook`, webhook_secret: "test_secret_key" },
        key,
      );

    /** Whether somebody holds the write lock of SQLite for longer than a statement takes. */
    async function isLocked(): Promise<boolean> {
      await setTimeout(5); // a signal takes a moment
      const probe = new DatabaseSync(database.url.replace(/^sqlite:/, ""), { timeout: 100 });
      try {
        probe.exec("begin immediate; rollback");
        return false;
      } catch (error) {
        if (!/locked/.test(String(error))) throw error;
        return true;
      } finally {
        probe.close();
      }
    }

    const rounds = isProof ? 200 : 3;
    test(`fifty identical callbacks and fifty polls at once, ${rounds} times: one transition, one event`, {
      timeout: 600_000,
    }, async () => {
      const two = await startTwo();
      const polling = createPaymentGateway({
        storage,
        providers: [createBankProvider(banking.url)],
        publicUrl: "https://pay.example",
        webhooks: { allowAddresses: ["127.0.0.1"] },
        logger: silentLogger,
      });
      for (let round = 0; round < rounds; round++) {
        const created = (await (await init(two[round % 2], `round-${round}`)).json()) as {
          readonly data: { readonly transaction_id: string };
        };
        const id = created.data.transaction_id;
        bank.transfers.set(id, { transactionId: `t-${round}`, amountMinor: 10_000n });
        const callback = { id, transactionId: `t-${round}`, amountMinor: "10000" };
        const answers = await Promise.all(
          Array.from({ length: 50 }, async (_, index) => {
            // The fleet asks the bank while its callbacks arrive.
            await storage.scheduleCheck(id, { delayMs: 0 });
            const poll = polling.work();
            const answer = await post(two[index % 2], "/providers/bank/", callback);
            await poll;
            return (await answer.json()) as { readonly state: string };
          }),
        );
        const states = answers.map(({ state }) => state);
        expect(states.filter((state) => state === "booked").length).toBeLessThanOrEqual(1); // a poll may have been first
        expect(states.every((state) => state === "booked" || state === "duplicate")).toBe(true);
        const { events, bookings } = await storage.historyOf(id);
        expect([events.map(({ name: event }) => event), bookings.length]).toEqual([["paid"], 1]);
        expect((await storage.getPayment(id))?.paidMinor).toBe(10_000n);
      }
      await expect.poll(() => receiver.accepted.length, { timeout: 20_000 }).toBe(rounds);
      expect(receiver.requests).toHaveLength(rounds);
      await polling.close();
      recordProof(`gateway-callbacks-${name.toLowerCase()}`, { rounds, callbacks: rounds * 50, events: rounds });
    });

    test("fifty identical creations in two processes: one payment, one provider session, one answer", async () => {
      const two = await startTwo();
      const answers = await Promise.all(Array.from({ length: 50 }, (_, index) => init(two[index % 2], "order-7")));
      const texts = await Promise.all(answers.map((answer) => answer.text()));
      const done = texts.filter((_, index) => answers[index]?.status === 200);
      const others = texts.filter((_, index) => ![200, 409].includes(answers[index]?.status ?? 0));
      expect([others, two.map(({ errors }) => errors())]).toEqual([[], ["", ""]]);
      expect([done.length > 0, new Set(done).size]).toEqual([true, 1]);
      expect([bank.sessions.size, bank.sessionCalls]).toEqual([1, 1]);
      expect(await storage.listPayments({}, 10)).toHaveLength(1);
    });

    test("a process that is stopped with the chores in its hands and resumed after three leases has no double effect", {
      timeout: 60_000,
    }, async () => {
      await createKyselyStorage(database).migrate();
      const leaseTtlMs = 400;
      let isStopping = false;
      const { promise: isStopped, resolve } = Promise.withResolvers<number>();
      bank.onStateAsked = async (processId) => {
        if (isStopping) return;
        isStopping = true;
        process.kill(processId, "SIGSTOP"); // with an answer on its way that says "not paid"
        while (name === "SQLite" && (await isLocked())) {
          process.kill(processId, "SIGCONT"); // in a transaction, which would hold up everybody
          await setTimeout(3);
          process.kill(processId, "SIGSTOP");
        }
        resolve(processId);
      };
      const expiresAt = new Date(Date.now() - 1_000);
      const ids = Array.from({ length: 12 }, (_, index) => `p${index}`);
      for (const id of ids) {
        const payment: NewPayment = {
          id,
          merchant: "shop",
          provider: "bank",
          status: "pending",
          currency: "KZT",
          amountMinor: 10_000n,
          paidMinor: 0n,
          refundedMinor: 0n,
          refundingMinor: 0n,
          description: "",
          metadata: "{}",
          webhookUrl: `${receiving.url}/hook`,
          webhookSecret: "test_secret_key",
          late: false,
          test: false,
          sequence: 0,
          createdAt: expiresAt,
          updatedAt: expiresAt,
          expiresAt,
          version: 1,
        };
        await storage.createPayment(payment);
      }
      const claims = { checkClaimMs: 4_000, providerTimeoutMs: 2_000 };
      await startTwo({ leaseTtlMs, ...claims, expiryHoldMs: 0, pollIntervalMs: 50 });
      const processId = await isStopped;
      // The other one takes the chores over when lease and claims have ended, and does all of them.
      await expect.poll(() => receiver.accepted.length, { timeout: 20_000 }).toBe(ids.length);
      const { leases } = createKyselyStorage(database);
      const watch = await leases.acquire("three leases", { holder: "test", ttlMs: 3 * leaseTtlMs });
      await expect
        .poll(() => leases.acquire("three leases", { holder: "other", ttlMs: 1 }), { timeout: 10_000 })
        .toBeDefined();
      expect(watch).toBeDefined();
      process.kill(processId, "SIGCONT");
      // Both are alive again when a payment that is made now has been told.
      const created = await Promise.all(
        workers.map(async (worker, index) => {
          const answer = await init(worker, `after-${index}`);
          // Its connections to the bank may have ended while it stood still: then it asks to be called again.
          return answer.status === 502 ? init(worker, `after-${index}`) : answer;
        }),
      );
      for (const answer of created) {
        const { data } = (await answer.json()) as { readonly data: { readonly transaction_id: string } };
        await post(workers[0], "/providers/bank/", {
          id: data.transaction_id,
          transactionId: data.transaction_id,
          amountMinor: "10000",
        });
      }
      await expect.poll(() => receiver.accepted.length, { timeout: 20_000 }).toBe(ids.length + 2);
      expect(receiver.requests).toHaveLength(ids.length + 2);
      const histories = await Promise.all(ids.map((id) => storage.historyOf(id)));
      expect(histories.map(({ events }) => events.map(({ name: event }) => event))).toEqual(ids.map(() => ["expired"]));
    });

    test("SIGTERM under load: the process ends with 0, nothing is lost and nothing repeated", async () => {
      const two = await startTwo();
      const ids: string[] = [];
      const load = Array.from({ length: 60 }, async (_, index) => {
        const answer = await init(two[1], `load-${index}`);
        const { data } = (await answer.json()) as { readonly data: { readonly transaction_id: string } };
        ids.push(data.transaction_id);
        // Callbacks go to the one that stays; both deliver.
        await post(two[1], "/providers/bank/", {
          id: data.transaction_id,
          transactionId: `t-${index}`,
          amountMinor: "10000",
        });
      });
      await expect.poll(() => receiver.requests.length, { timeout: 10_000 }).toBeGreaterThan(3);
      const { code } = await two[0].signal("SIGTERM");
      workers.splice(workers.indexOf(two[0]), 1);
      await Promise.all(load);
      await expect.poll(() => receiver.accepted.length, { timeout: 20_000 }).toBe(60);
      expect([code, two[0].errors()]).toEqual([0, ""]);
      expect(receiver.requests).toHaveLength(60);
      const deliveries = (await Promise.all(ids.map((id) => storage.deliveriesOf(id)))).flat();
      expect(
        deliveries.every(({ state, attempts, log }) => state === "delivered" && attempts === 1 && log.length === 1),
      ).toBe(true);
    });

    test("eight writers whose commits are delayed: a reader of the cursor sees every event once, in the order of each payment", async () => {
      const perWriter = isProof ? 100 : 12;
      const base = (id: string): NewPayment => ({
        id,
        merchant: "shop",
        provider: "bank",
        status: "pending",
        currency: "KZT",
        amountMinor: 10_000n,
        paidMinor: 0n,
        refundedMinor: 0n,
        refundingMinor: 0n,
        description: "",
        metadata: "{}",
        late: false,
        test: false,
        sequence: 0,
        createdAt: new Date(),
        updatedAt: new Date(),
        expiresAt: new Date(Date.now() + 3_600_000),
        version: 1,
      });
      for (let writer = 0; writer < 8; writer++) await storage.createPayment(base(`w${writer}`));
      let open8 = 0;
      let mostOpen = 0;
      async function write(writer: number): Promise<void> {
        for (let count = 1; count <= perWriter; count++) {
          await database.db.transaction().execute(async (trx) => {
            open8++;
            mostOpen = Math.max(mostOpen, open8);
            await createPaymentGatewayStorage({ db: trx, dialect: database.dialect }).change(
              `w${writer}`,
              (payment) => ({
                payment: {
                  ...payment,
                  status: "paid",
                  paidMinor: payment.paidMinor + 10_000n,
                  sequence: payment.sequence + 1,
                },
                event: {
                  id: `evt_w${writer}_${count}`,
                  paymentId: payment.id,
                  merchant: "shop",
                  sequence: payment.sequence + 1,
                  name: "paid",
                  body: JSON.stringify({ id: `evt_w${writer}_${count}`, writer, sequence: payment.sequence + 1 }),
                  createdAt: new Date(),
                },
              }),
            );
            // Other writers commit while this transaction is still open.
            for (let turn = 0; turn < (writer * 7 + count) % 9; turn++) await new Promise((next) => setImmediate(next));
            open8--;
          });
        }
      }
      const seen: { readonly id: string; readonly writer: number; readonly sequence: number }[] = [];
      let cursor = 0;
      let isWritten = false;
      const reading = (async () => {
        for (;;) {
          const isLast = isWritten;
          const found = await storage.eventsAfter("shop", cursor, 7);
          for (const { body, position } of found) {
            seen.push(JSON.parse(body));
            cursor = position;
          }
          if (isLast && found.length === 0) return;
        }
      })();
      await Promise.all(Array.from({ length: 8 }, (_, writer) => write(writer)));
      isWritten = true;
      await reading;
      expect(seen).toHaveLength(8 * perWriter);
      expect(new Set(seen.map(({ id }) => id)).size).toBe(8 * perWriter);
      for (let writer = 0; writer < 8; writer++) {
        const own = seen.filter((event) => event.writer === writer).map(({ sequence }) => sequence);
        expect(own).toEqual(Array.from({ length: perWriter }, (_, index) => index + 1));
      }
      if (name !== "SQLite") expect(mostOpen).toBeGreaterThan(1); // there one writes at a time
      recordProof(`gateway-cursor-${name.toLowerCase()}`, { writers: 8, events: seen.length, missed: 0, doubled: 0 });
    });
  });
});
