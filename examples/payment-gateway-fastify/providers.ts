// Ways to pay, each from its own variables, which are needed only where PROVIDERS names it.
import { ConfigError, type Logger, type Storage } from "@orderbridge/core";
import { createAddressList } from "@orderbridge/core/node";
import {
  configure,
  robokassaOptions,
  robokassaProblems,
  robokassaVariables,
  variables,
} from "@orderbridge/example-support";
import type { PaymentProvider } from "@orderbridge/payment-gateway";
import { createKaspiBillerProvider } from "@orderbridge/payment-gateway/providers/kaspi-biller";
import { createKaspiQrProvider } from "@orderbridge/payment-gateway/providers/kaspi-qr";
import { createKaspiSmartposProvider } from "@orderbridge/payment-gateway/providers/kaspi-smartpos";
import { createRobokassaProvider } from "@orderbridge/payment-gateway/providers/robokassa";
import { createSandboxProvider } from "@orderbridge/payment-gateway/providers/sandbox";
import { createRobokassa } from "@orderbridge/robokassa";

interface Surroundings {
  readonly storage: Pick<Storage, "tokens" | "leases">;
  readonly clientAddress: (request: Request) => string | undefined;
  readonly logger: Logger;
}
type Start = (surroundings: Surroundings) => PaymentProvider;

function kaspiBiller(): Start {
  const { KASPI_BILLER_ADDRESSES: addresses, KASPI_BILLER_FORMAT: format } = configure(
    {
      KASPI_BILLER_ADDRESSES: variables.optional(variables.list("the bank's addresses or CIDRs with commas")),
      KASPI_BILLER_FORMAT: variables.withDefault(variables.oneOf("json", "xml"), "json"),
    },
    (values) => addressProblems("KASPI_BILLER_ADDRESSES", values.KASPI_BILLER_ADDRESSES),
  );
  return ({ clientAddress }) =>
    createKaspiBillerProvider({ ...(addresses ? { addresses } : {}), format, clientAddress });
}

/** What is wrong with a list of addresses and CIDRs. */
export function addressProblems(name: string, addresses: readonly string[] = []): readonly string[] {
  try {
    createAddressList(addresses);
    return [];
  } catch (error) {
    if (!ConfigError.isInstance(error)) throw error;
    return [`${name}: ${error.message}`];
  }
}

/** Scheme r1. For r2 and r3 give the provider a `fetch` with the client certificate, in code. */
function kaspiQr(): Start {
  const settings = configure({
    KASPI_QR_API_URL: variables.origin("the host that Kaspi Pay named, e.g. https://mtokentest.kaspi.kz:8543"),
    KASPI_QR_API_KEY: variables.secret("the Api-Key that Kaspi Pay gave"),
    KASPI_QR_DEVICE_ID: variables.text("the name of this till: Latin letters, digits, dash, underscore"),
    KASPI_QR_TRADE_POINT_ID: variables.text("the id of the trade point"),
    KASPI_QR_SHOW: variables.withDefault(variables.oneOf("link", "qr"), "link"),
  });
  return ({ logger }) =>
    createKaspiQrProvider({
      scheme: "r1",
      origin: settings.KASPI_QR_API_URL,
      apiKey: settings.KASPI_QR_API_KEY,
      deviceId: settings.KASPI_QR_DEVICE_ID,
      tradePointId: settings.KASPI_QR_TRADE_POINT_ID,
      show: settings.KASPI_QR_SHOW,
      logger,
    });
}

/** The terminal must have been asked for tokens once: `registerKaspiSmartpos` of the provider's entry. */
function kaspiSmartpos(): Start {
  const settings = configure({
    KASPI_SMARTPOS_API_URL: variables.origin("the terminal, e.g. https://till.kaspipos.kz:8080"),
    KASPI_SMARTPOS_NAME: variables.text("what this till is called on the terminal"),
  });
  return ({ storage, logger }) =>
    createKaspiSmartposProvider({
      origin: settings.KASPI_SMARTPOS_API_URL,
      name: settings.KASPI_SMARTPOS_NAME,
      storage,
      logger,
    });
}

function robokassa(): Start {
  const shop = configure(robokassaVariables, robokassaProblems);
  const client = createRobokassa(robokassaOptions(shop));
  return () =>
    createRobokassaProvider({ robokassa: client, currency: shop.ROBOKASSA_COUNTRY === "kz" ? "KZT" : "RUB" });
}

export const knownProviders: Readonly<Record<string, () => Start>> = {
  sandbox: () => () => createSandboxProvider(),
  "kaspi-biller": kaspiBiller,
  "kaspi-qr": kaspiQr,
  "kaspi-smartpos": kaspiSmartpos,
  robokassa,
};
