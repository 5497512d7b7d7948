import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { fetchFrom } from "@orderbridge/core/testing";
import { afterAll, afterEach, expect, test, vi } from "vitest";
import { createFakeAmocrm, createFakeKaspi } from "../src/testing/index.ts";

const root = join(import.meta.dirname, "..");
const work = join(root, ".tmp");
const blocks = [...readFileSync(join(root, "README.md"), "utf8").matchAll(/^```ts\n([\s\S]*?)^```$/gm)];

afterEach(() => vi.unstubAllGlobals());
afterAll(() => rmSync(work, { recursive: true, force: true }));

async function run(number: number): Promise<readonly unknown[]> {
  mkdirSync(work, { recursive: true });
  const file = join(work, `block-${number}.ts`);
  writeFileSync(file, blocks[number]?.[1] ?? "");
  const printed: unknown[] = [];
  vi.stubGlobal("console", { ...console, log: (value: unknown) => printed.push(value) });
  await import(/* @vite-ignore */ pathToFileURL(file).href);
  return printed;
}

test("the first program of the README imports an order from the fake", async () => {
  const kaspi = createFakeKaspi();
  const amocrm = createFakeAmocrm();
  kaspi.addOrder({ code: "700000001", cellPhone: "7010000001", entries: [{ sku: "LAMP", basePrice: 7990 }] });
  const [toKaspi, toAmocrm] = [fetchFrom(kaspi.handle), fetchFrom(amocrm.handle)];
  const route: typeof fetch = (input, init) => {
    const { host } = new URL(input instanceof Request ? input.url : input);
    if (host === "kaspi.kz") return toKaspi(input, init);
    if (host === "demo.amocrm.ru") return toAmocrm(input, init);
    throw new Error(`the README calls ${host}`);
  };
  vi.stubGlobal("fetch", route);
  expect(await run(0)).toEqual([expect.objectContaining({ seen: 1, created: 1, failed: 0 })]);
  expect(amocrm.leads).toHaveLength(1);
});

test("the test program of the README prints what it says", async () => {
  expect(await run(2)).toEqual([799_000n]);
});

test("the program of the README that completes an order asks for the code and then gives it", async () => {
  const kaspi = createFakeKaspi();
  kaspi.addOrder({ code: "700000001", status: "ACCEPTED_BY_MERCHANT", entries: [{ basePrice: 1 }] });
  vi.stubGlobal("fetch", fetchFrom(kaspi.handle));
  await run(1);
  expect(kaspi.getOrder("700000001")?.status).toBe("COMPLETED");
  expect(kaspi.journal.count("POST /shop/api/v2/orders")).toBe(2);
});
