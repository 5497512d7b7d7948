import { fromMinor, toMinor } from "./amount.ts";
import { checkObject, checkText, InputError } from "./errors.ts";
import type { Shop } from "./shop.ts";

export type Country = "ru" | "kz";

export const taxes: Readonly<Record<Country, readonly string[]>> = {
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
  /** The seller acts for somebody else; e.g. `{ type: "commission_agent" }`. Russia only, as `supplierInfo`. */
  readonly agentInfo?: { readonly type: string };
  /** For whom an agent sells. Phones as digits with a plus sign. */
  readonly supplierInfo?: { readonly name?: string; readonly inn?: string; readonly phones?: readonly string[] };
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
  checkObject("receipt", receipt);
  if (receipt.sno !== undefined) {
    if (country === "kz") throw new InputError("receipt.sno", "does not exist in Kazakhstan; leave it out");
    if (!taxSystems.includes(receipt.sno)) {
      throw new InputError("receipt.sno", `must be one of ${taxSystems.join(", ")}`);
    }
  }
  const sno = receipt.sno === undefined ? "" : `"sno":${JSON.stringify(receipt.sno)},`;
  return `{${sno}"items":[${linesJson(receipt.items, { field: "receipt.items", outSum, country, names: receiptNames })}]}`;
}

/**
 * The same lines as the services for invoices and refunds want them: capital names, and the price of a piece.
 *
 * @throws {InputError} naming the line and field; the lines must add up to `outSum`.
 * @see docs.robokassa.ru, "API of invoices" (read 2025-11)
 */
export function invoiceItemsJson(items: readonly ReceiptItem[], outSum: string, country: Country): string {
  return `[${linesJson(items, { field: "items", outSum, country, names: invoiceNames })}]`;
}

function linesJson(
  items: readonly ReceiptItem[],
  {
    field,
    outSum,
    country,
    names,
  }: {
    readonly field: string;
    readonly outSum: string;
    readonly country: Country;
    readonly names: ItemNames;
  },
): string {
  if (!Array.isArray(items) || items.length < 1 || items.length > 100) {
    throw new InputError(field, "must hold 1 to 100 lines");
  }
  let total = 0n;
  const lines = items.map((item, index) => {
    const line = itemJson(item, { field: `${field}[${index}]`, country, names });
    total += line.minor;
    return line.json;
  });
  if (total !== toMinor(outSum)) {
    throw new InputError(field, `add up to ${fromMinor(total)}, but the payment is ${outSum}`);
  }
  return lines.join(",");
}

/** Names of a line's fields on the wire; what is not there cannot be sent. */
type ItemNames = Readonly<Partial<Record<keyof ReceiptItem, string>>>;

const receiptNames: ItemNames = {
  name: "name",
  quantity: "quantity",
  sum: "sum",
  cost: "cost",
  paymentMethod: "payment_method",
  paymentObject: "payment_object",
  tax: "tax",
  nomenclatureCode: "nomenclature_code",
  agentInfo: "agent_info",
  supplierInfo: "supplier_info",
};

const invoiceNames: ItemNames = {
  name: "Name",
  quantity: "Quantity",
  cost: "Cost",
  paymentMethod: "PaymentMethod",
  paymentObject: "PaymentObject",
  tax: "Tax",
  nomenclatureCode: "NomenclatureCode",
};

/** Amounts and quantities stand as the digits that were given. */
const written: readonly (keyof ReceiptItem)[] = ["quantity", "sum", "cost"];

/** The value of a `Receipt` field, as it is sent and hashed. @throws {InputError} */
export function receiptField({ country, readings }: Shop, receipt: Receipt, outSum: string): string {
  const json = receiptJson(receipt, outSum, country);
  return readings.receiptSigning === "raw" ? json : encodeURIComponent(json);
}

function itemJson(
  item: ReceiptItem,
  { field, country, names }: { readonly field: string; readonly country: Country; readonly names: ItemNames },
): { json: string; minor: bigint } {
  if (typeof item !== "object" || item === null) throw new InputError(field, "must be a line with a name and a sum");
  const money = /^(0|[1-9]\d{0,7})(\.\d{1,2})?$/;
  const refuse = (name: string, problem: string): never => {
    throw new InputError(`${field}.${name}`, problem);
  };
  const oneOf = (name: string, value: string | undefined, allowed: readonly string[]): void => {
    if (value !== undefined && !allowed.includes(value)) refuse(name, `must be one of ${allowed.join(", ")}`);
  };
  checkText(`${field}.name`, item.name, 128);
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
    for (const name of Object.keys(receiptNames) as (keyof ReceiptItem)[]) {
      // The rule is about receipts; invoices and refunds have the price of a piece, and refuse sum below.
      const exists = ["name", "quantity", "sum", "tax"].includes(name) || (name === "cost" && names !== receiptNames);
      if (!exists && item[name] !== undefined) refuse(name, "does not exist in Kazakhstan; leave it out");
    }
  }
  oneOf("paymentMethod", item.paymentMethod, paymentMethods);
  oneOf("paymentObject", item.paymentObject, paymentObjects);
  if (item.nomenclatureCode !== undefined) checkText(`${field}.nomenclatureCode`, item.nomenclatureCode, 255);
  if (item.agentInfo !== undefined) checkText(`${field}.agentInfo.type`, item.agentInfo?.type, 100);
  if (item.supplierInfo !== undefined) checkSupplier(`${field}.supplierInfo`, item.supplierInfo);

  const parts: string[] = [];
  for (const name of Object.keys(receiptNames) as (keyof ReceiptItem)[]) {
    const value = item[name];
    if (value === undefined) continue;
    const wire = names[name];
    if (wire === undefined)
      return refuse(name, "does not exist in an invoice or refund; give the price of a piece as cost");
    parts.push(`"${wire}":${written.includes(name) ? value : JSON.stringify(value)}`);
  }
  const minor =
    item.sum !== undefined ? toMinor(item.sum) : (toMinor(item.cost as string) * quantityMillis + 500n) / 1000n;
  return { json: `{${parts.join(",")}}`, minor };
}

function checkSupplier(field: string, supplier: unknown): void {
  if (typeof supplier !== "object" || supplier === null) throw new InputError(field, "must hold name, inn or phones");
  const { name, inn, phones } = supplier as NonNullable<ReceiptItem["supplierInfo"]>;
  if (name !== undefined) checkText(`${field}.name`, name, 256);
  if (inn !== undefined && !(typeof inn === "string" && /^(\d{10}|\d{12})$/.test(inn))) {
    throw new InputError(`${field}.inn`, "must be 10 or 12 digits");
  }
  const arePhones = Array.isArray(phones) && phones.every((phone) => /^\+?\d{5,15}$/.test(String(phone)));
  if (phones !== undefined && !arePhones) throw new InputError(`${field}.phones`, "must be a list of digits");
}
