import { type Listening, listen } from "@orderbridge/core/testing";
import { createFakeRobokassa } from "@orderbridge/robokassa/testing";
import { check, type Flow, type FlowGroup, send } from "../flow.ts";
import { type RunningServer, startServer } from "../servers.ts";

const shop = {
  login: "demo-shop",
  password1: "live-one",
  password2: "live-two",
  testPassword1: "try-one",
  testPassword2: "try-two",
};

export async function createRobokassaFlows(): Promise<FlowGroup> {
  const fake = createFakeRobokassa(shop);
  const fakeServer: Listening = await listen(fake.handle);
  const server: RunningServer = await startServer("robokassa-express", {
    DATABASE_URL: "sqlite::memory:",
    ROBOKASSA_LOGIN: shop.login,
    ROBOKASSA_PASSWORD1: shop.password1,
    ROBOKASSA_PASSWORD2: shop.password2,
    ROBOKASSA_TEST_PASSWORD1: shop.testPassword1,
    ROBOKASSA_TEST_PASSWORD2: shop.testPassword2,
    ROBOKASSA_API_URL: fakeServer.url,
  });
  fake.configure({ resultUrl: `${server.url}/robokassa/result` });

  const createOrder = async (total: string, description: string) => {
    const { body } = await send("POST", `${server.url}/orders`, { body: { total, description } });
    return body as { readonly id: string; readonly robokassaInvId: string; readonly paymentUrl: string };
  };
  const readOrder = async (id: string) => (await send("GET", `${server.url}/orders/${id}`)).body;
  const paidOperations = () => fake.operations.filter(({ state }) => state === 100);

  const flow: Flow = {
    id: 5,
    async once(log) {
      const { id, robokassaInvId, paymentUrl } = await createOrder("1000.00", "Букет «Айгүл»");
      const page = await fetch(paymentUrl);
      const pageText = await page.text();
      log(`order of 1000.00 placed, InvId ${robokassaInvId}`);

      const forged = await fetch(`${server.url}/robokassa/result`, {
        method: "POST",
        body: new URLSearchParams({ OutSum: "1000.000000", InvId: robokassaInvId, SignatureValue: "0".repeat(32) }),
      });
      const afterForgery = await readOrder(id);
      log(`a forged notification got ${forged.status}`);

      const payment = await fake.pay({ url: paymentUrl });
      const paid = await readOrder(id);
      log(`paid: the server answered ${payment.delivery?.answer}`);
      const repeated = await fake.redeliver(robokassaInvId);
      const afterRepeat = await readOrder(id);
      const second = await fake.pay({ url: paymentUrl });
      return [
        check("the fake accepts the link and shows the sum", page.status === 200 && pageText.includes("1000.00"), true),
        check("a forged notification is refused", forged.status, 400),
        check("and changes nothing", [afterForgery.status, afterForgery.paidAt], ["new", null]),
        check("the notification is answered", payment.delivery?.answer, `OK${robokassaInvId}`),
        check("the fake counts it as delivered", payment.delivery?.accepted, true),
        check("the order is paid", paid.status, "paid"),
        check("a repeated notification is answered the same", repeated?.answer, `OK${robokassaInvId}`),
        check("and pays once", afterRepeat, paid),
        check("the link cannot be paid twice", second.errorCode, 40),
        check("one payment in the fake", paidOperations().length, 1),
      ];
    },
    async tick(log) {
      const total = `${(paidOperations().length + 1) * 250}.00`;
      const { robokassaInvId, paymentUrl } = await createOrder(total, "Розы, 15 шт.");
      const { delivery } = await fake.pay({ url: paymentUrl });
      log(`InvId ${robokassaInvId}, ${total} ₸: ${delivery?.answer}`);
    },
    figures: () => ({
      "payments in Robokassa": paidOperations().length,
      notifications: fake.deliveries.length,
      "answered OK": fake.deliveries.filter(({ accepted }) => accepted).length,
    }),
  };
  return {
    flows: [flow],
    async stop() {
      fake.close();
      await server.stop();
      await fakeServer.close();
    },
  };
}
