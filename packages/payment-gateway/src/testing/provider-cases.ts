import { deepEqual, equal, notEqual, ok } from "node:assert/strict";
import type { ConformanceCase } from "@orderbridge/core/testing";
import type { PaymentGateway } from "../gateway.ts";
import type { Payment } from "../payment.ts";
import type { PaymentProvider } from "../provider.ts";

/** A gateway with one provider, and the provider's own side. */
export interface ProviderCaseContext {
  readonly gateway: PaymentGateway;
  readonly provider: PaymentProvider;
  readonly merchant: string;
  /** The payer pays the whole amount. Gives the answer to the provider's report. */
  pay(payment: Payment): Promise<Response>;
  /** The provider tells of the last `pay` again, with the same bytes. */
  repeat(): Promise<Response>;
  /** Somebody else tells that the payment is paid. Left out: the provider has no secret, as a sandbox. */
  forge?(payment: Payment): Promise<Response>;
}

const create = async ({ gateway, provider, merchant }: ProviderCaseContext): Promise<Payment> => {
  const [currency] = Object.keys(provider.currencies) as [keyof PaymentProvider["currencies"]];
  const { payment } = await gateway.payments.create({
    merchant,
    amountMinor: 1_598_000n,
    currency,
    provider: provider.name,
    description: "Чайник «Ақ» & <чашки> + 100%",
  });
  return payment;
};

const current = async ({ gateway, merchant }: ProviderCaseContext, { id }: Payment): Promise<Payment> => {
  const payment = await gateway.payments.get(merchant, id);
  ok(payment);
  return payment;
};

/** What every {@link PaymentProvider} must do. */
export const providerCases: readonly ConformanceCase<ProviderCaseContext>[] = [
  {
    name: "declares currencies with a step above zero",
    async run({ provider: { currencies } }) {
      const steps = Object.values(currencies).map(({ stepMinor }) => stepMinor);
      ok(steps.length > 0);
      ok(steps.every((stepMinor) => stepMinor > 0n));
    },
  },
  {
    name: "tells the payer what to do next, the same on each look",
    async run(context) {
      const payment = await create(context);
      const step = context.provider.payerStep(payment);
      if (step.kind === "link") ok(URL.canParse(step.url));
      if (step.kind === "account") notEqual(step.account, "");
      if (step.kind === "actions") ok(step.actions.length > 0);
      deepEqual(context.provider.payerStep(await current(context, payment)), step);
    },
  },
  {
    name: "gives two payments steps that differ, where the step is the provider's",
    async run(context) {
      const [first, second] = [await create(context), await create(context)];
      const step = context.provider.payerStep(first);
      if (step.kind !== "actions") notEqual(JSON.stringify(step), JSON.stringify(context.provider.payerStep(second)));
    },
  },
  {
    name: "books what the payer paid, on the right payment",
    async run(context) {
      const [other, payment] = [await create(context), await create(context)];
      ok((await context.pay(payment)).status < 400);
      const { status, paidMinor, late, test } = await current(context, payment);
      deepEqual(
        { status, paidMinor, late, test },
        { status: "paid", paidMinor: 1_598_000n, late: false, test: context.provider.test ?? false },
      );
      equal((await current(context, other)).status, "pending");
    },
  },
  {
    name: "books a report once that comes twenty times at once, and answers each as the first",
    async run(context) {
      const payment = await create(context);
      const first = await context.pay(payment);
      const text = await first.text();
      const answers = await Promise.all(Array.from({ length: 20 }, () => context.repeat()));
      for (const answer of answers) deepEqual([answer.status, await answer.text()], [first.status, text]);
      const { paidMinor, sequence } = await current(context, payment);
      deepEqual({ paidMinor, sequence }, { paidMinor: 1_598_000n, sequence: 1 });
    },
  },
  {
    name: "books nothing of a forged report",
    async run(context) {
      if (!context.forge) return;
      const payment = await create(context);
      ok((await context.forge(payment)).status >= 400);
      equal((await current(context, payment)).paidMinor, 0n);
    },
  },
  {
    name: "books money that arrives after a payment was cancelled, as late",
    async run(context) {
      const payment = await create(context);
      await context.gateway.payments.cancel(context.merchant, payment.id);
      await context.pay(payment);
      const { status, late } = await current(context, payment);
      deepEqual({ status, late }, { status: "paid", late: true });
    },
  },
  {
    name: "never says that an unpaid payment is paid",
    async run(context) {
      const payment = await create(context);
      const state = await context.provider.state?.(payment);
      notEqual(state?.state, "paid");
    },
  },
  {
    name: "refunds, or has no such ability",
    async run(context) {
      if (!context.provider.refund) return;
      const payment = await create(context);
      await context.pay(payment);
      const request = { payment: await current(context, payment), amountMinor: 100n, key: "re_conformance" };
      const first = await context.provider.refund(request);
      equal(await context.provider.refund(request), first);
    },
  },
];
