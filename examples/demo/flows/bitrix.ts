import { setTimeout as wait } from "node:timers/promises";
import { createFakeBitrix, createFakeBitrixSite } from "@orderbridge/bitrix/testing";
import { listen } from "@orderbridge/core/testing";
import { check, eventually, type Flow, type FlowGroup, send } from "../flow.ts";
import { startServer } from "../servers.ts";

const webhookSecret = "demo-webhook-secret-0001";
const apiToken = "demo-api-token-0001";
const siteToken = "demo-site-token-0001";
const applicationToken = "demo-application-token-0001";
const productId = 668_826;
const paidStage = "PREPAYMENT_INVOICE";

export async function createBitrixFlows(): Promise<FlowGroup> {
  const site = createFakeBitrixSite({ webhookSecret, siteToken });
  const portal = createFakeBitrix({ applicationToken });
  const [siteServer, portalServer] = await Promise.all([listen(site.handle), listen(portal.handle)]);
  const server = await startServer("bitrix-sync-hono", {
    DATABASE_URL: "sqlite::memory:",
    WEBHOOK_SECRET: webhookSecret,
    API_TOKEN: apiToken,
    BITRIX_SITE_URL: siteServer.url,
    BITRIX_SITE_TOKEN: siteToken,
    BITRIX_WEBHOOK_URL: portal.webhookUrl(portalServer.url),
    BITRIX_APPLICATION_TOKEN: applicationToken,
    BITRIX_STAGE_MAP: JSON.stringify({
      new: "NEW",
      accepted: "PREPARATION",
      paid: paidStage,
      in_production: "EXECUTING",
      in_delivery: "FINAL_INVOICE",
      delivered: "WON",
      cancelled: "LOSE",
    }),
    BITRIX_PAID_STAGE_ID: paidStage,
  });
  site.setBackendUrl(server.url);
  portal.setEventUrl(`${server.url}/bitrix/events`);

  const headers = { authorization: `Bearer ${apiToken}` };
  const api = (method: string, path: string, body?: unknown) =>
    send(method, `${server.url}/api/v1${path}`, { headers, ...(body === undefined ? {} : { body }) });
  const createOrder = async (order: Readonly<Record<string, string>>) =>
    (await api("POST", "/orders", { total: "12500.00", ...order })).body as { readonly id: string };
  const readOrder = async (id: string) => (await api("GET", `/orders/${id}`)).body;
  const siteOrders: number[] = [];
  const addSiteOrder = async () => {
    const id = 123_456 + siteOrders.length;
    siteOrders.push(id);
    site.addOrder({ id, status: "N" });
    return { id, own: (await createOrder({ bitrix_order_id: String(id) })).id };
  };

  const statusFlow: Flow = {
    id: 2,
    async once(log) {
      const { id, own } = await addSiteOrder();
      const accepted = await site.changeOrder(id, { status: "AP" });
      const afterAccepted = await readOrder(own);
      const { body: history } = await api("GET", `/orders/${own}/history`);
      log(`order ${id} on the site: N to AP; here: ${afterAccepted.status}`);
      const wrong = await site.sendOrder({ order_id: id, status: "F" }, { secret: "wrong-secret" });
      await site.changeOrder(id, { status: "CO" });
      const stale = await site.sendOrder(accepted?.body ?? {});
      const afterStale = await readOrder(own);
      log("a forged and a stale webhook changed nothing");
      const unknown = await site.sendOrder({ order_id: 999_999, status: "AP" });
      const last = history.at(-1);
      return [
        check(
          "the webhook is answered",
          [accepted?.status, (accepted?.answer as { status?: string })?.status],
          [200, "success"],
        ),
        check("the order is accepted", afterAccepted.status, "accepted"),
        check("the history names Bitrix", [last?.from, last?.to, last?.changed_by], ["new", "accepted", "bitrix"]),
        check("a wrong secret gets 401", [wrong.status, wrong.answer], [401, { detail: "Invalid webhook secret" }]),
        check("a stale repeat is ignored", [stale.status, stale.answer], [200, { status: "ignored", reason: "stale" }]),
        check("and changes nothing", afterStale.status, "in_production"),
        check("an unknown order gets 404", [unknown.status, unknown.answer], [404, { detail: "Order not found" }]),
      ];
    },
    async tick(log) {
      const { id } = await addSiteOrder();
      const delivery = await site.changeOrder(id, { status: "AP" });
      log(`order ${id}: AP, answered ${delivery?.status}`);
    },
    figures: () => {
      const webhooks = site.deliveries.filter(({ kind }) => kind === "order");
      return {
        "orders on the site": siteOrders.length,
        webhooks: webhooks.length,
        "answered 200": webhooks.filter(({ status }) => status === 200).length,
      };
    },
  };

  const putPrice = (tiyn: number) => api("PUT", `/products/${productId}`, { price: tiyn });
  const sitePrice = () => site.product(productId)?.price;
  const productFlow: Flow = {
    id: 3,
    async once(log) {
      site.addProduct({ id: productId, name: "Эустомы", price: "4500.00" });
      await site.resendProduct(productId);
      await putPrice(500_000);
      const arrived = await eventually(sitePrice, (price) => price === "5000.00");
      log(`500000 tiyn here, ${arrived} ₸ on the site`);

      // A manager on the site is faster; his webhook is lost, so our next push meets his version.
      await site.changeProduct(productId, { price: "6000.00" }, { notify: false });
      await putPrice(550_000);
      const own = await eventually(
        async () => (await api("GET", `/products/${productId}`)).body.price,
        (price) => price === 600_000,
      );
      const { body: conflicts } = await api("GET", `/products/${productId}/conflicts`);
      log(`both changed at once: ${sitePrice()} ₸ won, ${conflicts.length} conflict logged`);
      return [
        check("the price arrives in tenge", arrived, "5000.00"),
        check("the site wins on the site", sitePrice(), "6000.00"),
        check("the site wins here", own, 600_000),
        check("the conflict is logged", conflicts.length, 1),
        check(
          "a stranger cannot change a price",
          (await send("PUT", `${server.url}/api/v1/products/${productId}`, { body: { price: 1 } })).status,
          401,
        ),
      ];
    },
    async tick(log) {
      const tiyn = 500_000 + Math.floor(performance.now() % 1000) * 100;
      const wanted = `${tiyn / 100}.00`;
      await putPrice(tiyn);
      const arrived = await eventually(sitePrice, (price) => price === wanted);
      log(`price ${tiyn} tiyn: ${arrived} ₸ on the site`);
    },
    figures: () => ({
      "price on the site": `${sitePrice()} ₸`,
      version: site.product(productId)?.version ?? 0,
      pushes: site.journal.entries.length,
    }),
  };

  const addPair = async () => {
    const deal = portal.addDeal({ title: "Заказ с сайта", stageId: "NEW" });
    return { dealId: deal.id, orderId: (await createOrder({ deal_id: String(deal.id) })).id };
  };
  const writesTo = (dealId: number) => portal.writes.filter(({ id }) => id === dealId).length;
  const dealFlow: Flow = {
    id: 4,
    async once(log) {
      const [won, paid] = [await addPair(), await addPair()];
      portal.moveDeal(won.dealId, "WON");
      const followed = await eventually(
        () => readOrder(won.orderId),
        ({ status }) => status === "delivered",
      );
      log(`deal ${won.dealId} was won: its order is ${followed.status}`);

      const startedAt = performance.now();
      await api("PUT", `/orders/${paid.orderId}`, { paid: true });
      const stage = await eventually(
        () => portal.deal(paid.dealId)?.stageId,
        (found) => found === paidStage,
      );
      log(`an order was paid: its deal moved after ${Math.round(performance.now() - startedAt)} ms`);
      // Our own writes come back as events; whoever answered them with a write would do so now.
      await portal.settled();
      await wait(500);
      await portal.settled();
      const paidOrder = await readOrder(paid.orderId);
      return [
        check("the order follows its deal", followed.status, "delivered"),
        check("the won deal was not written to", writesTo(won.dealId), 0),
        check("the deal follows the payment", stage, paidStage),
        check("with one write", writesTo(paid.dealId), 1),
        check("the order stays paid", paidOrder.paid_at !== null, true),
        check("the won deal stays won", portal.deal(won.dealId)?.stageId, "WON"),
      ];
    },
    async tick(log) {
      const { dealId, orderId } = await addPair();
      await api("PUT", `/orders/${orderId}`, { paid: true });
      const stage = await eventually(
        () => portal.deal(dealId)?.stageId,
        (found) => found === paidStage,
      );
      log(`order paid: deal ${dealId} is at ${stage}`);
    },
    figures: () => ({
      deals: portal.deals.length,
      "writes to deals": portal.writes.length,
      events: portal.events.length,
    }),
  };

  return {
    flows: [statusFlow, productFlow, dealFlow],
    async stop() {
      await server.stop();
      await Promise.all([siteServer.close(), portalServer.close()]);
    },
  };
}
