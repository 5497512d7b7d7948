// Ways to pay, each from its own variables, which are needed only where PROVIDERS names it.
import { existsSync, readFileSync } from "node:fs";
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
import { createKaspiQrProvider, createTlsFetch } from "@orderbridge/payment-gateway/providers/kaspi-qr";
import {
  createKaspiSmartposProvider,
  registerKaspiSmartpos,
} from "@orderbridge/payment-gateway/providers/kaspi-smartpos";
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

function kaspiQr(): Start {
  const values = {
    KASPI_QR_SCHEME: variables.withDefault(variables.oneOf("r1", "r2", "r3"), "r1"),
    KASPI_QR_API_URL: variables.origin("the host that Kaspi Pay named, e.g. https://mtokentest.kaspi.kz:8543"),
    KASPI_QR_API_KEY: variables.optional(variables.secret("the Api-Key that Kaspi Pay gave")),
    KASPI_QR_PFX: variables.optional(variables.text("the path of the client certificate with its key (PKCS #12)")),
    KASPI_QR_PFX_PASSWORD: variables.optional(variables.text("the password of that file")),
    KASPI_QR_ORGANIZATION_BIN: variables.optional(variables.id("the BIN of the organisation, 12 digits")),
    KASPI_QR_INVOICES: variables.flag(),
    KASPI_QR_DEVICE_ID: variables.text("the name of this till: Latin letters, digits, dash, underscore"),
    KASPI_QR_TRADE_POINT_ID: variables.text("the id of the trade point"),
    KASPI_QR_SHOW: variables.withDefault(variables.oneOf("link", "qr"), "link"),
  };
  const settings = configure(values, (given) => {
    const { KASPI_QR_SCHEME: scheme, KASPI_QR_ORGANIZATION_BIN: bin = "" } = given;
    const problems: string[] = [];
    if (scheme === "r1" && given.KASPI_QR_API_KEY === undefined) {
      problems.push("KASPI_QR_API_KEY is missing; KASPI_QR_SCHEME=r1 needs it");
    }
    if (scheme !== "r1" && !existsSync(given.KASPI_QR_PFX ?? "")) {
      problems.push(`KASPI_QR_PFX names no file; KASPI_QR_SCHEME=${scheme} needs the client certificate`);
    }
    if (scheme === "r3" && bin.length !== 12) {
      problems.push("KASPI_QR_ORGANIZATION_BIN must be 12 digits; KASPI_QR_SCHEME=r3 needs it");
    }
    if (scheme !== "r3" && given.KASPI_QR_INVOICES) problems.push("KASPI_QR_INVOICES=1 needs KASPI_QR_SCHEME=r3");
    if (!/^[\w-]+$/.test(given.KASPI_QR_DEVICE_ID)) {
      problems.push("KASPI_QR_DEVICE_ID may hold Latin letters, digits, dash and underscore only");
    }
    return problems;
  });
  const { KASPI_QR_PFX: pfx, KASPI_QR_PFX_PASSWORD: passphrase, KASPI_QR_ORGANIZATION_BIN: bin } = settings;
  const apiKey = settings.KASPI_QR_API_KEY;
  return ({ logger }) =>
    createKaspiQrProvider({
      scheme: settings.KASPI_QR_SCHEME,
      origin: settings.KASPI_QR_API_URL,
      remoteInvoices: settings.KASPI_QR_INVOICES,
      ...(apiKey === undefined ? {} : { apiKey }),
      ...(bin === undefined ? {} : { organizationBin: bin }),
      ...(pfx === undefined
        ? {}
        : { fetch: createTlsFetch({ pfx: readFileSync(pfx), ...(passphrase === undefined ? {} : { passphrase }) }) }),
      deviceId: settings.KASPI_QR_DEVICE_ID,
      tradePointId: settings.KASPI_QR_TRADE_POINT_ID,
      show: settings.KASPI_QR_SHOW,
      logger,
    });
}

/** Asks the terminal for tokens when there are none yet: somebody confirms that on its screen. */
function kaspiSmartpos(): Start {
  const settings = configure({
    KASPI_SMARTPOS_API_URL: variables.origin("the terminal, e.g. https://till.kaspipos.kz:8080"),
    KASPI_SMARTPOS_NAME: variables.text("what this till is called on the terminal"),
    KASPI_SMARTPOS_INSECURE: variables.flag(),
  });
  return ({ storage, logger }) => {
    const options = {
      origin: settings.KASPI_SMARTPOS_API_URL,
      name: settings.KASPI_SMARTPOS_NAME,
      storage,
      logger,
      ...(settings.KASPI_SMARTPOS_INSECURE ? { fetch: createTlsFetch({ insecure: true }) } : {}),
    };
    registerKaspiSmartpos(options).then(
      (state) => logger.info("the terminal knows this server", { state }),
      (error: unknown) => logger.error("the terminal did not register this server; look at its screen", { error }),
    );
    return createKaspiSmartposProvider(options);
  };
}

function robokassa(): Start {
  const shop = configure(robokassaVariables, robokassaProblems);
  const client = createRobokassa(robokassaOptions(shop));
  return () =>
    createRobokassaProvider({
      robokassa: client,
      currency: shop.ROBOKASSA_COUNTRY === "kz" ? "KZT" : "RUB",
      refunds: shop.ROBOKASSA_PASSWORD3 !== undefined,
      firstInvId: BigInt(shop.ROBOKASSA_FIRST_INV_ID),
    });
}

export const knownProviders: Readonly<Record<string, () => Start>> = {
  sandbox: () => () => createSandboxProvider(),
  "kaspi-biller": kaspiBiller,
  "kaspi-qr": kaspiQr,
  "kaspi-smartpos": kaspiSmartpos,
  robokassa,
};
