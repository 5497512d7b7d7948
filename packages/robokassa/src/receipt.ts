import { fromMinor, toMinor } from "./amount.ts";
import { InputError } from "./errors.ts";
import type { Shop } from "./shop.ts";

export type Country = "ru" | "kz";

const taxes: Readonly<Record<Country, readonly string[]>> = {
  // vat22 and vat122 since 2026; the 20 % codes remain for earlier sales.
  ru: [..."none vat0 vat5 vat7 vat10 vat20 vat22".split(" "), ..."vat105 vat107 vat110 vat120 vat122".split(" ")],
  // 16 % since 2026; vat12 remains for earlier sales.
  kz: "none vat0 vat5 vat12 vat16".split(" "),
};

const taxSystems = "osn usn_income usn_income_outcome esn patent".split(" ");

const paymentMethods = "full_prepayment prepayment advance full_payment partial_payment credit credit_payment".split(
  " ",
);

const paymentObjects = [
  ..."commodity excise job service gambling_bet gambling_prize lottery lottery_prize".split(" "),
  ..."intellectual_activity payment agent_commission composite resort_fee another property_right".split(" "),
  ..."non-operating_gain insurance_premium sales_tax".split(" "),
];

/** One line of a receipt. Give `sum` for the whole line or `cost` per piece, as decimal text. */
export interface ReceiptItem {
  /** At most 128 characters. */
  readonly name: string;
  /** Decimal text, up to three decimals: `"1"`, `"0.250"`. */
  readonly quantity: string;
  readonly sum?: string;
  readonly cost?: string;
  /** Russia: `none`, `vat0`, … `vat22`, `vat122`; Kazakhstan: `none`, `vat0`, `vat5`, `vat12`, `vat16`. */
  readonly tax: string;
  /** Russia only, as the next three. @defaultValue the cabinet's */
  readonly paymentMethod?: string;
  readonly paymentObject?: string;
  /** Marking code as printed on the pack. */
  readonly nomenclatureCode?: string;
}

/** Fiscal data of a payment (Russia: 54-FZ). */
export interface Receipt {
  /** Tax system, Russia only; needed when the seller has several. */
  readonly sno?: string;
  /** 1 to 100 lines whose sums are exactly the payment's. */
  readonly items: readonly ReceiptItem[];
}

/**
 * The compact JSON of a receipt, checked: known codes, lengths, and a total that equals the payment to the kopeck.
 *
 * Amounts are written as the digits that were given; no float is made of them.
 *
 * @throws {InputError} naming the line and field.
 * @see docs.robokassa.ru, "Fiscal receipts" (read 2025-11)
 */
export function receiptJson(receipt: Receipt, outSum: string, country: Country): string {
  if (receipt.sno !== undefined) {
    if (country === "kz") throw new InputError("receipt.sno", "does not exist in Kazakhstan; leave it out");
    if (!taxSystems.includes(receipt.sno)) {
      throw new InputError("receipt.sno", `must be one of ${taxSystems.join(", ")}`);
    }
  }
  if (!Array.isArray(receipt.items) || receipt.items.length < 1 || receipt.items.length > 100) {
    throw new InputError("receipt.items", "must hold 1 to 100 lines");
  }
  let total = 0n;
  const lines = receipt.items.map((item, index) => {
    const line = itemJson(item, `receipt.items[${index}]`, country);
    total += line.minor;
    return line.json;
  });
  if (total !== toMinor(outSum)) {
    throw new InputError("receipt.items", `add up to ${fromMinor(total)}, but the payment is ${outSum}`);
  }
  const sno = receipt.sno === undefined ? "" : `"sno":${JSON.stringify(receipt.sno)},`;
  return `{${sno}"items":[${lines.join(",")}]}`;
}

/** The value of a `Receipt` field, as it is sent and hashed. @throws {InputError} */
export function receiptField({ country, readings }: Shop, receipt: Receipt, outSum: string): string {
  const json = receiptJson(receipt, outSum, country);
  return readings.receiptSigning === "raw" ? json : encodeURIComponent(json);
}

function itemJson(item: ReceiptItem, field: string, country: Country): { json: string; minor: bigint } {
  const money = /^(0|[1-9]\d{0,7})(\.\d{1,2})?$/;
  const refuse = (name: string, problem: string): never => {
    throw new InputError(`${field}.${name}`, problem);
  };
  const oneOf = (name: string, value: string | undefined, allowed: readonly string[]): void => {
    if (value !== undefined && !allowed.includes(value)) refuse(name, `must be one of ${allowed.join(", ")}`);
  };
  if (typeof item.name !== "string" || item.name === "" || [...item.name].length > 128) {
    refuse("name", "must have 1 to 128 characters");
  }
  if (typeof item.quantity !== "string" || !/^(0|[1-9]\d{0,4})(\.\d{1,3})?$/.test(item.quantity)) {
    refuse("quantity", 'must be decimal text such as "1" or "0.250"');
  }
  const quantityMillis =
    BigInt(item.quantity.split(".")[0] ?? "0") * 1000n + BigInt((item.quantity.split(".")[1] ?? "").padEnd(3, "0"));
  if (quantityMillis === 0n) refuse("quantity", "must be more than zero");
  if ((item.sum === undefined) === (item.cost === undefined)) refuse("sum", "or cost is needed, and only one of them");
  for (const name of ["sum", "cost"] as const) {
    const value = item[name];
    if (value !== undefined && (typeof value !== "string" || !money.test(value))) {
      refuse(name, 'must be decimal text such as "100.00": at most 8 digits and two decimals');
    }
  }
  if (typeof item.tax !== "string") refuse("tax", "is missing");
  oneOf("tax", item.tax, taxes[country]);
  if (country === "kz") {
    for (const name of ["cost", "paymentMethod", "paymentObject", "nomenclatureCode"] as const) {
      if (item[name] !== undefined) refuse(name, "does not exist in Kazakhstan; leave it out");
    }
  }
  oneOf("paymentMethod", item.paymentMethod, paymentMethods);
  oneOf("paymentObject", item.paymentObject, paymentObjects);

  const parts = [
    `"name":${JSON.stringify(item.name)}`,
    `"quantity":${item.quantity}`,
    item.sum === undefined ? `"cost":${item.cost}` : `"sum":${item.sum}`,
  ];
  if (item.paymentMethod !== undefined) parts.push(`"payment_method":${JSON.stringify(item.paymentMethod)}`);
  if (item.paymentObject !== undefined) parts.push(`"payment_object":${JSON.stringify(item.paymentObject)}`);
  parts.push(`"tax":${JSON.stringify(item.tax)}`);
  if (item.nomenclatureCode !== undefined) parts.push(`"nomenclature_code":${JSON.stringify(item.nomenclatureCode)}`);
  const minor =
    item.sum !== undefined ? toMinor(item.sum) : (toMinor(item.cost as string) * quantityMillis + 500n) / 1000n;
  return { json: `{${parts.join(",")}}`, minor };
}
