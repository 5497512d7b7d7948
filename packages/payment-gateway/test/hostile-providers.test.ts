import { fetchFrom } from "@orderbridge/core/testing";
import { afterEach, describe, expect, test } from "vitest";
import { registerKaspiSmartpos } from "../src/providers/kaspi-smartpos.ts";
import { openQr, openSmartpos, pressButton, type QrWorld, type SmartposWorld } from "./provider-worlds.ts";

// What comes in place of an answer: pages, nothing, wrong types, too much, and what a parser stumbles over.
const answers: readonly (readonly [string, string])[] = [
  ["nothing", ""],
  ["null", "null"],
  ["a list", "[]"],
  ["a page", "<!doctype html><title>502</title>"],
  ["an empty object", "{}"],
  ["half of an answer", '{"StatusCode":0,"statusCode":0,"Data":{"Stat'],
  ["no data", '{"StatusCode":0,"statusCode":0}'],
  ["data that is null", '{"StatusCode":0,"statusCode":0,"Data":null,"data":null}'],
  ["data that is a list", '{"StatusCode":0,"statusCode":0,"Data":[1],"data":[1]}'],
  ["data that is text", '{"StatusCode":0,"statusCode":0,"Data":"Processed","data":"success"}'],
  ["fields that are objects", '{"StatusCode":0,"statusCode":0,"Data":{"Status":{}},"data":{"status":{}}}'],
  ["a deep nest", "[".repeat(200_000)],
  ["twenty megabytes", `"${"x".repeat(20_000_000)}"`],
  [
    "a prototype",
    '{"StatusCode":0,"statusCode":0,"__proto__":{"Data":{"Status":"Processed"},"data":{"status":"success"}}}',
  ],
];
/** Paid, says the provider, but not how much. */
const sums: readonly string[] = ['"много"', "-500", "1e400", "{}", "[500]", "true", '"0.001"', '"0x1F4"', "0"];

let close: (() => Promise<void>) | undefined;
afterEach(async () => {
  await close?.();
  close = undefined;
});

/** A fetch that gives `instead` to calls of a path, and the fake's answers to all others. */
function between(fake: () => (request: Request) => Promise<Response>) {
  const trouble: { path: string | undefined; instead: string } = { path: undefined, instead: "" };
  let given = 0;
  const send: typeof fetch = async (input, init) => {
    const { pathname } = new URL(String(input));
    if (trouble.path !== undefined && pathname.includes(trouble.path)) {
      given++;
      return new Response(trouble.instead);
    }
    const headers = new Headers(init?.headers);
    headers.set("x-test-certificate", "shown");
    return fetchFrom(fake())(input, { ...init, headers });
  };
  return { trouble, send, asked: () => given };
}

