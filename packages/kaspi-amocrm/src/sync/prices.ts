import type { Amocrm } from "../amocrm/client.ts";
import type { Lead } from "../amocrm/leads.ts";
import type { KaspiOrder } from "../kaspi/order.ts";
import { formatMinor, toMinor, toWholeUnits } from "../money.ts";

/** What the account takes as the price of a lead: exact where its leads tell minor units, else whole units. */
export interface LeadPrices {
  /** Every lead that is read shows what the account can. */
  learn(lead: Lead): void;
  /** What to write for orders, in minor units. Reads one page of leads when only they can tell. */
  of(orders: readonly KaspiOrder[]): Promise<ReadonlyMap<KaspiOrder, number | undefined>>;
}

export function createLeadPrices({ amocrm }: { readonly amocrm: Pick<Amocrm, "leads"> }): LeadPrices {
  let keepsFractions: boolean | undefined; // unknown while the account has no lead
  const learn = ({ exactPrice }: Lead): void => {
    keepsFractions = keepsFractions || exactPrice !== undefined; // old leads may lack what the account has
  };
  return {
    learn,
    async of(orders) {
      const hasFraction = orders.some(({ totalMinor = 0n }) => totalMinor % 100n !== 0n);
      if (hasFraction && keepsFractions === undefined) {
        let read = 0;
        for await (const lead of amocrm.leads.list({ order: { by: "id", direction: "desc" } })) {
          learn(lead);
          if (keepsFractions || ++read === 250) break;
        }
      }
      const price = ({ totalMinor }: KaspiOrder): number | undefined => {
        if (totalMinor === undefined) return undefined;
        return keepsFractions ? Number(totalMinor) : toWholeUnits(totalMinor) * 100;
      };
      return new Map(orders.map((order) => [order, price(order)]));
    },
  };
}

/** As it goes to amoCRM: 799050 -> 7990.5. */
export const priceToWire = (minor: number): number => Number(formatMinor(BigInt(minor)));

/** As exactly as the lead tells it, in minor units. */
export function leadPrice({ exactPrice, price }: Lead): number | undefined {
  const minor = toMinor(exactPrice ?? price);
  return minor === undefined ? undefined : Number(minor);
}
