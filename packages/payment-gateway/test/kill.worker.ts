// Run by kill.test.ts in a process of its own: one payment from create to recorded delivery, with a provider session, two
// transfers and a refund. The process kills itself at the kill point whose number it is given; without one it prints how
// many there are.
import { silentLogger } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import type { KyselyPlugin } from "kysely";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createBankProvider } from "./bank.ts";

const [databaseUrl = "", receiverUrl = "", bankUrl = "", merchant = "", killAt = "0"] = process.argv.slice(2);
const token = `token-of-${merchant}-0123456789`;
const database = await openDatabase(databaseUrl);

let point = 0;
const pass = (): void => {
  if (++point === Number(killAt)) process.kill(process.pid, "SIGKILL");
};

/** Before and after each SQL statement. */
const killPoints: KyselyPlugin = {
  transformQuery({ node }) {
    pass();
    return node;
  },
  async transformResult({ result }) {
    pass();
    return result;
  },
};
/** Before and after each request to the provider; those to receivers stand between the statements around them. */
const call: typeof fetch = async (input, init) => {
  pass();
  const response = await fetch(input, init);
  pass();
  return response;
};
const gateway = createPaymentGateway({
  storage: createPaymentGatewayStorage({ ...database, db: database.db.withPlugin(killPoints) }),
  providers: [createBankProvider(bankUrl, { call })],
  publicUrl: "https://pay.example",
  tokens: [{ merchant, token }],
  webhooks: { allowAddresses: ["127.0.0.1"] },
  logger: silentLogger,
});
const post = (path: string, body: string) =>
  gateway.handle(
    new Request(`https://pay.example${path}`, {
      method: "POST",
      headers: { "x-api-token": token, "idempotency-key": path.replaceAll("/", "-") },
      body,
    }),
  );

const created = await post(
  "/api/payment/init",
  JSON.stringify({ amount: 500, webhook_url: receiverUrl, webhook_secret: "test_secret_key" }),
);
const { data } = (await created.json()) as { readonly data: { readonly transaction_id: string } };
const transfer = (number: number, amountMinor: number) =>
  post(
    "/providers/bank/",
    JSON.stringify({
      id: data.transaction_id,
      transactionId: `${merchant}-${number}`,
      amountMinor: String(amountMinor),
    }),
  );
await transfer(1, 20_000);
await transfer(2, 30_000);
await gateway.work();
await post(`/api/payment/${data.transaction_id}/refund`, "");
await gateway.work();
await gateway.close();
await database.close();
process.stdout.write(String(point));
