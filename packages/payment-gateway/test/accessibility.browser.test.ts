import { type FetchHandler, silentLogger } from "@orderbridge/core";
import { listen } from "@orderbridge/core/testing";
import axe from "axe-core";
import { type Browser, chromium } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { findChromium } from "../../../scripts/services.ts";
import { createPaymentGateway, type PaymentGateway } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";

vi.setConfig({ testTimeout: 60_000 }); // a browser on a busy machine

const executablePath = findChromium();
const password = "password-of-the-tests";
/** Rules of WCAG 2.1 A and AA, judged by axe-core, which knows nothing of ours. */
const rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"];

let browser: Browser;
let gateway: PaymentGateway;
let url: string;
let close: () => Promise<void>;
beforeAll(async () => {
  if (!executablePath) return;
  browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"],
  });
  let handle: FetchHandler = async () => new Response(null, { status: 503 });
  const listening = await listen((request) => handle(request));
  url = listening.url;
  gateway = createPaymentGateway({
    storage: createPaymentGatewayMemoryStorage(),
    providers: [createSandboxProvider()],
    publicUrl: url,
    admin: { password, sessionSecret: "a session secret of thirty-two characters" },
    logger: silentLogger,
  });
  handle = gateway.handle;
  close = async () => {
    await browser.close();
    await gateway.close();
    await listening.close();
  };
});
afterAll(() => close?.());

async function createPayment(...actions: readonly (readonly [action: string, amount?: string])[]): Promise<string> {
  const { payment } = await gateway.payments.create({
    merchant: "shop",
    amountMinor: 500_000n,
    description: "Чайник «Ақ»",
    metadata: '{"order_id":"A-17"}',
    webhookUrl: "https://shop.example/hook",
    webhookSecret: "test_secret_key",
  });
  for (const [action, amount = ""] of actions) {
    const body = new URLSearchParams({ action, amount });
    await gateway.handle(new Request(`${url}/providers/sandbox/${payment.id}`, { method: "POST", body }));
  }
  return payment.id;
}

describe.skipIf(!executablePath).each(["light", "dark"] as const)(
  "nobody is shut out, in %s colours",
  (colorScheme) => {
    /** What the rules find on each page, with the element. */
    async function problemsOf(paths: readonly string[], isAdmin = false): Promise<readonly string[]> {
      const context = await browser.newContext({ colorScheme, viewport: { width: 360, height: 740 } });
      try {
        const page = await context.newPage();
        if (isAdmin) {
          await page.goto(`${url}/admin/login`);
          await page.getByLabel("Password").fill(password);
          await page.getByRole("button", { name: "Log in" }).click();
          await page.getByRole("heading", { name: "Payments" }).waitFor();
        }
        const found: string[] = [];
        for (const path of paths) {
          await page.goto(`${url}${path}`);
          await page.evaluate(axe.source);
          const { violations, passes } = (await page.evaluate(
            `axe.run({ runOnly: ${JSON.stringify(rules)}, resultTypes: ["violations"] })`,
          )) as {
            readonly violations: readonly {
              readonly id: string;
              readonly nodes: readonly { readonly html: string }[];
            }[];
            readonly passes: readonly unknown[];
          };
          expect(passes.length).toBeGreaterThan(10); // it has looked
          for (const { id, nodes } of violations) {
            found.push(`${path} ${id}: ${nodes.map(({ html }) => html.slice(0, 160)).join(" | ")}`);
          }
        }
        return found;
      } finally {
        await context.close();
      }
    }

    test("from the pay page, in each language and state", async () => {
      const states = [
        await createPayment(),
        await createPayment(["pay_part", "10"]),
        await createPayment(["pay"]),
        await createPayment(["cancel"]),
        await createPayment(["delay"]),
      ];
      const inRussian = states.map((id) => `/pay/${id}?lang=ru`);
      // Words do not change with the colours.
      const others = colorScheme === "dark" ? [] : ["kk", "en"].map((language) => `/pay/${states[0]}?lang=${language}`);
      expect(await problemsOf([...inRussian, ...others, "/pay/unknown"])).toEqual([]);
    });

    test("from the documents", async () => {
      expect(await problemsOf(["/docs"])).toEqual([]);
    });

    test("from the admin pages", async () => {
      const paid = await createPayment(["pay"]);
      const open = await createPayment();
      await gateway.work();
      const paths = [
        "/admin",
        "/admin?q=nothing",
        `/admin/payments/${paid}`,
        `/admin/payments/${open}`,
        "/admin/health",
      ];
      expect(await problemsOf(["/admin/login"])).toEqual([]);
      expect(await problemsOf(paths, true)).toEqual([]);
    });
  },
);