describe("kaspi-qr", () => {
  async function open(scheme: "r2" | "r3" = "r3") {
    let qr: QrWorld | undefined;
    const { trouble, send, asked } = between(() => (qr as QrWorld).fake.handle);
    qr = await openQr({ scheme, options: { fetch: send }, readings: { status: "long" } });
    close = qr.world.close;
    const { payment } = await qr.world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
    const press = () => pressButton((qr as QrWorld).world, "kaspi-qr", payment.id, { action: "pay" });
    const get = async () => qr?.world.gateway.payments.get("shop", payment.id);
    return { ...qr, trouble, payment, press, get, asked };
  }

  test.each(answers)("%s in place of a state changes nothing; the next one counts", async (_name, instead) => {
    const { trouble, payment, press, get, pass, fake, remote } = await open();
    await press();
    Object.assign(trouble, { path: "/payment/status/", instead });
    fake.pay(remote(payment).id);
    await pass(30_000, 5_000);
    expect(await get()).toMatchObject({ status: "processing", paidMinor: 0n });
    trouble.path = undefined;
    await pass(120_000, 5_000);
    expect(await get()).toMatchObject({ status: "paid", paidMinor: 50_000n });
    expect((await get())?.needsAttention).toBeUndefined();
  });

  test.each(sums)("paid, with the sum %s, calls a person instead of a guess", async (sum) => {
    const { trouble, press, get, pass } = await open();
    await press();
    const instead = `{"StatusCode":0,"Data":{"Status":"Processed","Amount":${sum}}}`;
    Object.assign(trouble, { path: "/payment/status/", instead });
    await pass(10_000, 5_000);
    expect(await get()).toMatchObject({
      paidMinor: 0n,
      needsAttention: expect.stringContaining("the amount cannot be read"),
    });
  });

  test.each([
    ["ends in the year 9999", qrAnswer({ ExpireDate: "9999-12-31T00:00:00+05" }, { StatusPollingInterval: 300 })],
    ["is asked about once in 31 years", qrAnswer({}, { StatusPollingInterval: 1e9 })],
    ["waits for its payer for 31 years", qrAnswer({}, { StatusPollingInterval: 300, LinkActivationWaitTimeout: 1e9 })],
    ["is confirmed in 31 years", qrAnswer({}, { StatusPollingInterval: 300, PaymentConfirmationTimeout: 1e9 })],
  ])("a QR that %s does not keep its payment open for more than two days", async (_name, instead) => {
    const { trouble, press, get, pass, fake } = await open();
    Object.assign(trouble, { path: "/qr/create-link", instead });
    await press();
    Object.assign(trouble, {
      path: "/payment/status/",
      instead: '{"StatusCode":0,"Data":{"Status":"QrTokenCreated"}}',
    });
    await pass(50 * 3_600_000, 600_000);
    expect([(await get())?.status, fake.violations]).toEqual(["expired", []]);
  });

  test("a QR that may be asked about each millisecond is asked once a second", async () => {
    const { trouble, press, pass, asked } = await open();
    Object.assign(trouble, { path: "/qr/create-link", instead: qrAnswer({}, { StatusPollingInterval: 0.001 }) });
    await press();
    Object.assign(trouble, { path: "/payment/status/", instead: '{"StatusCode":0,"Data":{"Status":"Wait"}}' });
    const before = asked();
    await pass(3_000, 100);
    expect(asked() - before).toBe(3);
  });

  test("a refund QR that Kaspi does not find any more is replaced by a new one", async () => {
    const { trouble, payment, get, pass, fake, remote, context } = await open("r2");
    await context.pay(payment);
    await context.gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor: 10_000n });
    Object.assign(trouble, { path: "/return/status/", instead: '{"StatusCode":-99000001,"Message":"not found"}' });
    await pass(60_000, 30_000);
    trouble.path = undefined;
    expect(fake.journal.count("/return/create")).toBeGreaterThan(1);
    fake.scanReturns();
    await pass(120_000, 30_000);
    expect([remote(payment).returnedMinor, (await get())?.refundedMinor]).toEqual([10_000n, 10_000n]);
  });

  test.each<readonly [string, string]>([
    ...answers,
    ["a link that runs script", qrAnswer({ PaymentLink: "javascript:alert(1)" })],
    ["a link by plain HTTP", qrAnswer({ PaymentLink: "http://pay.kaspi.kz/pay/1" })],
    ["an interval of nothing", qrAnswer({}, { StatusPollingInterval: 0 })],
    ["an interval that is no number", qrAnswer({}, { StatusPollingInterval: "soon" })],
    ["an id that is an object", qrAnswer({ PaymentId: {} })],
  ])("%s in place of a QR shows nothing of it; the payer may try again", async (_name, instead) => {
    const { trouble, press, get, pass, provider, payment, fake, remote } = await open();
    Object.assign(trouble, { path: "/qr/create-link", instead });
    await press();
    await pass(70_000, 10_000);
    expect(await get()).toMatchObject({ status: "pending", paidMinor: 0n });
    expect(JSON.stringify(provider.payerStep((await get()) as never))).not.toContain("http");
    trouble.path = undefined;
    await press();
    fake.pay(remote(payment).id);
    await pass(5_000);
    expect((await get())?.status).toBe("paid");
  });

  test.each(answers)(
    "%s in place of what can be refunded sends nothing; the next one counts",
    async (_name, instead) => {
      const { trouble, payment, get, pass, fake, remote, context } = await open();
      await context.pay(payment);
      Object.assign(trouble, { path: "/payment/details", instead });
      await context.gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor: 10_000n });
      await pass(120_000, 30_000);
      expect([fake.journal.count("/payment/return"), (await get())?.refundingMinor]).toEqual([0, 10_000n]);
      trouble.path = undefined;
      await pass(300_000, 30_000);
      expect([remote(payment).returnedMinor, (await get())?.refundedMinor]).toEqual([10_000n, 10_000n]);
    },
  );
});

