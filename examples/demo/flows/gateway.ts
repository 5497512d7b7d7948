import { defineHandler } from "@orderbridge/core";
import { type Listening, listen } from "@orderbridge/core/testing";
import { verifyWebhook } from "@orderbridge/payment-gateway/webhooks";
import { check, eventually, type Flow, type FlowGroup, send } from "../flow.ts";
import { type RunningServer, startServer } from "../servers.ts";

const apiToken = "demo-token-for-the-shop-0001";
const webhookSecret = "whsec_hJgR7BzSZDPkRVwXjiTF6Ih9GUGx+OaGZqKE9LhcfVU=";

interface Received {
  readonly event: string;
  readonly transactionId: string;
  readonly verified: boolean;
  readonly answered: number;
}

/** Somebody's backend: fails as often as it is told to, then verifies and accepts. */
function createReceiver() {
  const received: Received[] = [];
  let failuresLeft = 0;
  return {
    received,
    failNext(times: number) {
      failuresLeft = times;
    },
    handle: defineHandler(({ headers }, body) => {
      const answered = failuresLeft > 0 ? 500 : 204;
      if (failuresLeft > 0) failuresLeft--;
      const { event, transaction_id } = JSON.parse(new TextDecoder().decode(body));
      const { ok } = verifyWebhook({ headers, body, secrets: [webhookSecret] });
      received.push({ event, transactionId: transaction_id, verified: ok, answered });
      return new Response(null, { status: answered });
    }),
  };
}

export async function createGatewayFlows(): Promise<FlowGroup> {
  const receiver = createReceiver();
  const receiverServer: Listening = await listen(receiver.handle);
  const server: RunningServer = await startServer("payment-gateway-fastify", {
    DATABASE_URL: "sqlite::memory:",
    API_TOKENS: `demo=${apiToken}`,
    ADMIN_PASSWORD: "demo-password-0001",
    SESSION_SECRET: "demo-session-secret-of-enough-length",
    PROVIDERS: "sandbox",
    WEBHOOK_ALLOW_ADDRESSES: "127.0.0.1",
    WEBHOOK_RETRY_DELAYS: "0.1,0.2,0.4",
    PUBLIC_URL: "http://127.0.0.1:4000",
  });
  const headers = { "x-api-token": apiToken };

  const create = async (amount: number, order: string) => {
    const { body } = await send("POST", `${server.url}/api/payment/init`, {
      headers,
      body: {
        amount,
        currency: "KZT",
        description: `Order ${order}`,
        webhook_url: `${receiverServer.url}/webhook`,
        webhook_secret: webhookSecret,
        metadata: { order_id: order },
      },
    });
    return body.data as { readonly transaction_id: string; readonly payment_url: string };
  };
  /** What the form on the pay page sends when a person clicks. */
  const click = (transactionId: string, action: string) =>
    fetch(`${server.url}/providers/sandbox/${transactionId}`, {
      method: "POST",
      body: new URLSearchParams({ action }),
      redirect: "manual",
    });
  const webhooks = (transactionId: string) =>
    receiver.received.filter((webhook) => webhook.transactionId === transactionId);
  const accepted = (transactionId: string) => webhooks(transactionId).filter(({ answered }) => answered === 204);

  const flow: Flow = {
    id: 6,
    async once(log) {
      receiver.failNext(2);
      const { transaction_id: id, payment_url } = await create(500, "TEST-001");
      const page = await fetch(`${server.url}${new URL(payment_url).pathname}`);
      const pageText = await page.text();
      log("payment of 500 ₸ created");
      await click(id, "pay");
      const received = await eventually(
        () => webhooks(id),
        (found) => found.length >= 3,
      );
      log(`receiver answered ${received.map(({ answered }) => answered).join(", ")}`);
      const { body } = await send("GET", `${server.url}/api/payment/${id}`, { headers });
      return [
        check("the pay page shows the amount", page.status === 200 && /500/.test(pageText), true),
        check(
          "the receiver was asked three times",
          received.map(({ answered }) => answered),
          [500, 500, 204],
        ),
        check(
          "every attempt was signed",
          received.every(({ verified }) => verified),
          true,
        ),
        check(
          "exactly one paid webhook was accepted",
          accepted(id).map(({ event }) => event),
          ["paid"],
        ),
        check("the payment is paid", body.data.status, "paid"),
        check("without a token nothing is told", (await send("GET", `${server.url}/api/payment/${id}`)).status, 401),
      ];
    },
    async tick(log) {
      const { transaction_id: id } = await create(990, `LIVE-${receiver.received.length}`);
      await click(id, "pay");
      await eventually(
        () => accepted(id).length,
        (count) => count > 0,
      );
      log("payment of 990 ₸ paid, webhook accepted");
    },
    figures: () => ({
      "webhooks received": receiver.received.length,
      verified: receiver.received.filter(({ verified }) => verified).length,
      accepted: receiver.received.filter(({ answered }) => answered === 204).length,
    }),
  };
  return {
    flows: [flow],
    async stop() {
      await server.stop();
      await receiverServer.close();
    },
  };
}
