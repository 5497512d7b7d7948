import { ApiError } from "@orderbridge/core";
import * as v from "valibot";
import { checkAmount } from "./amount.ts";
import { checkText } from "./errors.ts";
import { createServiceClient } from "./services.ts";
import type { Shop } from "./shop.ts";
import { checkCulture } from "./start.ts";
import { decodeXmlText, parseXml } from "./xml.ts";

/** One way to pay. */
export interface Currency {
  /** What `incCurrLabel` of a payment takes. */
  readonly label: string;
  readonly name: string;
  readonly alias: string | undefined;
  /** Decimal text as sent, where there is a limit. */
  readonly minValue: string | undefined;
  readonly maxValue: string | undefined;
}

export interface CurrencyGroup {
  readonly code: string;
  readonly description: string;
  readonly currencies: readonly Currency[];
}

/** What the shop's buyers may pay with. Unsigned queries; a shop that is not active gets none. */
export interface Catalog {
  /**
   * Ways to pay in their groups, as `GetCurrencies` lists them. Asked once a day per language; the answer in between is
   * the same object.
   *
   * @param language @defaultValue "ru"
   * @throws {ApiError} with `Result.Code` as `vendorCode`: 2 for a shop that is not active
   */
  currencies(language?: "ru" | "en"): Promise<readonly CurrencyGroup[]>;
  /**
   * What the shop gets when the buyer pays `incSum` by this way (`CalcOutSumm`), decimal text as sent. The method is gone
   * from the current documents.
   *
   * @throws {ApiError} with `Result.Code` as `vendorCode`
   */
  outSum(request: { readonly incCurrLabel: string; readonly incSum: string }): Promise<string>;
}

const dayMs = 86_400_000;
const text = v.pipe(v.string(), v.transform(decodeXmlText));
const result = v.object({ Code: v.pipe(v.string(), v.regex(/^\d{1,9}$/)) });

const currenciesSchema = v.object({
  Result: result,
  Groups: v.optional(
    v.union([
      v.object({
        Group: v.array(
          v.object({
            "@Code": text,
            "@Description": v.optional(text, ""),
            Items: v.optional(
              v.union([
                v.object({
                  Currency: v.array(
                    v.object({
                      "@Label": text,
                      "@Name": v.optional(text, ""),
                      "@Alias": v.optional(text),
                      "@MinValue": v.optional(text),
                      "@MaxValue": v.optional(text),
                    }),
                  ),
                }),
                v.literal(""), // an empty element
              ]),
            ),
          }),
        ),
      }),
      v.literal(""),
    ]),
  ),
});

const outSumSchema = v.object({ Result: result, OutSum: v.optional(text) });

/** @see docs.robokassa.ru, "XML interfaces" (read 2025-11) */
export function createCatalog(shop: Shop): Catalog {
  const client = createServiceClient(shop, "state");
  const known = new Map<string, { readonly at: number; readonly groups: readonly CurrencyGroup[] }>();

  async function ask<Schema extends v.GenericSchema<unknown, { readonly Result: { readonly Code: string } }>>(
    name: string,
    query: Readonly<Record<string, string>>,
    schema: Schema,
  ): Promise<v.InferOutput<Schema>> {
    const answer = await client.send({
      name,
      path: `/Merchant/WebService/Service.asmx/${name}`,
      query: new URLSearchParams({ MerchantLogin: shop.login, ...query }),
    });
    const parsed = parseXml(answer.text, { schema, name });
    const code = parsed.Result.Code;
    if (code === "0") return parsed;
    throw new ApiError(`robokassa: ${name} was refused: result ${code}`, {
      vendor: "robokassa",
      status: answer.status,
      vendorCode: code,
      outcome: "refused",
    });
  }

  return {
    async currencies(language = "ru") {
      checkCulture(language);
      const now = shop.clock.now().getTime();
      const kept = known.get(language);
      if (kept && now - kept.at < dayMs) return kept.groups;
      const { Groups } = await ask("GetCurrencies", { Language: language }, currenciesSchema);
      const groups = (Groups ? Groups.Group : []).map((group) => ({
        code: group["@Code"],
        description: group["@Description"],
        currencies: (group.Items ? group.Items.Currency : []).map((currency) => ({
          label: currency["@Label"],
          name: currency["@Name"],
          alias: currency["@Alias"],
          minValue: currency["@MinValue"],
          maxValue: currency["@MaxValue"],
        })),
      }));
      known.set(language, { at: now, groups });
      return groups;
    },
    async outSum({ incCurrLabel, incSum }) {
      const query = {
        IncCurrLabel: checkText("incCurrLabel", incCurrLabel, 100),
        IncSum: checkAmount("incSum", incSum),
      };
      const { OutSum } = await ask("CalcOutSumm", query, v.pipe(outSumSchema, v.check(hasOutSum, "OutSum")));
      return OutSum as string;
    },
  };
}

const hasOutSum = ({ Result, OutSum }: v.InferOutput<typeof outSumSchema>): boolean =>
  Result.Code !== "0" || OutSum !== undefined;
