// Run by provider-kill.test.ts in a process of its own. It opens a payment, presses the button or refunds, and is killed by
// the other side once Kaspi has acted and before the answer arrives.
import { silentLogger } from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createPaymentGateway, type PaymentProvider } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createKaspiQrProvider } from "../src/providers/kaspi-qr.ts";
import { createKaspiSmartposProvider, registerKaspiSmartpos } from "../src/providers/kaspi-smartpos.ts";

const [databaseUrl = "", origin = "", name = "", action = "", id = ""] = process.argv.slice(2);
const database = await openDatabase(databaseUrl);
const terminal = {
  origin,
  name: "orderbridge",
  storage: createKyselyStorage({ db: database.db, dialect: database.dialect }),
};
if (name === "kaspi-smartpos") await registerKaspiSmartpos(terminal);
const provider: PaymentProvider =
  name === "kaspi-qr"
    ? createKaspiQrProvider({
        scheme: "r3",
        origin,
        organizationBin: "123456789012",
        deviceId: "till-1",
        tradePointId: "1001",
        remoteInvoices: true,
        fetch,
      })
    : createKaspiSmartposProvider(terminal);
const gateway = createPaymentGateway({
  storage: createPaymentGatewayStorage(database),
  providers: [provider],
  publicUrl: "https://pay.example",
  logger: silentLogger,
});
if (action === "refund") await gateway.payments.refund({ merchant: "shop", id, amountMinor: 40_000n });
else {
  await gateway.handle(
    new Request(`https://pay.example/providers/${name}/${id}`, {
      method: "POST",
      body: new URLSearchParams({ action, phone: "87071234567" }),
    }),
  );
}
process.stdout.write("done");