/** What `/qr/create-link` answers, with changes. */
function qrAnswer(change: object, behavior: object = {}): string {
  return JSON.stringify({
    StatusCode: 0,
    Data: {
      PaymentLink: "https://pay.kaspi.kz/pay/1",
      ExpireDate: "2026-11-01T05:03:00+05",
      PaymentId: 77,
      PaymentMethods: ["Gold"],
      PaymentBehaviorOptions: {
        StatusPollingInterval: 5,
        LinkActivationWaitTimeout: 180,
        PaymentConfirmationTimeout: 65,
        ...behavior,
      },
      ...change,
    },
  });
}

describe("kaspi-smartpos", () => {
  async function open() {
    let pos: SmartposWorld | undefined;
    const { trouble, send } = between(() => (pos as SmartposWorld).fake.handle);
    pos = await openSmartpos({ options: { fetch: send }, registered: false });
    await registerKaspiSmartpos(pos.options);
    close = pos.world.close;
    const { payment } = await pos.world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
    const press = () => pressButton((pos as SmartposWorld).world, "kaspi-smartpos", payment.id, { action: "pay" });
    const get = async () => pos?.world.gateway.payments.get("shop", payment.id);
    return { ...pos, trouble, payment, press, get };
  }

  test.each(answers)("%s in place of a state books nothing; money that came is found", async (_name, instead) => {
    const { trouble, press, get, pass, fake } = await open();
    await press();
    Object.assign(trouble, { path: "/v2/status", instead });
    fake.confirm();
    await pass(20_000, 1_000);
    expect(await get()).toMatchObject({ status: "processing", paidMinor: 0n });
    trouble.path = undefined;
    await pass(120_000, 1_000);
    expect(await get()).toMatchObject({ status: "paid", paidMinor: 50_000n });
  });

  test.each(sums)("paid, with the sum %s, calls a person instead of a guess", async (sum) => {
    const { trouble, press, get, pass } = await open();
    await press();
    const instead = `{"statusCode":0,"data":{"status":"success","amount":${sum},"chequeInfo":{"amount":${sum}}}}`;
    Object.assign(trouble, { path: "/v2/status", instead });
    await pass(2_000, 1_000);
    expect(await get()).toMatchObject({
      paidMinor: 0n,
      needsAttention: expect.stringContaining("the amount cannot be read"),
    });
  });

  test.each(answers)(
    "%s in place of the state of a refund ends nothing; the next one counts",
    async (_name, instead) => {
      const { trouble, payment, get, pass, fake, context } = await open();
      await context.pay(payment);
      await context.gateway.payments.refund({ merchant: "shop", id: payment.id, amountMinor: 10_000n });
      Object.assign(trouble, { path: "/v2/status", instead });
      fake.confirm();
      await pass(120_000, 30_000);
      expect(await get()).toMatchObject({ refundingMinor: 10_000n, refundedMinor: 0n });
      trouble.path = undefined;
      await pass(300_000, 30_000);
      expect(await get()).toMatchObject({ refundingMinor: 0n, refundedMinor: 10_000n });
      expect([(await get())?.needsAttention, fake.violations]).toEqual([undefined, []]);
    },
  );

  test.each(answers)("%s in place of a start: nothing else is started, a person is called", async (_name, instead) => {
    const { trouble, press, get, pass, fake } = await open();
    Object.assign(trouble, { path: "/v2/payment", instead });
    await press();
    trouble.path = undefined;
    await press();
    await pass(120_000, 10_000);
    expect(fake.journal.count("GET /v2/payment?")).toBe(0);
    expect(await get()).toMatchObject({
      status: "processing",
      needsAttention: expect.stringContaining("look at the terminal"),
    });
  });
});
