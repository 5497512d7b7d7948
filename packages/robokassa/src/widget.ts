import { InputError } from "./errors.ts";
import { checkOwnInvId } from "./inv-id.ts";
import { passwordsFor, type Shop } from "./shop.ts";
import { sign, signatureBase } from "./signature.ts";
import { type PaymentRequest, paymentForm } from "./start.ts";

export interface WidgetRequest extends PaymentRequest {
  /**
   * Left out: parameters of `Robokassa.StartPayment`, which opens the payment in a frame. `modal` and `widget` are for
   * `Robokassa.Render`; a widget also needs the element it is drawn in, which the page knows.
   */
  readonly mode?: "modal" | "widget";
}

/** What a page needs to pay in a frame. Everything is signed here; passwords never reach the browser. */
export interface Widget {
  /** Address of the script that the page loads first. */
  readonly script: string;
  /** Argument of `Robokassa.StartPayment(…)` or `Robokassa.Render(…)`, ready for `JSON.stringify`. */
  readonly parameters: Readonly<Record<string, string>>;
}

/**
 * The parameters and signature of a payment start, for the browser's scripts.
 *
 * @throws {InputError} naming the field.
 * @see docs.robokassa.ru, "Iframe" (read 2025-11)
 */
export function widget(shop: Shop, { mode, ...request }: WidgetRequest): Widget {
  if (mode !== undefined && mode !== "modal" && mode !== "widget") {
    throw new InputError("mode", 'must be "modal" or "widget"');
  }
  if (request.paymentMethods !== undefined && mode === undefined) {
    throw new InputError("paymentMethods", "stand in the settings of Render: set mode, or leave them out");
  }
  if (request.token !== undefined) throw new InputError("token", "starts at a page of its own: use paymentForm");
  const { fields } = paymentForm(shop, request);
  const parameters = fields.filter(([name]) => name !== "PaymentMethods");
  const settings = {
    ...(request.paymentMethods === undefined ? {} : { PaymentMethods: request.paymentMethods }),
    Mode: mode,
  };
  return {
    script: `${shop.hosts.payment}/Merchant/bundle/robokassa_iframe.js`,
    parameters: Object.fromEntries([
      ...parameters,
      ...(mode === undefined ? [] : [["Settings", JSON.stringify(settings)] as const]),
    ]),
  };
}

/**
 * The signature of a form in which the buyer chooses the sum: `MerchantLogin::InvId:Password1`, the sum's slot empty. The
 * form's `DefaultSum` is not signed. A shop in test mode signs with test password 1, and the form needs `IsTest=1`.
 *
 * @throws {InputError} for an InvId that is none.
 * @see docs.robokassa.ru, "Widgets" (read 2026-08)
 */
export function freeSumSignature(shop: Shop, invId: string | bigint): string {
  const number = checkOwnInvId(invId);
  const { password1 } = passwordsFor(shop, shop.test) ?? shop.live;
  return sign(signatureBase([shop.login, "", number, password1]), shop.algorithm);
}
