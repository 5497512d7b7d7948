import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type FetchHandler, silentLogger } from "@orderbridge/core";
import { fetchFrom, listen } from "@orderbridge/core/testing";
import jsqr from "jsqr";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { findChromium } from "../../../scripts/services.ts";
import { createPaymentGateway, type PaymentGateway } from "../src/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import { createKaspiQrProvider } from "../src/providers/kaspi-qr.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createFakeKaspiQr, type FakeKaspiQr } from "../src/testing/index.ts";

vi.setConfig({ testTimeout: 60_000 }); // a browser on a busy machine

const executablePath = findChromium();
const artefacts = join(import.meta.dirname, "../../../test-artifacts");

let browser: Browser;
let gateway: PaymentGateway;
let fake: FakeKaspiQr;
let url: string;
let close: () => Promise<void>;
let context: BrowserContext;
let problems: string[];

beforeAll(async () => {
  if (!executablePath) return;
  mkdirSync(artefacts, { recursive: true });
  browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"],
  });
  let handle: FetchHandler = async () => new Response(null, { status: 503 });
  const listening = await listen((request) => handle(request));
  fake = createFakeKaspiQr({ scheme: "r3", seconds: { polling: 1 } });
  gateway = createPaymentGateway({
    storage: createPaymentGatewayMemoryStorage(),
    providers: [
      createSandboxProvider(),
      createKaspiQrProvider({
        scheme: "r3",
        origin: "https://kaspi.test",
        organizationBin: "123456789012",
        deviceId: "till-1",
        tradePointId: "1001",
        remoteInvoices: true,
        fetch: fetchFrom(fake.handle),
      }),
    ],
    publicUrl: listening.url,
    logger: silentLogger,
  });
  handle = gateway.handle;
  url = listening.url;
  close = async () => {
    await browser.close();
    await gateway.close();
    await listening.close();
  };
});
afterAll(() => close?.());
beforeEach(() => {
  problems = [];
});
afterEach(async () => {
  await context?.close();
  expect(problems).toEqual([]);
});

/** A phone of 360 CSS pixels. */
async function openPhone(path: string, javaScriptEnabled = true): Promise<Page> {
  context = await browser.newContext({
    viewport: { width: 360, height: 740 },
    isMobile: true,
    hasTouch: true,
    javaScriptEnabled,
    locale: "ru-RU",
  });
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(error.message));
  await page.goto(`${url}${path}`);
  return page;
}

const create = async (provider: string, description = "Чайник «Ақ» & <чашки>") =>
  (await gateway.payments.create({ merchant: "shop", amountMinor: 500_050n, provider, description })).payment;

const press = (id: string, fields: Record<string, string>) =>
  gateway.handle(new Request(`${url}/providers/sandbox/${id}`, { method: "POST", body: new URLSearchParams(fields) }));

/** What another program than ours reads from the QR that is seen on the page. */
async function scan(page: Page): Promise<string | undefined> {
  const picture = (await page.locator("figure svg").screenshot()).toString("base64");
  const canvas = await context.newPage(); // the pay page itself allows no pictures
  const { pixels, width, height } = await canvas.evaluate<{
    pixels: number[];
    width: number;
    height: number;
  }>(`(async () => {
    const image = new Image();
    image.src = "data:image/png;base64,${picture}";
    await image.decode();
    const area = new OffscreenCanvas(image.width, image.height).getContext("2d");
    area.drawImage(image, 0, 0);
    const { data, width, height } = area.getImageData(0, 0, image.width, image.height);
    return { pixels: [...data], width, height };
  })()`);
  await canvas.close();
  return jsqr.default(Uint8ClampedArray.from(pixels), width, height)?.data;
}

const fitsPhone = async (page: Page): Promise<void> => {
  expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(360);
  for (const target of await page.locator("button:visible, a.button:visible").all()) {
    expect((await target.boundingBox())?.height).toBeGreaterThanOrEqual(44);
  }
};

