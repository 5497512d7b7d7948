import { silentLogger } from "@orderbridge/core";
import { listen } from "@orderbridge/core/testing";
import { chromium } from "playwright-core";
import { expect, test } from "vitest";
import { findChromium } from "../../../scripts/services.ts";
import { createResultHandler, createRobokassa, placeOrder } from "../src/index.ts";
import { createRobokassaMemoryStorage } from "../src/memory/index.ts";
import { createFakeRobokassa } from "../src/testing/index.ts";
import { demoShop } from "./shop-fixture.ts";

const executablePath = findChromium();

test.skipIf(!executablePath)("a person pays in the fake with a browser", { timeout: 60_000 }, async () => {
  const fake = createFakeRobokassa({ ...demoShop, retryDelaysMs: [] });
  const vendor = await listen(fake.handle);
  const robokassa = createRobokassa({ ...demoShop, apiUrl: vendor.url });
  const storage = createRobokassaMemoryStorage();
  const result = createResultHandler({ robokassa, storage, logger: silentLogger });
  const shop = await listen((request) =>
    new URL(request.url).pathname === "/result" ? result(request) : Promise.resolve(new Response("Thank you.")),
  );
  fake.configure({ resultUrl: `${shop.url}/result`, successUrl: `${shop.url}/success` });
  const browser = await chromium.launch({
    executablePath: executablePath as string,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
  });
  try {
    const page = await browser.newPage();
    const { paymentUrl } = await placeOrder({
      robokassa,
      storage,
      id: "order-1",
      total: "1000.00",
      description: "Қалам <b>&</b> дәптер",
      shp: { Shp_name: "Айгүл + 1%" },
    });
    await page.goto(paymentUrl);
    expect(await page.locator("main").textContent()).toContain("Қалам <b>&</b> дәптер");
    await page.getByRole("button", { name: "Pay" }).click();
    await page.waitForURL(/\/success\?/);
    expect(await page.locator("body").textContent()).toBe("Thank you.");
    expect(robokassa.verifySuccess(new URL(page.url()).search)).toMatchObject({
      ok: true,
      notification: { shp: { Shp_name: "Айгүл + 1%" } },
    });
    expect((await storage.orders.get("order-1"))?.status).toBe("paid");
  } finally {
    await browser.close();
    await shop.close();
    await vendor.close();
  }
});
