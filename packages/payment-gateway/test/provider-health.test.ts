import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDatabase } from "@orderbridge/core/kysely";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { runCommandLine } from "../src/cli-commands.ts";
import type { PaymentProvider } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createWorld, type World } from "./gateway-harness.ts";
import { type Store, stores } from "./stores.ts";

const admin = { password: "password-of-the-tests", sessionSecret: "a session secret of thirty-two characters" };
const day = 86_400_000;

interface Bank extends PaymentProvider {
  isDown: boolean;
  calls: number;
}

/** A bank that refuses to start payments as long as it is told to. */
function createBank(): Bank {
  return {
    name: "bank",
    currencies: { KZT: { stepMinor: 1n } },
    isDown: true,
    calls: 0,
    async start() {
      this.calls++;
      if (this.isDown) throw new Error(`bank is down: call ${this.calls}, Bearer planted-token-of-the-bank`);
      return {};
    },
    payerStep: () => ({ kind: "actions", actions: [] }),
  };
}

test("doctor of the command line tells of them too, and exits as if nothing were wrong", async () => {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-provider-health-"));
  const url = `sqlite:${join(folder, "gateway.db")}`;
  const database = await openDatabase(url);
  try {
    const storage = createPaymentGatewayStorage(database);
    await storage.migrate();
    const at = new Date();
    const last = { at, call: "refund", message: "bank is down" };
    await storage.recordProviderErrors({ provider: "bank", day: at, failures: 3, last });
    const out: string[] = [];
    const code = await runCommandLine(["doctor"], {
      variables: { DATABASE_URL: url },
      out: (text) => out.push(text),
      err: (text) => out.push(text),
      signal: AbortSignal.abort(),
    });
    expect(out).toContain(
      `failed calls to bank: 3 today, 3 in 14 days; the last one at ${at.toISOString()}, refund: bank is down`,
    );
    expect(code).toBe(0);
  } finally {
    await database.close();
    rmSync(folder, { recursive: true, force: true });
  }
});

describe.each(stores)("failures of providers on $name", ({ skipped, open }) => {
  describe.skipIf(skipped)("", () => {
    let world: World;
    let opened: Awaited<ReturnType<Store["open"]>>;
    const bank = createBank();
    beforeEach(async () => {
      Object.assign(bank, { isDown: true, calls: 0 });
      opened = await open();
      world = await createWorld(opened.storageFor, { providers: [bank], admin });
    });
    afterEach(async () => {
      await world.close();
      await opened.close();
    });

    type Gateway = World["gateway"];
    const create = (gateway: Gateway) =>
      gateway.payments.create({ merchant: "shop", amountMinor: 100n }).catch((error: Error) => error.message);

    /** The cells of the bank's row on the page of a process. */
    async function shown(gateway: Gateway): Promise<readonly string[]> {
      const login = await gateway.handle(
        new Request("https://pay.example/admin/login", {
          method: "POST",
          body: new URLSearchParams({ password: admin.password }),
        }),
      );
      const headers = { cookie: login.headers.get("set-cookie")?.split(";")[0] ?? "" };
      const page = await (await gateway.handle(new Request("https://pay.example/admin/health", { headers }))).text();
      return [...(/<tr><td>bank<\/td>.*?<\/tr>/.exec(page)?.[0] ?? "").matchAll(/<td>(.*?)<\/td>/g)].map(
        ([, cell]) => cell as string,
      );
    }

    test("are the sum over processes, survive a restart, and are forgotten after a month; calls that go well count nothing", async () => {
      const other = world.another();
      expect(await shown(other)).toEqual(["bank", "0", "0", ""]);
      const gateways = Array.from({ length: 20 }, (_, index) => (index % 2 ? other : world.gateway));
      expect(new Set(await Promise.all(gateways.map(create)))).toEqual(
        new Set(["the provider did not start the payment; repeat with the same key"]),
      );
      await Promise.all([world.gateway.close(), other.close()]); // as a server does at SIGTERM
      const restarted = world.another();
      expect(await shown(restarted)).toEqual([
        "bank",
        "20",
        "20",
        expect.stringMatching(/^2026-11-01 00:00:00 UTC start: bank is down: call \d+, Bearer \[redacted\]$/),
      ]);
      bank.isDown = false;
      await create(restarted);
      expect((await shown(restarted)).slice(0, 3)).toEqual(["bank", "20", "20"]);
      world.clock.advance(day);
      bank.isDown = true;
      await create(restarted);
      expect((await shown(restarted)).slice(0, 3)).toEqual(["bank", "1", "21"]);
      world.clock.advance(13 * day);
      expect((await shown(restarted)).slice(0, 3)).toEqual(["bank", "0", "1"]);
      world.clock.advance(20 * day);
      await restarted.work(); // the daily clean-up
      expect(await world.storage.providerErrors(new Date(0))).toEqual([]);
    });

    test("a failure is stored while its caller goes on; while the storage is away nothing is lost and no call fails for it", async () => {
      let isAway = true;
      let writes = 0;
      const gateway = world.another({
        storage: {
          ...world.storage,
          recordProviderErrors: async (errors) => {
            writes++;
            if (isAway) throw new Error("the storage is away");
            return world.storage.recordProviderErrors(errors);
          },
        },
      });
      for (let count = 0; count < 5; count++) expect(await create(gateway)).toContain("did not start");
      isAway = false;
      await Promise.all(Array.from({ length: 50 }, () => create(gateway)));
      // Without a restart, a page or a chore: a process that is killed now has told.
      await expect
        .poll(async () => (await world.storage.providerErrors(new Date(0))).map(({ failures }) => failures))
        .toEqual([55]);
      expect(writes).toBeLessThan(55); // those that come at once are written together
    });
  });
});