describe.skipIf(!executablePath)("the pay page in a browser", () => {
  test("a change is shown without a reload, in the element that screen readers watch; the time runs down", async () => {
    const { id } = await create("sandbox");
    const page = await openPhone(`/pay/${id}`);
    await page.evaluate("window.isSame = true");
    const status = await page.getByRole("status").elementHandle();
    const left = await page.locator("time").textContent();
    expect(left).toMatch(/^(59:\d\d|01:00:00)$/);
    await page.getByText("Осталось времени:").waitFor();
    await press(id, { action: "pay_part", amount: "1000" });
    await page.getByText("Осталось оплатить: 4 000,50 ₸").waitFor();
    await press(id, { action: "pay" });
    await page.getByText("Оплачено. Спасибо!").waitFor();
    expect(await page.evaluate("window.isSame")).toBe(true);
    expect(await status?.evaluate((element) => element.isConnected)).toBe(true);
    await fitsPhone(page);
    await page.screenshot({ path: join(artefacts, "gateway-pay-paid.png"), fullPage: true });
  });

  test.each([
    ["ru", "Прислать счёт на телефон", "Телефон, к которому привязан Kaspi.kz"],
    ["kk", "Шотты телефонға жіберу", "Kaspi.kz тіркелген телефон"],
    ["en", "Send an invoice to my phone", "Phone that Kaspi.kz is registered on"],
  ])(
    "in %s every field has a label and every button a name, and all fits on a phone",
    async (language, button, label) => {
      const { id } = await create("kaspi-qr", "Ә".repeat(120));
      const page = await openPhone(`/pay/${id}?lang=${language}`);
      expect(await page.locator("html").getAttribute("lang")).toBe(language);
      await page.getByLabel(label).waitFor();
      await page.getByRole("button", { name: button }).waitFor();
      for (const input of await page.locator("input:not([type=hidden])").all()) {
        const inputId = await input.getAttribute("id");
        expect(await page.locator(`label[for="${inputId}"]`).count()).toBe(1);
      }
      expect(await page.locator("h1").count()).toBe(1);
      await fitsPhone(page);
      await page.screenshot({ path: join(artefacts, `gateway-pay-${language}.png`), fullPage: true });
    },
  );

  test("Kaspi: a press makes a link to the bank's page, its payment is seen without a reload", async () => {
    const payment = await create("kaspi-qr");
    const stop = new AbortController();
    const working = gateway.run(stop.signal);
    try {
      const page = await openPhone(`/pay/${payment.id}`);
      await page.getByRole("button", { name: "Оплатить" }).click();
      const link = page.getByRole("link", { name: "Открыть страницу оплаты" });
      await link.waitFor();
      const remote = fake.payments.find(({ externalId }) => externalId === payment.id);
      expect(await link.getAttribute("href")).toBe(remote?.opens);
      expect(await scan(page)).toBe(remote?.opens);
      fake.pay(remote?.id ?? "");
      await page.getByText("Оплачено. Спасибо!").waitFor();
      expect(await link.count()).toBe(0);
    } finally {
      stop.abort();
      await working;
    }
  });

  test.each([
    ["Русский", "ru", "Осталось оплатить: 4 000,50 ₸", "Оплачено. Спасибо!"],
    ["Қазақша", "kk", "Төлеуге қалды: 4 000,50 ₸", "Төленді. Рақмет!"],
    ["English", "en", "Left to pay: 4 000,50 ₸", "Paid. Thank you!"],
  ])("without JavaScript, in %s: chosen once, it stays until the end", async (name, language, left, paid) => {
    const { id } = await create("sandbox");
    const page = await openPhone(`/pay/${id}`, false);
    await page.getByRole("link", { name }).click();
    await page.locator("input[name=amount]").fill("1000");
    await page.locator("form:has(input[name=amount]) button").click();
    await page.getByText(left).waitFor();
    await page.locator("button.primary").click();
    await page.getByText(paid).waitFor();
    expect(await page.locator("html").getAttribute("lang")).toBe(language);
  });

  test("without JavaScript: the buttons work, the end is told in the payer's time, and the page asks again by itself", async () => {
    const { id, expiresAt } = await create("sandbox");
    const page = await openPhone(`/pay/${id}`, false);
    // UTC+5, as clocks in Kazakhstan show it.
    const local = new Date(expiresAt.getTime() + 5 * 3_600_000).toISOString().slice(11, 16);
    expect(await page.locator("time").textContent()).toContain(`${local} UTC+5`);
    await page.getByText("Оплатите до").waitFor();
    await page.getByLabel("Сумма").fill("1000,50");
    await page.getByRole("button", { name: "Оплатить сумму" }).click();
    await page.getByText("Осталось оплатить: 4 000,00 ₸").waitFor();
    const { id: other } = await create("sandbox");
    await page.goto(`${url}/pay/${other}`);
    await page.getByRole("button", { name: "Оплатить с задержкой" }).click();
    await page.getByText("Деньги в пути.").waitFor();
    expect(await page.locator("meta[http-equiv=refresh]").getAttribute("content")).toBe("10");
    await page.screenshot({ path: join(artefacts, "gateway-pay-without-javascript.png"), fullPage: true });
  });
});
