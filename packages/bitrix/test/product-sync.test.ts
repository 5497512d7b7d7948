import { silentLogger } from "@orderbridge/core";
import { fetchFrom } from "@orderbridge/core/testing";
import { describe, expect, test } from "vitest";
import { createProductSync, createWorker, productTopic } from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";
import { createFakeBitrixSite, type FakeBitrixSiteOptions } from "../src/testing/index.ts";

const id = 668826;

/** Backend and site that know product 668826 at version 1, unless `known` is false. */
async function setUp({ known = true, ...options }: Partial<FakeBitrixSiteOptions> & { readonly known?: boolean } = {}) {
  const storage = createBitrixMemoryStorage();
  const site = createFakeBitrixSite({
    backendUrl: "http://backend",
    webhookSecret: "site-webhook-secret",
    siteToken: "site-token",
    fetch: fetchFrom((request) => products.handle(request)),
    ...options,
  });
  const warnings: string[] = [];
  const products = createProductSync({
    storage,
    siteUrl: "http://site",
    siteToken: "site-token",
    secrets: ["site-webhook-secret"],
    fetch: fetchFrom(site.handle),
    logger: { ...silentLogger, warn: (message) => void warnings.push(message) },
  });
  const worker = createWorker({
    storage,
    handlers: { [productTopic]: products.push },
    logger: silentLogger,
    retryMs: 0,
  });
  site.addProduct({ id, name: "Эустомы", price: "4500.00" });
  if (known) await site.resendProduct(id);
  return { storage, site, products, worker, warnings };
}

test("500000 tiyn arrive on the site as 5000.00 tenge", async () => {
  const { site, products, worker } = await setUp();
  await products.update(String(id), { name: "Эустомы (Updated)", priceMinor: 500_000n, enabled: true });
  await worker.drain();
  expect(site.product(id)).toMatchObject({
    name: "Эустомы (Updated)",
    price: "5000.00",
    currency: "KZT",
    enabled: true,
  });
  expect(await products.get(String(id))).toMatchObject({ siteVersion: 2, pending: false, priceMinor: 500_000n });
  expect(await products.conflicts(String(id))).toEqual([]);
});

test.each(["accept", "refuse"] as const)(
  "pushes a product of which no version is known (site: %s)",
  async (withoutBase) => {
    const { site, products, worker } = await setUp({ known: false, withoutBase });
    await products.update(String(id), { priceMinor: 500_000n });
    await worker.drain();
    expect(site.product(id)).toMatchObject({ name: "Эустомы", price: "5000.00" });
    expect(await products.conflicts(String(id))).toEqual([]);
  },
);

describe("both sides change a product", () => {
  test("the site wins everywhere and the conflict is kept, when its webhook was lost", async () => {
    const { site, products, worker, warnings } = await setUp();
    await products.update(String(id), { priceMinor: 500_000n });
    await site.changeProduct(id, { price: "6000.00" }, { notify: false });
    await worker.drain();
    expect(site.product(id)?.price).toBe("6000.00");
    expect(await products.get(String(id))).toMatchObject({ priceMinor: 600_000n, siteVersion: 2, pending: false });
    expect(await products.conflicts(String(id))).toMatchObject([
      { ours: { priceMinor: 500_000n }, theirs: { priceMinor: 600_000n }, siteVersion: 2 },
    ]);
    expect(warnings).toHaveLength(1);
  });

  test("the same when the site's webhook comes before the push", async () => {
    const { site, products, worker } = await setUp();
    await products.update(String(id), { priceMinor: 500_000n });
    await site.changeProduct(id, { price: "6000.00" });
    await worker.drain();
    expect(site.product(id)?.price).toBe("6000.00");
    expect((await products.get(String(id)))?.priceMinor).toBe(600_000n);
    expect(await products.conflicts(String(id))).toHaveLength(1);
    expect(site.journal.count("PUT")).toBe(0);
  });

  test("the same values on both sides are no conflict", async () => {
    const { site, products, worker } = await setUp();
    await products.update(String(id), { priceMinor: 600_000n });
    await site.changeProduct(id, { price: "6000.00" }, { notify: false });
    await worker.drain();
    expect(await products.conflicts(String(id))).toEqual([]);
  });
});

