import { deepEqual, equal, notEqual, ok, rejects } from "node:assert/strict";
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
  /** Time passes in small steps, and the gateway works after each. */
  pass(ms: number): Promise<unknown>;
  /** The payer pays the whole amount, and the provider's report of it is lost. Left out: nobody could ask. */
  payUntold?(payment: Payment): Promise<unknown>;
  /** From now on the provider's side answers nothing that can be understood. Gives what ends that. Left out: it is never asked. */
  silence?(): () => void;
  /** The provider tells of the last `pay` again, with the same bytes. */
  repeat(): Promise<Response>;
  /** The payer begins at a provider with attempts; `pay` goes on from there, or begins by itself. */
  begin?(payment: Payment): Promise<unknown>;
  /** Attempts of a payment that the provider's own side knows. */
  begunAtProvider?(payment: Payment): number;
  /** Time passes and people act until a pending refund has ended. */
  settleRefunds?(): Promise<unknown>;
  /** Minor units that the provider's own side has given back of a payment. */
  refundedAtProvider?(payment: Payment): bigint;
  /** The answer to the next request that gives money back is lost, after the provider has acted. */
  loseRefundReply?(): void;
  /** The provider ends its side when a payment is cancelled, or the payment cannot be cancelled: no money comes after. */
  readonly neverLate?: boolean;
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
      if (context.neverLate) return;
      const payment = await create(context);
      await context.begin?.(payment);
      await context.gateway.payments.cancel(context.merchant, payment.id);
      await context.pay(payment);
      const { status, late } = await current(context, payment);
      deepEqual({ status, late }, { status: "paid", late: true });
    },
  },
  {
    name: "begins once when twenty ask at the same time, and not again while that is open",
    async run(context) {
      if (!context.begin) return;
      const payment = await create(context);
      await Promise.all(Array.from({ length: 20 }, () => context.begin?.(payment)));
      await context.begin(payment);
      equal(context.begunAtProvider?.(payment) ?? 1, 1);
      deepEqual(context.provider.attempts?.(await current(context, payment)).length, 1);
    },
  },
  {
    name: "never takes an unpaid payment for paid, from the first look to those after its end",
    async run(context) {
      const [payment, begun] = [await create(context), await create(context)];
      await context.begin?.(begun);
      for (const ms of [15_000, 300_000, 4_000_000]) {
        await context.pass(ms);
        equal((await current(context, payment)).paidMinor, 0n);
        equal((await current(context, begun)).paidMinor, 0n);
      }
    },
  },
  {
    name: "lets a payment expire that nobody began",
    async run(context) {
      const payment = await create(context);
      await context.pass(4_000_000);
      equal((await current(context, payment)).status, "expired");
    },
  },
  {
    name: "finds money whose report was lost, at the latest when the payment ends",
    async run(context) {
      if (!context.payUntold) return;
      const payment = await create(context);
      await context.payUntold(payment);
      await context.pass(4_000_000);
      const { status, paidMinor, late } = await current(context, payment);
      deepEqual({ status, paidMinor, late }, { status: "paid", paidMinor: 1_598_000n, late: false });
    },
  },
  {
    name: "loses no money of a payment that is cancelled just after it was paid without a report",
    async run(context) {
      if (!context.payUntold) return;
      const payment = await create(context);
      await context.payUntold(payment);
      const cancelled = await context.gateway.payments.cancel(context.merchant, payment.id).then(
        () => true,
        () => false, // the money was found
      );
      await context.pass(60_000);
      const { status, paidMinor, late } = await current(context, payment);
      deepEqual({ status, paidMinor, late }, { status: "paid", paidMinor: 1_598_000n, late: cancelled });
    },
  },
  {
    name: "lets nothing expire that may be paid while the provider's side does not answer",
    async run(context) {
      if (!context.silence) return;
      const payment = await create(context);
      await context.begin?.(payment);
      const answerAgain = context.silence();
      await context.pass(4_000_000);
      ok(!["expired", "cancelled", "paid"].includes((await current(context, payment)).status));
      answerAgain();
      await context.pass(60_000);
      equal((await current(context, payment)).paidMinor, 0n);
    },
  },
  {
    name: "gives back what was asked for, once for one key, and never more than was paid",
    async run(context) {
      const { gateway, merchant, provider } = context;
      if (!provider.refund) return;
      const payment = await create(context);
      await context.pay(payment);
      const request = { merchant, id: payment.id, amountMinor: 1_000_000n };
      const idempotency = { key: `refund-${payment.id}`, fingerprint: "1" };
      const first = await gateway.payments.refund({ ...request, idempotency });
      const again = await gateway.payments.refund({ ...request, idempotency });
      equal(again.refund.id, first.refund.id);
      await rejects(gateway.payments.refund(request));
      await context.settleRefunds?.();
      const { status, refundedMinor, refundingMinor } = await current(context, payment);
      deepEqual(
        { status, refundedMinor, refundingMinor },
        { status: "paid", refundedMinor: 1_000_000n, refundingMinor: 0n },
      );
      equal(context.refundedAtProvider?.(payment) ?? 1_000_000n, 1_000_000n);
      await gateway.payments.refund({ merchant, id: payment.id });
      await context.settleRefunds?.();
      equal((await current(context, payment)).status, "refunded");
      equal(context.refundedAtProvider?.(payment) ?? 1_598_000n, 1_598_000n);
    },
  },
  {
    name: "does not give money back twice when an answer is lost",
    async run(context) {
      if (!context.provider.refund || !context.loseRefundReply) return;
      const payment = await create(context);
      await context.pay(payment);
      context.loseRefundReply();
      await context.gateway.payments.refund({ merchant: context.merchant, id: payment.id, amountMinor: 500_000n });
      await context.settleRefunds?.();
      const { refundedMinor, refundingMinor } = await current(context, payment);
      const given = context.refundedAtProvider?.(payment) ?? 0n;
      ok(given <= 500_000n);
      // What nobody can know stays reserved for a person; what is known is booked.
      if (refundingMinor === 0n) equal(refundedMinor, given);
      else equal(refundingMinor, 500_000n);
    },
  },
];
