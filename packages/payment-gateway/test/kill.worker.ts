// Run by kill.test.ts in a process of its own: one payment from create to recorded delivery. The process kills itself at
// the kill point whose number it is given; without one it prints how many there are.
import { silentLogger } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import type { KyselyPlugin } from "kysely";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";

const [databaseUrl = "", receiverUrl = "", killAt = "0"] = process.argv.slice(2);
const token = "shop-token-0123456789abcdef";
const database = await openDatabase(databaseUrl);
await createPaymentGatewayStorage(database).migrate();

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
const gateway = createPaymentGateway({
  storage: createPaymentGatewayStorage({ ...database, db: database.db.withPlugin(killPoints) }),
  providers: [createSandboxProvider()],
  publicUrl: "https://pay.example",
  tokens: [{ merchant: "shop", token }],
  webhooks: { allowAddresses: ["127.0.0.1"] },
  logger: silentLogger,
});
const post = (path: string, body: string | URLSearchParams) =>
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
await post(`/providers/sandbox/${data.transaction_id}`, new URLSearchParams({ action: "pay_part", amount: "200" }));
await post(`/providers/sandbox/${data.transaction_id}`, new URLSearchParams({ action: "pay" }));
await gateway.work();
await post(`/api/payment/${data.transaction_id}/refund`, "");
await gateway.work();
await gateway.close();
await database.close();
process.stdout.write(String(point));