test("a first price is not lost when the site was renamed meanwhile and speaks of no price", async () => {
  const { storage } = await setUp();
  const site = { name: "Эустомы", version: 1, price: undefined as string | undefined };
  const products = createProductSync({
    storage,
    siteUrl: "http://site",
    siteToken: "site-token",
    secrets: ["site-webhook-secret"],
    logger: silentLogger,
    fetch: async (_url, init) => {
      const { name, price, base } = JSON.parse(String(init?.body));
      if (base.version !== site.version) {
        return Response.json({ current: { name: site.name, enabled: true, version: site.version } }, { status: 409 });
      }
      Object.assign(site, { name, price, version: site.version + 1 });
      return Response.json({ version: site.version });
    },
  });
  await products.handle(
    new Request("http://backend/", {
      method: "POST",
      headers: { "x-webhook-secret": "site-webhook-secret" },
      body: JSON.stringify({ id: 5, name: "Эустомы", enabled: true, version: 1 }),
    }),
  );
  await products.update("5", { priceMinor: 500_000n });
  Object.assign(site, { name: "Эустомы белые", version: 2 }); // the manager; the webhook is lost
  await products.push("5");
  expect(site).toEqual({ name: "Эустомы белые", price: "5000.00", version: 3 });
  expect(await products.get("5")).toMatchObject({
    name: "Эустомы белые",
    priceMinor: 500_000n,
    siteVersion: 3,
    pending: false,
  });
});

test("a change that is taken back before its push is settled by the site's unchanged version", async () => {
  const { site, products, worker } = await setUp();
  await products.update(String(id), { priceMinor: 600_000n });
  await products.update(String(id), { priceMinor: 450_000n });
  await worker.drain();
  expect(site.journal.count("PUT ")).toBe(1);
  expect(await products.get(String(id))).toMatchObject({ siteVersion: 1, pending: false, sent: undefined });

  await products.update(String(id), { priceMinor: 700_000n });
  await worker.drain();
  expect(site.product(id)?.price).toBe("7000.00");
  expect(await products.get(String(id))).toMatchObject({ siteVersion: 2, pending: false });
});

test("a push whose reply was lost is not taken for a change of the site", async () => {
  const { site, products, worker } = await setUp({ backendUrl: undefined as never, known: false });
  await products.update(String(id), { priceMinor: 500_000n });
  site.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
  await worker.drain();
  expect(await products.get(String(id))).toMatchObject({ priceMinor: 500_000n, pending: false });

  site.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
  await products.update(String(id), { priceMinor: 510_000n });
  await worker.drain();
  // A second change between the lost reply and the next attempt: the site holds the first one, which was ours.
  site.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
  await products.update(String(id), { priceMinor: 520_000n });
  await products.push(String(id)).catch(() => undefined);
  await products.update(String(id), { priceMinor: 530_000n });
  await worker.drain();
  expect(site.product(id)?.price).toBe("5300.00");
  expect(await products.conflicts(String(id))).toEqual([]);
});

test("the site's echo of a push moves nothing", async () => {
  const { site, products, worker } = await setUp();
  await products.update(String(id), { priceMinor: 500_000n });
  await worker.drain();
  await site.resendProduct(id);
  await worker.drain();
  expect(site.journal.count("PUT")).toBe(1);
});

test("a change of the site comes back by its webhook, an older one is ignored", async () => {
  const { site, products } = await setUp();
  await site.changeProduct(id, { name: "Розы «Кремовые»", price: "1990.50", enabled: false });
  expect(await products.get(String(id))).toMatchObject({
    name: "Розы «Кремовые»",
    priceMinor: 199_050n,
    enabled: false,
  });
  const answer = await products.handle(
    new Request("http://backend/hook", {
      method: "POST",
      headers: { "x-webhook-secret": "site-webhook-secret" },
      body: JSON.stringify({ id, name: "old", price: "1.00", currency: "KZT", enabled: true, version: 1 }),
    }),
  );
  expect(await answer.json()).toEqual({ status: "ignored", reason: "stale" });
});

test.each([
  ["a wrong secret", "wrong-secret", { id, version: 9 }, 401],
  ["no version", "site-webhook-secret", { id }, 422],
  ["a price with three decimals", "site-webhook-secret", { id, version: 9, price: "1.005" }, 422],
])("the product webhook refuses %s", async (_case, secret, body, status) => {
  const { products } = await setUp();
  const headers = { "x-webhook-secret": secret };
  const request = new Request("http://backend/hook", { method: "POST", headers, body: JSON.stringify(body) });
  expect((await products.handle(request)).status).toBe(status);
});

test("a site that is down gets the push later, with the values of then", async () => {
  const { site, products, worker } = await setUp();
  site.faults.add({ fault: { kind: "failBeforeExecuting", status: 503 }, times: 3 });
  await products.update(String(id), { priceMinor: 500_000n });
  await worker.drain();
  expect(site.product(id)?.price).toBe("5000.00");
  expect(site.journal.count("PUT")).toBe(4);
});
