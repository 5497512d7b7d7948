import * as v from "valibot";
import { decimalText, idText, optionalText, readAnswer, settle, yes } from "./answers.ts";
import type { Bitrix } from "./bitrix.ts";
import { InputError } from "./errors.ts";

/** A payment that was made out in a deal. */
export interface DealPayment {
  readonly id: string;
  readonly paid: boolean;
  /** Decimal text. */
  readonly sum: string;
  readonly currency: string;
  readonly paySystemId: string;
  /** ISO 8601 with offset. */
  readonly datePaid: string | undefined;
}

export interface DealPayments {
  /** Payments of one deal, by id. */
  ofDeal(dealId: string): Promise<readonly DealPayment[]>;
  /**
   * Marks a payment of the deal as paid, or takes it back. Nothing is called when it is so already, and a lost reply is
   * settled by a look.
   *
   * @throws {InputError} when the deal has no such payment.
   */
  setPaid(dealId: string, paymentId: string, paid: boolean): Promise<DealPayment>;
}

const paymentSchema = v.object({
  id: idText,
  paid: yes,
  sum: decimalText,
  currency: v.string(),
  paySystemId: idText,
  datePaid: optionalText,
});

/** "Payments" of the universal methods, apidocs.bitrix24.ru (read 2026-11). */
export function createDealPayments(bitrix: Pick<Bitrix, "call" | "list">): DealPayments {
  const method = "crm.item.payment.list";

  async function ofDeal(dealId: string): Promise<readonly DealPayment[]> {
    const payments: DealPayment[] = [];
    for await (const row of bitrix.list(method, { entityId: dealId, entityTypeId: 2 })) {
      const { datePaid, ...payment } = readAnswer(paymentSchema, row, method);
      payments.push({ ...payment, datePaid });
    }
    return payments;
  }

  async function read(dealId: string, paymentId: string): Promise<DealPayment> {
    const payment = (await ofDeal(dealId)).find(({ id }) => id === paymentId);
    if (!payment) throw new InputError("paymentId", "is not a payment of this deal");
    return payment;
  }

  return {
    ofDeal,
    async setPaid(dealId, paymentId, paid) {
      const before = await read(dealId, paymentId);
      if (before.paid === paid) return before;
      return settle({
        async write() {
          await bitrix.call(paid ? "crm.item.payment.pay" : "crm.item.payment.unpay", { id: paymentId });
          return read(dealId, paymentId);
        },
        async look() {
          const now = await read(dealId, paymentId);
          return now.paid === paid ? now : undefined;
        },
      });
    },
  };
}
