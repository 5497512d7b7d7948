import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type FetchHandler, silentLogger } from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createFakeClock, type FakeClock, fetchFrom, listen } from "@orderbridge/core/testing";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { type TestDatabase, testDatabases } from "../../core/test/databases.ts";
import { createPaymentGateway, type PaymentGateway, type PaymentProvider } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createKaspiQrProvider } from "../src/providers/kaspi-qr.ts";
import { createKaspiSmartposProvider } from "../src/providers/kaspi-smartpos.ts";
import { createFakeKaspiQr, createFakeKaspiSmartpos } from "../src/testing/index.ts";

vi.setConfig({ testTimeout: 60_000 }); // each starts a process

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "orderbridge-provider-kill-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A database that another process opens too; SQLite as a file. */
const shared = (name: string, open: () => Promise<TestDatabase>) =>
  name === "SQLite"
    ? async () => {
        const url = `sqlite:${join(folder, `${crypto.randomUUID()}.db`)}`;
        return { ...(await openDatabase(url)), url };
      }
    : open;

/** Kaspi acts on the first request that fits, and its caller is gone before the answer. */
async function killDuring(
  handle: FetchHandler,
  isFatal: (request: Request) => boolean,
  args: (origin: string) => readonly string[],
  clock: FakeClock,
): Promise<void> {
  let child: ChildProcess | undefined;
  const listening = await listen(async (request) => {
    const kills = isFatal(request);
    const answer = await handle(request);
    if (!kills) return answer;
    child?.kill("SIGKILL");
    return new Promise<never>(() => undefined);
  });
  try {
    child = spawn(process.execPath, [join(import.meta.dirname, "provider-kill.worker.ts"), ...args(listening.url)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let output = "";
    child.stdout?.on("data", (chunk) => {
      output += chunk;
    });
    const [, signal] = await once(child, "close");
    expect([signal, output]).toEqual(["SIGKILL", ""]);
    // The other process had the machine's clock; on a busy machine it wrote its attempt down much later.
    clock.advance(Math.max(0, Date.now() - clock.now().getTime()));
  } finally {
    await listening.close();
  }
}

const gatewayOn = (database: TestDatabase, provider: PaymentProvider, clock: FakeClock): PaymentGateway =>
  createPaymentGateway({
    storage: createPaymentGatewayStorage({ ...database, clock }),
    providers: [provider],
    publicUrl: "https://pay.example",
    logger: silentLogger,
    clock,
  });
const press = (gateway: PaymentGateway, name: string, id: string) =>
  gateway.handle(
    new Request(`https://pay.example/providers/${name}/${id}`, {
      method: "POST",
      body: new URLSearchParams({ action: "pay" }),
    }),
  );

describe.each(testDatabases())("a process killed between the provider's act and its answer, on $name", (storage) => {
  const { name, skipped, open } = storage;

  async function withQr(work: (world: Awaited<ReturnType<typeof openWorld>>) => Promise<void>): Promise<void> {
    const world = await openWorld();
    try {
      await work(world);
    } finally {
      await world.gateway.close();
      await world.database.close();
    }
  }
  async function openWorld() {
    const clock = createFakeClock(new Date());
    const database = await shared(name, open)();
    await createPaymentGatewayStorage(database).migrate();
    const fake = createFakeKaspiQr({ scheme: "r3", clock });
    const provider = createKaspiQrProvider({
      scheme: "r3",
      origin: "https://kaspi.test",
      organizationBin: "123456789012",
      deviceId: "till-1",
      tradePointId: "1001",
      remoteInvoices: true,
      clock,
      fetch: fetchFrom(fake.handle),
    });
    const gateway = gatewayOn(database, provider, clock);
    const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 100_000n });
    const get = async () => {
      const found = await gateway.payments.get("shop", payment.id);
      if (!found) throw new Error("there is no such payment");
      return found;
    };
    const pass = async (ms: number, stepMs: number) => {
      for (let passed = 0; passed < ms; passed += stepMs) {
        clock.advance(stepMs);
        await gateway.work();
      }
    };
    return { clock, database, fake, provider, gateway, id: payment.id, get, pass };
  }
  const endsWith =
    (path: string) =>
    ({ url }: Request): boolean =>
      new URL(url).pathname.endsWith(path);

  test.skipIf(skipped)("kaspi-qr: the QR that nobody saw is given up; the next one is the only one shown", () =>
    withQr(async ({ clock, database, fake, provider, gateway, id, get, pass }) => {
      await killDuring(
        fake.handle,
        endsWith("/qr/create-link"),
        (origin) => [database.url, origin, "kaspi-qr", "pay", id],
        clock,
      );
      expect([fake.payments.length, (await get()).status]).toEqual([1, "processing"]);
      // Whoever presses meanwhile does not begin a second one.
      await press(gateway, "kaspi-qr", id);
      expect(fake.payments).toHaveLength(1);
      await pass(70_000, 10_000);
      expect((await get()).status).toBe("pending");
      await press(gateway, "kaspi-qr", id);
      const [lost, shown] = fake.payments;
      expect(provider.payerStep(await get())).toEqual({ kind: "link", url: shown?.opens, scan: shown?.opens });
      expect(lost?.opens).not.toBe(shown?.opens);
    }),
  );

  test.skipIf(skipped)("kaspi-qr: an invoice that may be out is never sent again", () =>
    withQr(async ({ clock, database, fake, gateway, id, get, pass }) => {
      await killDuring(
        fake.handle,
        endsWith("/remote/create"),
        (origin) => [database.url, origin, "kaspi-qr", "invoice", id],
        clock,
      );
      await pass(3_600_000, 60_000);
      await press(gateway, "kaspi-qr", id);
      expect([fake.payments.length, (await get()).needsAttention]).toEqual([1, expect.stringContaining("invoice")]);
    }),
  );

  test.skipIf(skipped)("kaspi-qr: a refund that went through is found by looking, not repeated", () =>
    withQr(async ({ clock, database, fake, gateway, id, get, pass }) => {
      await press(gateway, "kaspi-qr", id);
      fake.pay(fake.payments[0]?.id ?? "");
      await pass(5_000, 5_000);
      expect((await get()).status).toBe("paid");
      await killDuring(
        fake.handle,
        endsWith("/payment/return"),
        (origin) => [database.url, origin, "kaspi-qr", "refund", id],
        clock,
      );
      expect(await get()).toMatchObject({ refundingMinor: 40_000n, refundedMinor: 0n });
      await pass(300_000, 10_000);
      expect(await get()).toMatchObject({ refundingMinor: 0n, refundedMinor: 40_000n });
      expect([fake.payments[0]?.returnedMinor, fake.journal.count("/payment/return")]).toEqual([40_000n, 1]);
    }),
  );

  test.skipIf(skipped)("kaspi-smartpos: a terminal that may have begun is never started again", async () => {
    const clock = createFakeClock(new Date());
    const database = await shared(name, open)();
    try {
      await createPaymentGatewayStorage(database).migrate();
      const tokens = createKyselyStorage({ db: database.db, dialect: database.dialect });
      await tokens.migrate();
      const fake = createFakeKaspiSmartpos({ clock });
      const provider = createKaspiSmartposProvider({
        origin: "https://till-1.kaspipos.kz:8080",
        name: "orderbridge",
        storage: tokens,
        clock,
        fetch: fetchFrom(fake.handle),
      });
      const gateway = gatewayOn(database, provider, clock);
      const { payment } = await gateway.payments.create({ merchant: "shop", amountMinor: 100_000n });
      await killDuring(
        fake.handle,
        ({ url }) => url.includes("/v2/payment"),
        (origin) => [database.url, origin, "kaspi-smartpos", "pay", payment.id],
        clock,
      );
      for (let minutes = 0; minutes < 60; minutes++) {
        clock.advance(60_000);
        await gateway.work();
      }
      await press(gateway, "kaspi-smartpos", payment.id);
      expect(fake.journal.count("GET /v2/payment?")).toBe(1);
      expect((await gateway.payments.get("shop", payment.id))?.needsAttention).toContain("look at the terminal");
      await gateway.close();
    } finally {
      await database.close();
    }
  });
});
